"""What a statistic reads, declared once: names, dimensions and types of its arrays, and the check of arrays against it.

A declaration serves blocks of NumPy arrays, whose axes have no names (`check_block`), and named arrays of xarray
(`taba_core.stats.query.arguments`). Values that are not finite are found where they are read, by sample.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from taba_core.errors import UsageError

SAMPLE = "sample"
ANY = "*"  # one dimension of any name
Values = Literal["real", "levels", "number", "mask"]
_KINDS: Mapping[Values, tuple[str, str]] = {
    "real": ("f", "floating-point numbers"),
    "levels": ("f", "floating-point numbers or 8-bit levels (uint8)"),
    "number": ("fiub", "real numbers"),
    "mask": ("fiub", "a mask of 0 and 1 or of booleans"),
}


@dataclass(frozen=True)
class Input:
    """One array that a statistic reads.

    - name: in a block, and of the argument of a query.
    - what: what it holds, with its article.
    - dims: dimensions after `sample`, in their order; `ANY` stands for one of any name.
    - more: whether any further dimensions may follow.
    - values: what its entries are; complex numbers, and integers where real numbers are meant, are refused.
    - grid: inputs of one grid agree in the size and the labels of every dimension that they share, and those with
      further dimensions agree in all of them.
    """

    name: str
    what: str
    dims: tuple[str, ...] = ()
    more: bool = False
    values: Values = "real"
    grid: str = "state"

    @property
    def expected(self) -> str:
        """What the array should be, for a message."""
        dims = ["any dimension" if dim == ANY else dim for dim in self.dims]
        named = ", ".join([SAMPLE, *dims, *(["and any others"] if self.more else [])])
        return f"{self.what} with dimensions ({named})"

    def check_dtype(self, function: str, dtype: Any) -> None:
        """Refuse (UsageError) entries of another type."""
        kinds, text = _KINDS[self.values]
        if dtype.kind in kinds or (self.values == "levels" and dtype == np.uint8):
            return
        raise UsageError(
            f"{function}: {self.name} has entries of type {dtype}; it takes {text}. Convert it first, for example with "
            f"{self.name}.astype('float64'), if its entries are such numbers."
        )


def state(name: str, *, values: Values = "real", grid: str = "state") -> Input:
    """Noise, a latent or an image, (n, C, H, W)."""
    return Input(name, "a state or an image", ("channel", "y", "x"), values=values, grid=grid)


def path(name: str) -> Input:
    """States or predictions of every step, (n, T, C, H, W)."""
    return Input(name, "the states or predictions of every step", ("step", "channel", "y", "x"))


def mask(name: str, *, grid: str = "state") -> Input:
    """The plain mask, (n, H, W)."""
    return Input(name, "the mask of plain pixels", ("y", "x"), values="mask", grid=grid)


def entries(name: str, *, values: Values = "real", grid: str = "state") -> Input:
    """Any number of entries for each sample, (n, ...)."""
    return Input(name, "an array", more=True, values=values, grid=grid)


def features(name: str, *, grid: str = "features") -> Input:
    """Features of every sample, (n, d) or (n, ...)."""
    return Input(name, "the features", (ANY,), more=True, grid=grid)


def number(name: str) -> Input:
    """One number for each sample, (n,)."""
    return Input(name, "one number for each sample", values="number")


class Reads:
    """A statistic that declares its inputs. One that names only its `variables` reads arrays of any dimensions."""

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The arrays that this statistic reads."""
        if type(self).variables is Reads.variables:
            raise TypeError(f"{type(self).__name__} declares no inputs; give it the property `inputs`.")
        return tuple(entries(name, values="number", grid=name) for name in self.variables)

    @property
    def variables(self) -> tuple[str, ...]:
        """Names that this statistic reads from a block, beside `sample`."""
        return tuple(one.name for one in self.inputs)


def function_name(statistic: Reads) -> str:
    """What messages call a statistic in a query: the function of `taba_core.stats.query`, or a user's own class."""
    kind = type(statistic)
    if not kind.__module__.startswith("taba_core."):
        return kind.__name__
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


def check_block(statistic: Reads, block: Mapping[str, Any]) -> None:
    """Refuse a block whose arrays are not what a statistic reads.

    Raises:
      UsageError: another number of axes, sizes that do not agree, an axis of size 0, or entries of another type.
    """
    function = type(statistic).__name__
    for one in statistic.inputs:
        array = np.asarray(block[one.name])
        axes = array.ndim - 1
        if axes < len(one.dims) or (axes > len(one.dims) and not one.more):
            raise UsageError(
                f"{function}: {one.name} has shape {array.shape}, where the first axis is the sample; it takes "
                f"{one.expected}. Give arrays with these axes in this order, each under its own name."
            )
        one.check_dtype(function, array.dtype)
    shapes = {one.name: np.shape(block[one.name])[1:] for one in statistic.inputs}
    check_sizes(function, statistic.inputs, {name: _named(shape) for name, shape in shapes.items()})


def _named(shape: tuple[int, ...]) -> tuple[tuple[str, int], ...]:
    return tuple((str(axis), size) for axis, size in enumerate(shape))


def check_sizes(
    function: str, inputs: Iterable[Input], sizes: Mapping[str, tuple[tuple[str, int], ...]]
) -> None:
    """Refuse arrays whose sizes do not agree.

    Args:
      function: what the message calls the statistic.
      inputs: the declarations.
      sizes: for each input its dimensions after `sample`, (name, size), in the order of the declaration.

    Raises:
      UsageError: a dimension of size 0, or inputs of one grid that differ.
    """
    known: dict[tuple[str, str], tuple[int, str]] = {}
    whole: dict[str, tuple[str, tuple[int, ...]]] = {}
    for one in inputs:
        shape = tuple(size for _, size in sizes[one.name])
        for dim, size in sizes[one.name]:
            if not size:
                where = "after the sample" if dim.isdigit() else f"along {dim}"
                raise UsageError(f"{function}: {one.name} is empty {where}; select at least one entry.")
        if one.more:
            other, wanted = whole.setdefault(one.grid, (one.name, shape))
            if wanted != shape:
                raise _differ(function, one.name, f"shape {shape} for a sample", other, str(wanted))
            continue
        for dim, size in zip(one.dims, shape, strict=True):
            wanted_size, other = known.setdefault((one.grid, dim), (size, one.name))
            if wanted_size != size and dim != ANY:
                raise _differ(function, one.name, f"size {size} along {dim}", other, str(wanted_size))


def _differ(function: str, name: str, own: str, other: str, wanted: str) -> UsageError:
    return UsageError(
        f"{function}: {name} has {own}, and {other} has {wanted}; they are compared entry by entry and must agree. "
        f"Select the same part of both."
    )
