"""What a statistic is: a small state that is updated by blocks of samples, merged, and summarised.

Laws every statistic obeys (tests/stats/test_stats_laws.py proves them for all of them):
  * the empty state is neutral: merge(init(), s) is s;
  * a state holds float64 and int64 arrays only (samples kept as they are: float32), so it can be stored, sent
    and merged later;
  * values do not merge: a summary in place of a state is refused, because the mean of the values of parts is
    not the value of the whole;
  * a block with a value that is not finite is refused, by sample and variable;
  * states merged over the fixed tree of canonical blocks (`tree.MergeTree`) have the same bits for any split.

Axes: n samples, C channels, H rows, W columns, T steps, R regions. A leading "..." is a replicate axis.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from taba_core.errors import UsageError, WorkError
from taba_core.stats.inputs import SAMPLE as SAMPLE
from taba_core.stats.inputs import Reads, check_block

Array = NDArray[Any]
State = dict[str, Array]
Block = Mapping[str, Array]
Weights = Callable[[Array], Array]
Resampling = Literal["jackknife", "bootstrap", "none"]

COUNT = "count"
CANONICAL_BLOCK = 16  # consecutive sample ids, the smallest unit of every reduction
SUM_CHUNK = 256  # rows summed at once; fixed, because it fixes the order of additions


def as_float64(values: Array) -> NDArray[np.float64]:
    """Copy to C-contiguous float64, so that sums do not depend on the memory layout a reader returned."""
    return np.ascontiguousarray(values, dtype=np.float64)


def flat(values: Array) -> NDArray[np.float64]:
    """All entries of a sample on one axis: (n, ...) -> (n, d), float64."""
    return as_float64(values).reshape(len(values), -1)


def check_finite(block: Block, variables: Iterable[str]) -> None:
    """Refuse NaN and infinite values: a statistic over them means nothing, and they have no distance to anything.

    Raises:
      WorkError: the first such sample and variable.
    """
    for name in variables:
        values = np.asarray(block[name])
        if values.dtype.kind != "f" or np.isfinite(values).all():
            continue
        bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
        raise WorkError(
            f"sample {int(np.asarray(block[SAMPLE])[np.argmax(bad)])} of {name} holds NaN or infinite values "
            f"({int(bad.sum())} such samples in this block): it was never written, or the network diverged. "
            f"Compute it again, or leave the sample out."
        )


def check_values(block: Block, variables: Iterable[str]) -> None:
    """Refuse a block that lacks a variable, misses samples of one, or holds values that are not finite.

    Raises:
      WorkError: naming the variable and the sample.
    """
    ids = np.asarray(block[SAMPLE])
    for name in variables:
        if name not in block:
            raise WorkError(
                f"samples {ids[0]} to {ids[-1]} come without {name}; give every variable asked for."
            )
        values = np.asarray(block[name])
        if len(values) != len(ids):
            raise WorkError(f"{name} has {len(values)} rows for {len(ids)} samples; give one row a sample.")
        check_finite(block, (name,))


def left_half(count: int) -> int:
    """Leaves in the left subtree of the fixed tree over `count` > 1 leaves: the largest power of two below it."""
    return 1 << (count - 1).bit_length() - 1


@dataclass(frozen=True)
class Statistic(Reads, abc.ABC):
    """A mergeable statistic. Fields are its parameters and the names of the variables it reads."""

    resampling: ClassVar[Resampling]
    mark: ClassVar[str] = ""
    """An entry that every state with samples has, and no summary."""
    whole_block: ClassVar[int] = CANONICAL_BLOCK
    """Up to so many samples, `partial` of a block is bit for bit the merge of `partial` of its canonical blocks."""

    @abc.abstractmethod
    def partial(self, block: Block) -> State:
        """State of one block alone."""

    @abc.abstractmethod
    def merge(self, a: State, b: State) -> State:
        """State of the samples of both; neither argument is changed."""

    @abc.abstractmethod
    def summarise(self, state: State) -> dict[str, Array]:
        """Named values of a state."""

    def init(self) -> State:
        """Return the empty state (no samples); it needs no shapes, hence no template."""
        return {}

    def update(self, state: State, block: Block) -> State:
        """Add one block of samples to a state.

        Raises:
          WorkError: the block lacks a variable, or holds values that are not finite.
          UsageError: an array of the block is not what the statistic reads.
        """
        check_values(block, self.variables)
        check_block(self, block)
        return self.merge(state, self.partial(block))

    def merge_tree(self, states: Sequence[State]) -> State:
        """Merge states 0..G-1 in pairs of neighbours, level by level, an odd last one moving up.

        Walked depth first, so that beside the states only log2 G merges are in memory.
        """
        if len(states) <= 1:
            return states[0] if states else self.init()
        half = left_half(len(states))
        return self.merge(self.merge_tree(states[:half]), self.merge_tree(states[half:]))

    def leave_one_out(self, groups: Sequence[State], outside: State | None = None) -> Iterator[State]:
        """State without group 0, without group 1, ...: the others merged anew (subtraction cancels digits).

        By halving, G log2 G merges and log2 G states in memory. `outside` is the state of what is in no case left out.
        """
        outside = self.init() if outside is None else outside
        if len(groups) == 1:
            yield outside
            return
        half = len(groups) // 2
        left, right = groups[:half], groups[half:]
        yield from self.leave_one_out(left, self.merge(outside, self.merge_tree(right)))
        yield from self.leave_one_out(right, self.merge(outside, self.merge_tree(left)))

    def summaries_without(self, groups: Sequence[State]) -> list[dict[str, Array]]:
        """Named values without group 0, without group 1, ...: the replicates of the jackknife."""
        return [self.summarise(state) for state in self.leave_one_out(groups)]

    def check_state(self, *states: State) -> None:
        """Refuse what is no state of this statistic: above all the values of one.

        Raises:
          UsageError: values, an estimate, or a reduction in place of a state.
        """
        for state in states:
            if not isinstance(state, dict) or (state and self.mark and self.mark not in state):
                held = ", ".join(state) if isinstance(state, Mapping) else type(state).__name__
                raise UsageError(
                    f"{type(self).__name__}: {held or 'nothing'} is no state and does not merge: the value of the "
                    f"whole is not the mean of the values of parts. Merge states (`partial`, `merge`, "
                    f"`MergeTree`), then summarise once."
                )


@dataclass(frozen=True)
class MomentStatistic(Statistic):
    """State = count, means and sums of squared deviations, merged by Chan's rule; size independent of n.

    Intervals come from the delete-a-group jackknife over subtrees of the merge tree.

    Subclasses write `partial` (with `count`) and `combine`, which may assume two states that are not empty.
    """

    resampling: ClassVar[Resampling] = "jackknife"
    mark: ClassVar[str] = COUNT

    @abc.abstractmethod
    def combine(self, a: State, b: State) -> State:
        """Chan's merge of two states with samples; the caller adds `count`."""

    def merge(self, a: State, b: State) -> State:
        """Merge (Chan, Golub, LeVeque 1979); an empty side returns the other unchanged.

        Raises:
          UsageError: a side is no state.
        """
        self.check_state(a, b)
        if not a or not b:
            return dict(a or b)
        return {COUNT: a[COUNT] + b[COUNT], **self.combine(a, b)}


def merge_means(a: State, b: State, name: str) -> tuple[Array, Array, float]:
    """Merge the mean `name` of two states.

    delta = mean_b - mean_a; mean = mean_a + delta n_b / n; a second moment grows by delta delta^T n_a n_b /
    n.

    Returns:
      mean, delta and n_a n_b / n.
    """
    n_a, n_b = float(a[COUNT]), float(b[COUNT])
    delta = b[name] - a[name]
    return a[name] + delta * (n_b / (n_a + n_b)), delta, n_a * n_b / (n_a + n_b)


@dataclass(frozen=True)
class SampleStatistic(Statistic):
    """State = one float64 row a sample, with its id; the value is any function of rows and weights.

    Intervals come from the Poisson bootstrap over samples, with weights keyed by (replicate, sample id).
    """

    resampling: ClassVar[Resampling] = "bootstrap"
    mark: ClassVar[str] = SAMPLE

    @abc.abstractmethod
    def rows(self, block: Block) -> dict[str, Array]:
        """Per-sample terms of a block, each (n, ...)."""

    @abc.abstractmethod
    def weighted(self, state: State, weights: Weights) -> dict[str, Array]:
        """Values for B weightings of the samples at once, each (B, ...).

        Args:
          state: the rows.
          weights: function of sample ids (m,) that returns their weights (B, m), whole numbers.
        """

    def partial(self, block: Block) -> State:
        """Rows of one block, with their sample ids."""
        rows = {name: as_float64(values) for name, values in self.rows(block).items()}
        return {SAMPLE: np.asarray(block[SAMPLE], dtype=np.int64), **rows}

    def merge(self, a: State, b: State) -> State:
        """Rows of both in the order of their sample ids.

        Raises:
          WorkError: a sample is in both.
          UsageError: a side is no state.
        """
        self.check_state(a, b)
        if not a or not b:
            return dict(a or b)
        ids = np.concatenate([a[SAMPLE], b[SAMPLE]])
        order = np.argsort(ids, kind="stable")
        twice = ids[order][1:][np.diff(ids[order]) == 0]
        if twice.size:
            raise WorkError(
                f"{type(self).__name__}: sample {twice[0]} is in both states ({twice.size} such samples); "
                f"a sample counts once. Merge states of disjoint samples."
            )
        return {name: np.concatenate([a[name], b[name]])[order] for name in a}

    def summarise(self, state: State) -> dict[str, Array]:
        """Values over all samples, each with weight one."""
        values = self.weighted(state, lambda ids: np.ones((1, len(ids))))
        return {name: np.asarray(value)[0] for name, value in values.items()}


@dataclass(frozen=True)
class RowStatistic(SampleStatistic):
    """A value that is a function of sums of terms over samples.

    Subclasses write `rows` and `summarise_sums`, and `terms` where what is summed is derived from what is
    kept.
    """

    def terms(self, rows: Mapping[str, Array]) -> Mapping[str, Array]:
        """What is summed over samples, each (n, ...); by default the rows themselves."""
        return rows

    @abc.abstractmethod
    def summarise_sums(self, sums: Mapping[str, Array], count: Array) -> dict[str, Array]:
        """Values from sums of terms (..., *term shape) over `count` (...,) samples, for any leading axes."""

    def weighted(self, state: State, weights: Weights) -> dict[str, Array]:
        """Values from weighted sums."""
        return self.summarise_sums(*self.weighted_sums(state, weights))

    def weighted_sums(self, state: State, weights: Weights) -> tuple[dict[str, Array], Array]:
        """Sums of terms for several weightings of the samples at once.

        Args:
          state: the rows.
          weights: function of sample ids (m,) that returns their weights (B, m).

        Returns:
          sums, each (B, *term shape), and the total weight (B,).
        """
        sums: dict[str, Array] = {}
        count: Array = np.zeros(())
        for start in range(0, len(state[SAMPLE]), SUM_CHUNK):
            part = {name: values[start : start + SUM_CHUNK] for name, values in state.items()}
            weight = as_float64(weights(part.pop(SAMPLE)))
            count = count + weight.sum(axis=1)
            for name, term in self.terms(part).items():
                term = as_float64(term)
                total = (weight @ term.reshape(len(term), -1)).reshape(len(weight), *term.shape[1:])
                sums[name] = sums[name] + total if name in sums else total
        return sums, count


def over(count: Array, like: Array) -> Array:
    """Append axes to a count (...,) so that it divides sums (..., *shape)."""
    count = np.asarray(count, dtype=np.float64)
    return count.reshape(count.shape + (1,) * (np.ndim(like) - count.ndim))


def ratio(numerator: Array, denominator: Array) -> Array:
    """Divide; nothing over nothing is NaN (an empty region has no mean), without a warning."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.true_divide(numerator, denominator))


def std_from_sums(count: Array, total: Array, squares: Array) -> Array:
    """Sample standard deviation sqrt((S2 - S1^2 / N) / (N - 1)) about the pooled mean; NaN for N < 2."""
    count = np.asarray(count, dtype=np.float64)
    deviations = np.maximum(squares - ratio(np.square(total), count), 0.0)
    return np.asarray(np.sqrt(ratio(deviations, np.where(count > 1, count - 1, np.nan))))


def mean_and_std(count: Array, total: Array, squares: Array) -> tuple[Array, Array]:
    """Mean and sample standard deviation from a count, a sum and a sum of squares, elementwise."""
    return ratio(total, count), std_from_sums(count, total, squares)
