"""A statistic of xarray arrays as a lazy dataset: one coarse graph, any subset of samples, the bits of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from taba_core.errors import UsageError, unknown_name
from taba_core.stats.base import SAMPLE, Array, Block, Statistic
from taba_core.stats.inputs import function_name
from taba_core.stats.query.arguments import arranged, labels_of
from taba_core.stats.reduce import reduce_lazily
from taba_core.stats.resample import NUM_REPLICATES, estimates
from taba_core.stats.tree import CANONICAL_BLOCK, MAX_GROUPS, Reduced, fingerprint

if TYPE_CHECKING:
    import xarray as xr

_SAMPLES_AT_ONCE = 64


class Options(TypedDict, total=False):
    """Options of every query.

    - level: of the intervals, 0.95 unless given.
    - seed, num_replicates: of the Poisson bootstrap, 0 and 1000 unless given, as in a run.
    - max_groups: most jackknife groups, 20 unless given; each is a state in memory.
    """

    level: float
    seed: int
    num_replicates: int
    max_groups: int


@dataclass(frozen=True)
class _Chosen:
    level: float = 0.95
    seed: int = 0
    num_replicates: int = NUM_REPLICATES
    max_groups: int = MAX_GROUPS


def evaluate(
    statistic: Statistic,
    arrays: Mapping[str, xr.DataArray],
    dims: Mapping[str, tuple[str, ...]] | None = None,
    coords: Mapping[str, Any] | None = None,
    **options: Any,
) -> xr.Dataset:
    """Any statistic over the samples of arrays, as a lazy dataset of its values with their intervals.

    The selected samples are put in the order of their ids and cut into canonical blocks by their position among them:
    so `sample < 128` of a store of 256 gives the bits of a run with num_samples=128, and a class the bits of a
    reduction of the samples of that class. Bootstrap weights follow the sample ids, whatever was selected.

    Nothing is read before the result is computed. Then each task of the graph streams over its samples, so memory
    depends on the statistic and the size of the arrays' blocks, not on how large the arrays are.

    Args:
      statistic: what to compute.
      arrays: by the names of the statistic's inputs; their dimensions may be in any order. A dimension `sample` without
        a coordinate counts its samples from 0.
      dims: names of the dimensions of its values; `<value>_<axis>` unless given.
      coords: labels of these dimensions; those of the arguments unless given.
      options: see `Options`.

    Returns:
      For each value v: v, v_low and v_high (bounds of the interval; NaN where there is none). Attributes: statistic
      and its parameters, n, level, interval (bootstrap, jackknife or none), samples (their fingerprint).

    Raises:
      UsageError: arrays that are not what the statistic reads (`taba_core.stats.query.arguments`), or of different
        samples; repeated ids; no samples. An option that does not exist.
      WorkError, when it is computed: a sample holds values that are not finite, for instance one never written. Where
        there are too few samples for a value, that value is NaN.
    """
    import dask
    import dask.array
    import xarray as xr

    unknown = options.keys() - Options.__annotations__.keys()
    if unknown:
        raise unknown_name("option", min(unknown), Options.__annotations__)
    chosen = _Chosen(**options)
    ids, ordered = arranged(statistic, arrays)
    columns = {name: array.data for name, array in ordered.items()}
    reduction = reduce_lazily(
        Columns(columns),
        len(ids),
        {"s": statistic},
        samples_per_read=_samples_per_read(columns),
        max_groups=chosen.max_groups,
        sample_ids=ids,
    )
    values = dask.delayed(_values, pure=False)(reduction, chosen)  # type: ignore[attr-defined]
    variables = {}
    for name, shape in _shapes(statistic, columns).items():
        named = (dims or {}).get(name, tuple(f"{name}_{axis}" for axis in range(len(shape))))
        for suffix in ("", "_low", "_high") if statistic.resampling != "none" else ("",):
            lazy = dask.array.from_delayed(values[name + suffix], shape, np.float64)
            variables[name + suffix] = (named, lazy)
    used = {
        dim: size for names, lazy in variables.values() for dim, size in zip(names, lazy.shape, strict=True)
    }
    labels = labels_of(ordered, used) | {dim: of for dim, of in (coords or {}).items() if dim in used}
    return xr.Dataset(variables, labels, _attributes(statistic, ids, chosen.level))


@dataclass(frozen=True, eq=False)
class Columns:
    """Reads a range of samples of several arrays at once, each (n, ...) in numpy or Dask."""

    arrays: Mapping[str, Any]

    def __call__(self, start: int, stop: int, variables: tuple[str, ...]) -> Block:
        """Arrays of the samples at positions start..stop-1, and these positions under "sample"."""
        import dask

        parts = {name: self.arrays[name][start:stop] for name in variables}
        (read,) = dask.compute(parts, scheduler="sync")  # type: ignore[attr-defined]
        return {SAMPLE: np.arange(start, stop), **{name: np.asarray(part) for name, part in read.items()}}


def _samples_per_read(columns: Mapping[str, Any]) -> int:
    """Whole blocks of the arrays, so that none is read twice: a multiple of 16."""
    largest = max((max(array.chunks[0]) for array in columns.values() if hasattr(array, "chunks")), default=1)
    wanted = max(largest, _SAMPLES_AT_ONCE)
    return -(-wanted // CANONICAL_BLOCK) * CANONICAL_BLOCK


def _shapes(statistic: Statistic, columns: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of the values, from one made-up sample: they depend on the arrays' shapes only."""
    block: dict[str, Array] = {SAMPLE: np.zeros(1, dtype=np.int64)}
    for name, array in columns.items():
        fill = 1 / array.shape[-1] if array.ndim == 2 else 0  # class probabilities add up to 1
        block[name] = np.full((1, *array.shape[1:]), fill, dtype=array.dtype)
    try:
        with np.errstate(all="ignore"):
            values = statistic.summarise(statistic.partial(block))
    except UsageError as error:  # sizes that the statistic's parameters do not fit
        raise UsageError(f"{function_name(statistic)}: {error}") from None
    return {name: np.shape(value) for name, value in values.items()}


def _values(reduction: Mapping[str, Reduced], options: _Chosen) -> dict[str, Array]:
    """Values and bounds by name, float64."""
    found = estimates(reduction["s"], options.seed, num_replicates=options.num_replicates)
    out: dict[str, Array] = {}
    for name, estimate in found.items():
        low, high = estimate.interval(options.level)
        out |= {name: estimate.value, f"{name}_low": np.asarray(low), f"{name}_high": np.asarray(high)}
    return out


def _attributes(statistic: Statistic, ids: NDArray[np.int64], level: float) -> dict[str, Any]:
    plain = (str, int, float, bool, type(None), tuple)
    parameters = {f.name: getattr(statistic, f.name) for f in fields(statistic)}
    return {
        "statistic": type(statistic).__name__,
        **{name: value for name, value in parameters.items() if isinstance(value, plain)},
        "n": len(ids),
        "level": level,
        "interval": statistic.resampling,
        "samples": fingerprint(ids),
    }
