"""Means and co-moments of features over samples: what correlations, Fréchet distances and alignments share."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from taba_core.stats.base import COUNT, Array, Block, MomentStatistic, State, left_half, merge_means

SAMPLES_PER_PRODUCT = 512
ROWS = "rows"
Part = tuple[int, Array, Array]
"""Of one group: the number of samples, their mean (p,), their co-moments (p, p)."""


class Room:
    """Arrays that are used again and again: a processor spends more time on fresh memory than on small products."""

    def __init__(self) -> None:
        self._held: dict[str, Array] = {}

    def array(self, name: str, shape: tuple[int, ...], kind: DTypeLike) -> Array:
        """The array of this name, with whatever was in it; a new one if its shape or its type is another."""
        held = self._held.get(name)
        if held is None or held.shape != shape or held.dtype != kind:
            held = self._held[name] = np.empty(shape, kind)
        return held


@dataclass(frozen=True)
class CoMomentStatistic(MomentStatistic):
    """Mean and co-moments M = sum (f - mean)(f - mean)^T of G groups of p features, over samples.

    Few samples are kept as they are (`rows`), until they fill a matrix product; then the state is G (p + p^2)
    float64 numbers, whatever n is. Which form a state has follows from its place in the merge tree alone, so
    the bits do not depend on the split.
    """

    product: ClassVar[DTypeLike] = np.float64
    """Type in which the deviations of up to `rows_kept` samples from their mean are multiplied."""
    whole_block: ClassVar[int] = SAMPLES_PER_PRODUCT

    @abc.abstractmethod
    def features(self, block: Block) -> NDArray[np.floating]:
        """Features of the samples of a block, (n, ...), in any layout that `groups` cuts."""

    @abc.abstractmethod
    def groups(self, rows: Array) -> list[Array]:
        """Views of features (n, ...), one a group; each (n, ...) with p entries a sample."""

    def rows_kept(self, num_features: int) -> int:
        """Fewer samples than this are kept as rows."""
        return SAMPLES_PER_PRODUCT

    def partial(self, block: Block) -> State:
        """Features of a block."""
        rows = self.features(block)
        return self.settled({COUNT: np.asarray(len(rows), dtype=np.int64), ROWS: rows})

    def combine(self, a: State, b: State) -> State:
        """Chan's rule per group: M = M_a + M_b + delta delta^T n_a n_b / n."""
        if ROWS in a and ROWS in b:
            return self.settled({ROWS: np.concatenate([a[ROWS], b[ROWS]])})
        a, b = {**a, **self.moments(a)}, {**b, **self.moments(b)}
        mean, delta, weight = merge_means(a, b, "mean")
        comoment, step = np.empty_like(a["comoment"]), np.empty(a["comoment"].shape[1:])
        for group, shift in enumerate(delta):  # one at a time: a core's cache holds it
            np.add(a["comoment"][group], b["comoment"][group], out=comoment[group])
            np.multiply(shift[:, None], weight * shift, out=step)
            comoment[group] += step
        return {"mean": mean, "comoment": comoment}

    def merge_tree(self, states: Sequence[State]) -> State:
        """The same bits as merging whole states, group after group: what is half merged never leaves the cache."""
        # States that are computed when they are looked at are not all looked at together.
        if len(states) < 3 or not isinstance(states, list | tuple) or any(ROWS in state for state in states):
            return super().merge_tree(states)
        mean, comoment = np.empty_like(states[0]["mean"]), np.empty_like(states[0]["comoment"])
        for group in range(len(mean)):
            _, mean[group], comoment[group] = merge_parts([self.part(state, group) for state in states])
        count = sum(int(state[COUNT]) for state in states)
        return {COUNT: np.asarray(count, dtype=np.int64), "mean": mean, "comoment": comoment}

    def settled(self, state: State) -> State:
        """The state itself, or its moments if it has rows enough."""
        rows = state[ROWS]
        if len(rows) < self.rows_kept(math.prod(self.groups(rows)[0].shape[1:])):
            return state
        return {**{k: v for k, v in state.items() if k != ROWS}, **self.moments(state)}

    def moments(self, state: State) -> State:
        """Mean (G, p) and co-moments (G, p, p) of a state in either form, float64."""
        if ROWS not in state:
            return {"mean": state["mean"], "comoment": state["comoment"]}
        num_groups, features = self.shape(state)
        mean, comoment = np.empty((num_groups, features)), np.empty((num_groups, features, features))
        room = Room()
        for group, out in enumerate(comoment):  # one at a time: a core's cache holds it
            mean[group] = self.part(state, group, out, room)[1]
        return {"mean": mean, "comoment": comoment}

    def shape(self, state: State) -> tuple[int, int]:
        """(G, p) of a state with samples."""
        if ROWS not in state:
            return len(state["mean"]), len(state["mean"][0])
        groups = self.groups(state[ROWS])
        return len(groups), math.prod(groups[0].shape[1:])

    def part(self, state: State, group: int, out: Array | None = None, room: Room | None = None) -> Part:
        """Count, mean (p,) and co-moments (p, p) of one group, the bits of `moments`.

        Args:
          out: where the co-moments are put if they have to be made; a new array if None.
          room: for what is made on the way.
        """
        if ROWS not in state:
            return int(state[COUNT]), state["mean"][group], state["comoment"][group]
        rows = self.groups(state[ROWS])[group]
        room, n, features = room or Room(), len(rows), math.prod(rows.shape[1:])
        # Rows of the product's own type are subtracted in it: rounding the mean shifts all deviations alike.
        deviations = room.array("deviations", (n, features), np.result_type(rows.dtype, self.product))
        deviations.reshape(rows.shape)[...] = rows
        mean = deviations.mean(axis=0, dtype=np.float64)
        deviations -= mean.astype(deviations.dtype)
        factor = deviations.astype(self.product, copy=False)
        product = room.array("product", (features, features), self.product)
        comoment = np.empty((features, features)) if out is None else out
        comoment[...] = np.matmul(factor.T, factor, out=product)
        return n, mean, comoment

    def covariance(self, state: State) -> Array:
        """Sample covariances M / (n - 1), (G, p, p); NaN for n < 2."""
        n = int(state[COUNT])
        return np.asarray(self.moments(state)["comoment"] / (n - 1 if n > 1 else np.nan))


def merge_parts(parts: Sequence[Part]) -> Part:
    """Several parts of one group merged over the fixed tree by Chan's rule."""
    if len(parts) == 1:
        return parts[0]
    half = left_half(len(parts))
    return _merged(merge_parts(parts[:half]), merge_parts(parts[half:]))


class OthersMerged:
    """Of the states of two parts or more: the others merged, without part 0, without part 1, ...; group after group.

    Each is the merge of what comes before and of what comes after. All groups are computed in the same 2 G + 2 arrays
    (p, p).
    """

    def __init__(self, statistic: CoMomentStatistic, states: Sequence[State]) -> None:
        self._statistic, self._states, self._room = statistic, states, Room()
        _, features = statistic.shape(states[0])
        self._parts, self._suffixes = np.empty((2, len(states), features, features))
        self._prefix, self._step = np.empty((2, features, features))

    def of(self, group: int) -> Iterator[Part]:
        """Of one group. The co-moments are good until the next is asked for."""
        parts = [
            self._statistic.part(state, group, out, self._room)
            for state, out in zip(self._states, self._parts, strict=True)
        ]
        suffixes = [parts[-1]]  # of the last part, the last two, ...
        for part, out in zip(parts[-2:0:-1], self._suffixes[1:], strict=False):
            suffixes.append(_merged(part, suffixes[-1], out, self._step))
        yield suffixes.pop()
        prefix = parts[0]
        for part in parts[1:-1]:
            yield _merged(prefix, suffixes.pop(), self._suffixes[0], self._step)
            prefix = _merged(prefix, part, self._prefix, self._step)
        yield prefix


def _merged(a: Part, b: Part, out: Array | None = None, step: Array | None = None) -> Part:
    """Chan's rule; the co-moments are put into `out`, which may be those of `a`, with `step` as room for a term."""
    (n_a, mean_a, comoment_a), (n_b, mean_b, comoment_b) = a, b
    n, delta = float(n_a) + float(n_b), mean_b - mean_a
    comoment = np.add(comoment_a, comoment_b, out=out)
    comoment += np.multiply(delta[:, None], float(n_a) * float(n_b) / n * delta, out=step)
    return n_a + n_b, mean_a + delta * (float(n_b) / n), comoment
