"""The fixed tree in which states of canonical blocks are merged, so that no result depends on who merged.

Sample ids 0..n-1 are cut into canonical blocks of 16. Node (level, i) covers the blocks i 2^level up to
(i + 1) 2^level - 1 that exist; it is the merge of its two children in order, or its left child where the
right one is empty. Floating-point addition is not associative, but this tree is always the same, so any split
of the blocks over workers, in any order, gives the same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taba_core.errors import UsageError, WorkError
from taba_core.stats.base import CANONICAL_BLOCK as CANONICAL_BLOCK
from taba_core.stats.base import Array, State, Statistic

MAX_GROUPS = 20  # group states are what a jackknife keeps in memory: 4.7 MB each for 32x32 patches
Parts = dict[tuple[int, int], State]


def num_blocks(num_samples: int) -> int:
    """Number of canonical blocks of `num_samples` samples.

    Raises:
      UsageError: no samples.
    """
    if num_samples < 1:
        raise UsageError(f"num_samples={num_samples}: nothing to reduce; give at least 1.")
    return -(-num_samples // CANONICAL_BLOCK)


def group_level(num_samples: int, max_groups: int = MAX_GROUPS) -> int:
    """Lowest level of the tree with at most `max_groups` nodes: its nodes are the jackknife groups."""
    if max_groups < 1:
        raise UsageError(f"max_groups={max_groups}: a total needs at least 1 group.")
    level, nodes = 0, num_blocks(num_samples)
    while nodes > max_groups:
        level, nodes = level + 1, -(-nodes // 2)
    return level


def fingerprint(sample_ids: Sequence[int] | NDArray[np.integer]) -> str:
    """Name of a set of samples: the same for the same ids, however they were selected."""
    ids = np.ascontiguousarray(sample_ids, dtype="<i8")
    return hashlib.blake2b(ids.tobytes(), digest_size=8).hexdigest()


@dataclass(frozen=True, eq=False)
class Reduced:
    """A statistic over n samples: the total and, for jackknife statistics, the states of the groups.

    No arithmetic: two of them do not add up. Merge states, or reduce all samples at once.
    """

    statistic: Statistic
    n: int
    total: State
    groups: Sequence[State] = ()
    group_sizes: tuple[int, ...] = ()
    samples: str = ""

    def summary(self) -> dict[str, Array]:
        """Named values over all samples."""
        return self.statistic.summarise(self.total)


class MergeTree:
    """Collects states of canonical blocks, or of whole nodes, in any order.

    Siblings merge as soon as both are there, up to the group level: in the order of blocks it holds at most
    `max_groups` plus log2(blocks) states, whatever n is.
    """

    def __init__(self, statistic: Statistic, num_samples: int, *, max_groups: int = MAX_GROUPS) -> None:
        self.statistic = statistic
        self.num_samples = num_samples
        self.num_blocks = num_blocks(num_samples)
        self.group_level = group_level(num_samples, max_groups)
        self._parts: Parts = {}
        self._seen = np.zeros(self.num_blocks, dtype=bool)

    def add(self, index: int, state: State, *, level: int = 0) -> None:
        """Add the state of block `index`, or of node (level, index).

        Raises:
          WorkError: a block of it is there already, or does not exist.
          UsageError: values in place of a state.
        """
        self.statistic.check_state(state)
        blocks = slice(index << level, min((index + 1) << level, self.num_blocks))
        if index < 0 or not 0 <= level <= self.group_level or blocks.start >= self.num_blocks:
            raise WorkError(
                f"{self._name}: node {index} of level {level} is not in the tree of {self.num_blocks} blocks "
                f"({self.num_samples} samples, levels 0 to {self.group_level})."
            )
        if self._seen[blocks].any():
            twice = blocks.start + int(np.argmax(self._seen[blocks]))
            raise WorkError(
                f"{self._name}: block {twice} ({_samples(twice, self.num_samples)}) was added twice; "
                f"a sample counts once. Add each block once."
            )
        self._seen[blocks] = True
        self._climb(level, index, state)

    def absorb(self, parts: Mapping[tuple[int, int], State]) -> None:
        """Add everything another tree over the same samples has collected (its `parts`)."""
        for (level, index), state in parts.items():
            self.add(index, state, level=level)

    @property
    def parts(self) -> Parts:
        """States of the maximal nodes collected so far, by (level, index)."""
        return dict(self._parts)

    def finish(self, sample_ids: Sequence[int] | NDArray[np.integer] | None = None) -> Reduced:
        """Merge the groups to the total.

        Args:
          sample_ids: ids of the samples by position; 0..n-1 if None.

        Raises:
          WorkError: blocks are missing.
        """
        missing = np.flatnonzero(~self._seen)
        if missing.size:
            raise WorkError(
                f"{self._name}: {missing.size} of {self.num_blocks} blocks are missing, the first is block "
                f"{missing[0]} ({_samples(int(missing[0]), self.num_samples)}); a value over a part of the "
                f"samples is not reported. Compute the missing samples, or reduce fewer."
            )
        groups = tuple(self._parts[key] for key in sorted(self._parts))
        total = self.statistic.merge_tree(groups)
        samples = fingerprint(range(self.num_samples) if sample_ids is None else sample_ids)
        if self.statistic.resampling != "jackknife":
            return Reduced(self.statistic, self.num_samples, total, samples=samples)
        sizes = self._group_sizes(len(groups))
        return Reduced(self.statistic, self.num_samples, total, groups, sizes, samples)

    @property
    def _name(self) -> str:
        return type(self.statistic).__name__

    def _group_sizes(self, count: int) -> tuple[int, ...]:
        size = CANONICAL_BLOCK << self.group_level
        return tuple(min(size, self.num_samples - i * size) for i in range(count))

    def _climb(self, level: int, index: int, state: State) -> None:
        while level < self.group_level:
            sibling = (level, index ^ 1)
            if sibling in self._parts:
                other = self._parts.pop(sibling)
                state = self.statistic.merge(*((other, state) if index % 2 else (state, other)))
            elif (index ^ 1) << level < self.num_blocks:
                break
            level, index = level + 1, index // 2
        self._parts[level, index] = state


def _samples(block: int, num_samples: int) -> str:
    first = block * CANONICAL_BLOCK
    return f"samples {first} to {min(first + CANONICAL_BLOCK, num_samples) - 1}"
