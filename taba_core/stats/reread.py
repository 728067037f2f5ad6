"""One statistic of large states, in the memory of a few: a jackknife reads its groups again wherever it needs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

from taba_core.blas import use_one_blas_thread
from taba_core.stats.base import CANONICAL_BLOCK, MomentStatistic, State
from taba_core.stats.reduce import Span
from taba_core.stats.tasks import Scheduler, calls
from taba_core.stats.tree import MAX_GROUPS, MergeTree, Reduced, fingerprint, group_level, num_blocks

_NAME = "one"
_TASKS = 8  # of a group, at most


def reduce_rereading(
    read: Any,
    num_samples: int,
    statistic: MomentStatistic,
    *,
    scheduler: Scheduler = "threads",
    workers: int | None = None,
    samples_per_read: int = 64,
    max_groups: int = MAX_GROUPS,
) -> Reduced:
    """`reduce` of one statistic, the same bits, without its group states in memory.

    Those of the Fréchet distance of 2048 features are 67 MB each. A total reads every sample once, a jackknife of G
    groups log2 G times more: by halving, a group is looked at once on every level. Arguments and errors as in `reduce`.
    """
    use_one_blas_thread()
    span = Span(read, num_samples, {_NAME: statistic}, samples_per_read, max_groups)
    level = group_level(num_samples, max_groups)
    count = -(-num_blocks(num_samples) // (1 << level))
    groups = RereadGroups(span, CANONICAL_BLOCK << level, range(count), scheduler, workers)
    return Reduced(
        statistic,
        num_samples,
        statistic.merge_tree(groups),
        groups,
        groups.sizes,
        fingerprint(range(num_samples)),
    )


@dataclass(frozen=True, eq=False)
class RereadGroups(Sequence[State]):
    """The group states of a reduction, each computed anew whenever it is looked at.

    Attributes:
      span: the reduction, of one statistic.
      size: samples of a group; the last one may have fewer.
      indices: which groups these are.
      scheduler, workers: where a group is computed.
    """

    span: Span
    size: int
    indices: range
    scheduler: Any
    workers: int | None

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Samples of each group."""
        return tuple(min(self.size, self.span.num_samples - i * self.size) for i in self.indices)

    @overload
    def __getitem__(self, which: int) -> State: ...

    @overload
    def __getitem__(self, which: slice) -> RereadGroups: ...

    def __getitem__(self, which: int | slice) -> State | RereadGroups:
        """The state of a group, or some of the groups."""
        if isinstance(which, slice):
            return replace(self, indices=self.indices[which])
        start = self.indices[which] * self.size
        stop = min(start + self.size, self.span.num_samples)
        # Parts of a power of two canonical blocks are nodes of the tree, however many there are.
        step = max(self.size // _TASKS, CANONICAL_BLOCK)
        runs = [(first, min(first + step, stop)) for first in range(start, stop, step)]
        tree = MergeTree(self.span.statistics[_NAME], self.span.num_samples, max_groups=self.span.max_groups)
        for _, parts in calls(self.span.collect, runs, scheduler=self.scheduler, workers=self.workers):
            tree.absorb(parts[_NAME])
        (state,) = tree.parts.values()
        return state
