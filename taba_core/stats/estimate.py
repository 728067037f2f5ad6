"""A value with resampling replicates; arithmetic keeps them paired, so differences get paired intervals."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import scipy
from numpy.typing import NDArray

from taba_core.errors import UsageError
from taba_core.stats.base import Array

Kind = Literal["bootstrap", "jackknife", "exact"]
Operation = Callable[[Any, Any], Any]


@dataclass(frozen=True, eq=False)
class Estimate:
    """A value of any shape, and the same value recomputed on resampled data.

    - value: the statistic over all samples, `shape`.
    - replicates: (R, *shape). bootstrap: one per set of Poisson weights; jackknife: one per left-out group.
    - kind: what the replicates are; "exact" has none (a definition, a constant) and goes with either kind.
    - n: number of samples; 0 for exact.
    - group_sizes: jackknife only, samples in each left-out group.
    - samples: which samples, as `tree.fingerprint` names them; "" where nobody said.

    `+ - * / abs log mean sum map` and indexing act on the value and on every replicate: replicate r of two
    estimates rests on the same resampling (weights are keyed by replicate and sample id, groups by sample
    id), so the interval of a difference or ratio of two statistics of the same samples is the paired one.
    Bootstrap estimates on other samples may be compared by - and /: the weights are keyed by sample id, so
    samples in both count as such. They cannot be added, because the mean of parts is not the value of the
    whole. Estimates of different kinds have no common replicates: combining them raises TypeError.
    """

    value: NDArray[np.float64]
    replicates: NDArray[np.float64]
    kind: Kind
    n: int
    group_sizes: tuple[int, ...] = ()
    samples: str = ""

    __array_ufunc__ = None  # numpy_array - estimate calls Estimate.__rsub__

    @classmethod
    def exact(cls, value: Any) -> Estimate:
        """A known value, without uncertainty."""
        array = np.asarray(value, dtype=np.float64)
        return cls(array, np.empty((0, *array.shape)), "exact", 0)

    @classmethod
    def stack(cls, estimates: Sequence[Estimate]) -> Estimate:
        """Estimates of one shape and of the same resampling as one, along a new first axis.

        Raises:
          UsageError, TypeError: they are no pairs, as in arithmetic. ValueError: none, or of several shapes.
        """
        first = estimates[0] if estimates else None
        if first is None:
            raise ValueError("stack() needs at least one estimate.")
        for other in estimates[1:]:
            _check_paired(first, other)
        value = np.stack([one.value for one in estimates])
        replicates = np.stack([one.replicates for one in estimates], axis=1)
        return replace(first, value=value, replicates=replicates)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value."""
        return self.value.shape

    def __float__(self) -> float:
        return float(self.value)

    def __len__(self) -> int:
        return len(self.value)

    # ------------------------------------------------------------------ arithmetic

    def __add__(self, other: Any) -> Estimate:
        if isinstance(other, Estimate) and _on_other_samples(self, other):
            raise UsageError(
                f"cannot add estimates of different samples (n={self.n} and n={other.n}): the mean of the values "
                f"of parts is not the value of the whole. Merge the states of the parts, or reduce all samples "
                f"at once. (- and / compare bootstrap estimates of different samples.)"
            )
        return self._combine(other, operator.add)

    def __sub__(self, other: Any) -> Estimate:
        return self._combine(other, operator.sub)

    def __mul__(self, other: Any) -> Estimate:
        return self._combine(other, operator.mul)

    def __truediv__(self, other: Any) -> Estimate:
        return self._combine(other, _divide)

    def __radd__(self, other: Any) -> Estimate:
        return self._combine(other, operator.add)

    def __rsub__(self, other: Any) -> Estimate:
        return self._combine(other, lambda a, b: b - a)

    def __rmul__(self, other: Any) -> Estimate:
        return self._combine(other, operator.mul)

    def __rtruediv__(self, other: Any) -> Estimate:
        return self._combine(other, lambda a, b: _divide(b, a))

    def __neg__(self) -> Estimate:
        return self._apply(np.negative)

    def __abs__(self) -> Estimate:
        return self._apply(np.abs)

    def __getitem__(self, index: Any) -> Estimate:
        index = index if isinstance(index, tuple) else (index,)
        return replace(
            self, value=np.asarray(self.value[index]), replicates=self.replicates[(slice(None), *index)]
        )

    def log(self) -> Estimate:
        """Natural logarithm."""
        return self._apply(_log)

    def mean(self, axis: int | tuple[int, ...] | None = None) -> Estimate:
        """Mean over axes of the value (None: over all)."""
        axes = self._axes(axis)
        return self._apply(lambda a, shift=0: a.mean(axis=tuple(x + shift for x in axes)), shifted=True)

    def sum(self, axis: int | tuple[int, ...] | None = None) -> Estimate:
        """Sum over axes of the value (None: over all)."""
        axes = self._axes(axis)
        return self._apply(lambda a, shift=0: a.sum(axis=tuple(x + shift for x in axes)), shifted=True)

    def map(self, function: Callable[[Array], Any]) -> Estimate:
        """Any function of the value, applied to the value and to each replicate alone."""
        value = np.asarray(function(self.value), dtype=np.float64)
        replicates = [np.asarray(function(one), dtype=np.float64) for one in self.replicates]
        return replace(
            self, value=value, replicates=np.stack(replicates) if replicates else np.empty((0, *value.shape))
        )

    # ------------------------------------------------------------------ uncertainty

    @property
    def standard_error(self) -> NDArray[np.float64]:
        """Standard error, `shape`; 0 for exact, NaN where there are fewer than two replicates.

        Bootstrap: standard deviation of the replicates. Jackknife, G groups of m_j of n samples, h_j = n /
        m_j: SE^2 = (1/G) sum_j (p_j - p)^2 / (h_j - 1), pseudo-values p_j = h_j theta - (h_j - 1) theta_j and
        p = G theta - sum_j (1 - m_j/n) theta_j  (Busing, Meijer, van der Leeden 1999). For equal groups this
        is sqrt((G - 1)/G sum_j (theta_j - mean)^2).
        """
        if self.kind == "exact":
            return np.zeros(self.shape)
        if len(self.replicates) < 2:
            return np.full(self.shape, np.nan)
        if self.kind == "bootstrap":
            usable = np.isfinite(self.replicates).sum(axis=0) > 1
            kept = np.where(usable & np.isfinite(self.replicates), self.replicates, np.nan)
            kept = np.where(usable, kept, 0.0)
            return np.where(usable, np.nanstd(kept, axis=0, ddof=1), np.nan)
        return self._jackknife_error()

    def interval(self, level: float = 0.95) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower and upper bound of the confidence interval, each `shape`.

        Bootstrap: percentile interval, the (1 -+ level)/2 quantiles of the replicates; it respects bounds and
        monotone transformations of the statistic. Replicates that are NaN (no sample of a region was drawn)
        are left out. Jackknife: value -+ t(G - 1) SE, centred at the value. Exact: the value twice.

        Raises:
          UsageError: level outside (0, 1).
        """
        if not 0 < level < 1:
            raise UsageError(
                f"level={level} is no confidence level; use a number between 0 and 1, such as 0.95."
            )
        if self.kind == "bootstrap" and len(self.replicates):
            return self._percentiles(level)
        if self.kind == "exact":
            return self.value, self.value
        degrees = max(len(self.replicates) - 1, 1)
        reach = scipy.special.stdtrit(degrees, 0.5 + level / 2) * self.standard_error
        return self.value - reach, self.value + reach

    # ------------------------------------------------------------------ internals

    def _percentiles(self, level: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        missing = np.isnan(self.replicates)
        if not missing.any():
            low, high = np.quantile(self.replicates, [(1 - level) / 2, (1 + level) / 2], axis=0)
            return low, high
        never = missing.all(axis=0)
        kept = np.where(never, 0.0, self.replicates)
        low, high = np.nanquantile(kept, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return np.where(never, np.nan, low), np.where(never, np.nan, high)

    def _jackknife_error(self) -> NDArray[np.float64]:
        sizes = np.asarray(self.group_sizes, dtype=np.float64).reshape(-1, *(1,) * self.value.ndim)
        h, groups = sizes.sum() / sizes, len(sizes)
        theta_j, theta = self.replicates, self.value
        pooled = groups * theta - ((1 - 1 / h) * theta_j).sum(axis=0)
        pseudo = h * theta - (h - 1) * theta_j
        return np.asarray(np.sqrt((np.square(pseudo - pooled) / (h - 1)).mean(axis=0)))

    def _axes(self, axis: int | tuple[int, ...] | None) -> tuple[int, ...]:
        every = range(self.value.ndim)
        if axis is None:
            return tuple(every)
        return tuple(every[x] for x in (axis if isinstance(axis, tuple) else (axis,)))

    def _apply(self, function: Callable[..., Any], *, shifted: bool = False) -> Estimate:
        replicates = function(self.replicates, 1) if shifted else function(self.replicates)
        return replace(self, value=np.asarray(function(self.value)), replicates=np.asarray(replicates))

    def _combine(self, other: Any, operation: Operation) -> Estimate:
        if not isinstance(other, Estimate):
            other = Estimate.exact(other)
        value = np.asarray(operation(self.value, other.value))
        sides = [side for side in (self, other) if side.kind != "exact"]
        if not sides:
            return Estimate.exact(value)
        if len(sides) == 2:
            _check_paired(*sides)
        pairs = [_aligned(side, value.ndim) for side in (self, other)]
        replicates = np.asarray(operation(*pairs))
        n = min(side.n for side in sides)
        samples = "+".join(dict.fromkeys(side.samples for side in sides if side.samples))
        return Estimate(value, replicates, sides[0].kind, n, sides[0].group_sizes, samples)


def _aligned(side: Estimate, ndim: int) -> Array:
    """Replicates with as many value axes as the result, so that the replicate axis stays first."""
    if side.kind == "exact":
        return side.value
    shape = side.replicates.shape
    return side.replicates.reshape(shape[0], *(1,) * (ndim - side.value.ndim), *shape[1:])


def _on_other_samples(a: Estimate, b: Estimate) -> bool:
    return bool(a.samples and b.samples and a.samples != b.samples)


def _check_paired(a: Estimate, b: Estimate) -> None:
    if a.kind != b.kind:
        raise TypeError(
            f"cannot combine a {a.kind} estimate with a {b.kind} estimate: their replicates are no pairs. "
            f"Compare their intervals, or compute both with the same resampling."
        )
    if len(a.replicates) != len(b.replicates) or a.group_sizes != b.group_sizes:
        raise UsageError(
            f"cannot pair {len(a.replicates)} with {len(b.replicates)} {a.kind} replicates "
            f"(n={a.n} and n={b.n}); paired estimates need the same samples and as many replicates."
        )
    if a.kind == "jackknife" and _on_other_samples(a, b):
        raise UsageError(
            f"cannot pair jackknife estimates of different samples (n={a.n} and n={b.n}): their left-out groups "
            f"are not the same. Compare their intervals."
        )


def _divide(a: Array, b: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.true_divide(a, b))


def _log(a: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log(a))
