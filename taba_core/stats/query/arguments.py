"""The check of the arguments of a query, and their common arrangement: samples by ascending id, axes as declared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from taba_core.errors import UsageError
from taba_core.stats.inputs import ANY, SAMPLE, Input, Reads, check_sizes, function_name

if TYPE_CHECKING:
    import xarray as xr

_ORDER = ("sample", "step", "channel", "rgb", "y", "pixel_y", "x", "pixel_x")
# Decoded images have dimensions of their own in a store, because a latent has fewer positions.
_SAME_AS = {"rgb": "channel", "pixel_y": "y", "pixel_x": "x"}
_ASCENDING = ("step", "weight")


def arranged(
    statistic: Reads, arrays: Mapping[str, xr.DataArray]
) -> tuple[NDArray[np.int64], dict[str, xr.DataArray]]:
    """Ascending ids of the samples, and the arrays in that order with their axes as the statistic declares them.

    A dimension `sample` without a coordinate counts its samples from 0. Nothing is read.

    Args:
      statistic: whose inputs the arrays are.
      arrays: by the names of the inputs.

    Raises:
      UsageError: an array is missing, is no named array, or has other dimensions, sizes, labels, samples or entries
        than the statistic reads; the message names the function and the argument.
    """
    function = function_name(statistic)
    inputs = statistic.inputs
    _check_names(function, inputs, arrays)
    for one in inputs:
        _check_named_array(function, one, arrays[one.name])
    for one in inputs:
        _check_dims(function, one, inputs, arrays)
        one.check_dtype(function, arrays[one.name].dtype)
    ids = _common_ids(function, inputs, arrays)
    ordered: dict[str, xr.DataArray] = {}
    first_of_grid: dict[str, tuple[str, tuple[Any, ...]]] = {}
    for one in inputs:
        array = arrays[one.name].transpose(*_axes(one, arrays[one.name]))
        if one.more:
            first, dims = first_of_grid.setdefault(one.grid, (one.name, array.dims))
            _check_same_dims(function, one, array.dims, first, dims)
            array = array.transpose(*dims)
        ordered[one.name] = array
    check_sizes(function, inputs, {name: _sizes(array) for name, array in ordered.items()})
    _check_labels(function, inputs, ordered)
    order = np.argsort(ids, kind="stable")
    if np.array_equal(order, np.arange(len(ids))):
        return ids, ordered
    return ids[order], {name: array.isel({SAMPLE: order}) for name, array in ordered.items()}


def labels_of(arrays: Mapping[str, xr.DataArray], sizes: Mapping[str, int]) -> dict[str, Any]:
    """Labels of those dimensions of a result that an argument has, with as many entries."""
    return {
        str(dim): array[dim].values
        for array in arrays.values()
        for dim in array.dims
        if dim in array.coords and sizes.get(str(dim)) == array.sizes[dim]
    }


def _check_names(function: str, inputs: Sequence[Input], arrays: Mapping[str, Any]) -> None:
    wanted = [one.name for one in inputs]
    missing = [name for name in wanted if name not in arrays]
    unknown = [name for name in arrays if name not in wanted]
    if missing or unknown:
        raise UsageError(
            f"{function}: it takes the arrays {', '.join(wanted)}; "
            + (f"{', '.join(missing)} is missing" if missing else f"{', '.join(unknown)} is not one of them")
            + f". Pass {', '.join(f'{name}=...' for name in wanted)}."
        )


def _check_named_array(function: str, one: Input, array: Any) -> None:
    import xarray as xr

    if isinstance(array, xr.DataArray):
        return
    if isinstance(array, xr.Dataset | xr.DataTree):
        names = ", ".join(map(str, array.data_vars)) or "no variables"
        given = f"a {type(array).__name__} with {names}"
        way = f'Choose one of its variables, as in {one.name}=dataset["{next(iter(array.data_vars), one.name)}"].'
    elif isinstance(array, np.ndarray):
        given = f"a NumPy array of shape {array.shape} and type {array.dtype}, whose axes have no names"
        dims = ", ".join(f'"{dim}"' for dim in (SAMPLE, *(d if d != ANY else "feature" for d in one.dims)))
        way = f"Name them: xarray.DataArray({one.name}, dims=({dims}))."
    else:
        given, way = (
            f"a value of type {type(array).__name__}",
            "Pass a variable of a store or an xarray.DataArray.",
        )
    raise UsageError(
        f"{function}: {one.name} is {given}; it takes {one.expected}, an xarray.DataArray. {way}"
    )


def _canonical(dims: Sequence[Any]) -> list[str]:
    return [_SAME_AS.get(str(dim), str(dim)) for dim in dims]


def _fits(one: Input, array: xr.DataArray) -> bool:
    dims = _canonical(array.dims)
    named = [SAMPLE, *(dim for dim in one.dims if dim != ANY)]
    rest = [dim for dim in dims if dim not in named]
    wild = one.dims.count(ANY)
    enough = len(rest) >= wild if one.more else len(rest) == wild
    return len(set(dims)) == len(dims) and set(named) <= set(dims) and enough


def _check_dims(
    function: str, one: Input, inputs: Sequence[Input], arrays: Mapping[str, xr.DataArray]
) -> None:
    array = arrays[one.name]
    if _fits(one, array):
        return
    dims = _canonical(array.dims)
    named = (SAMPLE, *(dim for dim in one.dims if dim != ANY))
    missing = [dim for dim in named if dim not in dims]
    extra = [str(dim) for dim in array.dims if _SAME_AS.get(str(dim), str(dim)) not in named]
    ways = []
    swapped = next(
        (
            other.name
            for other in inputs
            if _fits(one, arrays[other.name]) and not _fits(other, arrays[other.name])
        ),
        "",
    )
    if swapped:
        ways.append(
            f"{swapped} has these dimensions: are the arguments in another order? Pass them by name, as in "
            f"{one.name}=..., {swapped}=..."
        )
    if extra and not one.more and ANY not in one.dims:
        ways.append(f"Select one entry of {', '.join(extra)}, as in {one.name}.isel({extra[0]}=0)")
    if missing or not ways:
        what = f"the missing dimension {', '.join(missing)}" if missing else "these dimensions"
        ways.append(f"Give an array with {what}, or rename its own, as in {one.name}.rename(...)")
    sizes = ", ".join(f"{dim}: {size}" for dim, size in array.sizes.items())
    raise UsageError(
        f"{function}: {one.name} has the dimensions ({sizes}) and entries of type {array.dtype}; it takes "
        f"{one.expected}. {'. '.join(ways)}."
    )


def _axes(one: Input, array: xr.DataArray) -> list[Any]:
    """The dimensions of an array in the order declared, those of any name in the order of the schema."""
    if not one.more and ANY not in one.dims:
        by_name = dict(zip(_canonical(array.dims), array.dims, strict=True))
        return [by_name[dim] for dim in (SAMPLE, *one.dims)]
    known = [dim for dim in _ORDER if dim in array.dims]
    return [*known, *(dim for dim in array.dims if dim not in known)]


def _check_same_dims(
    function: str, one: Input, dims: tuple[Any, ...], first: str, wanted: tuple[Any, ...]
) -> None:
    if set(dims) != set(wanted):
        raise UsageError(
            f"{function}: {one.name} has the dimensions ({', '.join(map(str, dims))}), and {first} "
            f"({', '.join(map(str, wanted))}); they are compared entry by entry. Rename or select dimensions of "
            f"one of the two until they are the same."
        )


def _common_ids(
    function: str, inputs: Sequence[Input], arrays: Mapping[str, xr.DataArray]
) -> NDArray[np.int64]:
    first = inputs[0].name
    wanted = sample_ids(function, first, arrays[first])
    for one in inputs[1:]:
        own = sample_ids(function, one.name, arrays[one.name])
        if not np.array_equal(own, wanted):
            raise UsageError(
                f"{function}: {one.name} holds other samples than {first} ({_shown(own)}, and {_shown(wanted)}); they "
                f"are paired by their ids. Select the same samples of both, in the same order, for example with "
                f"{one.name}.sel(sample={first}.sample)."
            )
    return wanted


def sample_ids(function: str, name: str, array: xr.DataArray) -> NDArray[np.int64]:
    """Ids of the samples of an array, each once, in its own order.

    Raises:
      UsageError: no samples, ids that are no whole numbers, or an id that comes twice.
    """
    if not array.sizes[SAMPLE]:
        raise UsageError(f"{function}: {name} holds no samples; nothing to reduce. Select at least one.")
    values = np.asarray(array[SAMPLE].values)
    if values.dtype.kind not in "iu":
        raise UsageError(
            f"{function}: the coordinate sample of {name} holds values of type {values.dtype}; sample ids are whole "
            f"numbers. Give it ids, as in {name}.assign_coords(sample=range(n))."
        )
    ids = values.astype(np.int64)
    unique, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise UsageError(
            f"{function}: sample {unique[counts > 1][0]} of {name} was selected twice; a sample counts once. Drop the "
            f'repeated ones, as in {name}.drop_duplicates("sample").'
        )
    return ids


def _shown(ids: NDArray[np.int64]) -> str:
    first = ", ".join(map(str, ids[:4])) + (", ..." if len(ids) > 4 else "")
    return f"{len(ids)} samples: {first}"


def _sizes(array: xr.DataArray) -> tuple[tuple[str, int], ...]:
    return tuple((str(dim), int(size)) for dim, size in array.sizes.items() if dim != SAMPLE)


def _check_labels(function: str, inputs: Sequence[Input], arrays: Mapping[str, xr.DataArray]) -> None:
    """Refuse steps that do not ascend, and labels of a shared dimension that differ between arrays of one grid."""
    known: dict[tuple[str, str], tuple[str, Any]] = {}
    for one in inputs:
        array = arrays[one.name]
        for dim in array.dims[1:]:
            if dim not in array.coords:
                continue
            labels = np.asarray(array[dim].values)
            if dim in _ASCENDING and (len(labels) > 1 and not np.all(labels[1:] > labels[:-1])):
                raise UsageError(
                    f"{function}: {dim} of {one.name} runs from {labels[0]} to {labels[-1]} and does not ascend "
                    f'everywhere; its order has a meaning. Sort it: {one.name}.sortby("{dim}").'
                )
            key = (one.grid, _canonical([dim])[0])
            other, wanted = known.setdefault(key, (one.name, labels))
            if not np.array_equal(labels, wanted):
                raise UsageError(
                    f"{function}: {dim} of {one.name} has other labels than that of {other} ({labels[0]} to "
                    f"{labels[-1]}, and {wanted[0]} to {wanted[-1]}); they are compared entry by entry. Put both in "
                    f'one order, as in {one.name}.sortby("{dim}"), and select the same entries of both.'
                )
