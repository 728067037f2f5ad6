"""Reduce samples to statistics: one pass over the data, the same bits on any scheduler and any workers."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from taba_core.blas import use_one_blas_thread
from taba_core.errors import UsageError, WorkError
from taba_core.stats.base import SAMPLE, Array, Block, Statistic, check_values
from taba_core.stats.inputs import check_block
from taba_core.stats.tasks import Mapper, Scheduler, calls
from taba_core.stats.tree import (
    CANONICAL_BLOCK,
    MAX_GROUPS,
    MergeTree,
    Parts,
    Reduced,
    group_level,
    num_blocks,
)

Read = Callable[[int, int, tuple[str, ...]], Block]
NODES_PER_WORKER = 4


def reduce(
    read: Read,
    num_samples: int,
    statistics: Mapping[str, Statistic],
    *,
    scheduler: Scheduler = "threads",
    workers: int | None = None,
    samples_per_read: int = 64,
    max_groups: int = MAX_GROUPS,
    sample_ids: Array | None = None,
) -> dict[str, Reduced]:
    """Reduce samples 0..num_samples-1 to all statistics in one pass over what `read` returns.

    One call per run of consecutive canonical blocks; the states meet in the fixed tree, here, as they come.

    Args:
      read: `read(start, stop, variables)` returns a block: `sample` positions start..stop-1 and the variables,
        each with a leading sample axis. Must be picklable for "processes" and for cluster schedulers.
      num_samples: n.
      statistics: by name.
      scheduler: "threads", "processes", "sync", any Dask `get` function, or a `Mapper`, which makes the calls in other
        processes: this one then reads nothing.
      workers: threads or processes; None = the number of cores. Never changes a value.
      samples_per_read: samples one call of `read` returns, a multiple of 16; bounds the memory of a node.
      max_groups: most jackknife groups, and so most states kept of a moment statistic.
      sample_ids: ids of the samples by position, ascending; None = the positions. Blocks follow positions,
        bootstrap weights the ids.

    Raises:
      UsageError: num_samples < 1 or samples_per_read no multiple of 16.
      WorkError: `read` returned other samples, lacks a variable, or returned values that are not finite.
    """
    use_one_blas_thread()
    span = Span(read, num_samples, dict(statistics), samples_per_read, max_groups, sample_ids)
    found = calls(
        span.collect, span.runs(workers_of(scheduler, workers)), scheduler=scheduler, workers=workers
    )
    return span.finish(parts for _, parts in found)


def workers_of(scheduler: Scheduler, workers: int | None) -> int:
    """How many calls run at the same time, as far as that is known: of a mapper, as given, else the cores."""
    return scheduler.workers if isinstance(scheduler, Mapper) else workers or os.cpu_count() or 1


def reduce_lazily(
    read: Read,
    num_samples: int,
    statistics: Mapping[str, Statistic],
    *,
    samples_per_read: int = 64,
    max_groups: int = MAX_GROUPS,
    sample_ids: Array | None = None,
) -> Any:
    """`reduce` as a `dask.delayed.Delayed` of its result, the same bits; nothing is read before it is computed.

    Arguments and errors as in `reduce`.
    """
    import dask

    span = Span(read, num_samples, dict(statistics), samples_per_read, max_groups, sample_ids)
    collect = dask.delayed(span.collect, pure=False)  # type: ignore[attr-defined]
    nodes = [collect(*run) for run in span.runs(os.cpu_count() or 1)]
    return dask.delayed(span.finish, pure=False)(nodes)  # type: ignore[attr-defined]


@dataclass(frozen=True, eq=False)
class Span:
    """A reduction in parts: `collect` of every one of its `runs`, which `finish` puts together. Picklable if `read` is.

    Raises:
      UsageError: samples_per_read no multiple of 16, no samples, or ids that are not one ascending id a sample.
    """

    read: Read
    num_samples: int
    statistics: dict[str, Statistic]
    samples_per_read: int
    max_groups: int
    sample_ids: Array | None = None

    def __post_init__(self) -> None:
        if self.samples_per_read < CANONICAL_BLOCK or self.samples_per_read % CANONICAL_BLOCK:
            raise UsageError(
                f"samples_per_read={self.samples_per_read} would cut a canonical block; "
                f"use a multiple of {CANONICAL_BLOCK}."
            )
        num_blocks(self.num_samples)
        ids = self.sample_ids
        if ids is not None and (np.shape(ids) != (self.num_samples,) or np.any(np.diff(ids) <= 0)):
            raise UsageError(f"sample_ids must be {self.num_samples} ascending ids, one a sample.")

    def runs(self, workers: int) -> list[tuple[int, int]]:
        """Runs of canonical blocks, each (start, stop); their number follows the workers, no value does."""
        samples = CANONICAL_BLOCK << _node_level(self.num_samples, workers, self.max_groups)
        starts = range(0, self.num_samples, samples)
        return [(start, min(start + samples, self.num_samples)) for start in starts]

    def collect(self, start: int, stop: int) -> dict[str, Parts]:
        """States of the samples at positions start..stop-1, by statistic."""
        variables = tuple(sorted({name for s in self.statistics.values() for name in s.variables}))
        trees = _trees(self.statistics, self.num_samples, self.max_groups)
        use_one_blas_thread()
        for first in range(start, stop, self.samples_per_read):
            last = min(first + self.samples_per_read, stop)
            block = self.read(first, last, variables)
            check_read(block, variables, first, last)
            _add_block(trees, block, self.num_samples, self.sample_ids)
        return {name: tree.parts for name, tree in trees.items()}

    def finish(self, collected: Iterable[Mapping[str, Parts]]) -> dict[str, Reduced]:
        """Merge what was collected of the runs, in whatever order it comes."""
        trees = _trees(self.statistics, self.num_samples, self.max_groups)
        use_one_blas_thread()
        for node in collected:
            for name, parts in node.items():
                trees[name].absorb(parts)
        return {name: tree.finish(self.sample_ids) for name, tree in trees.items()}


def reduce_blocks(
    blocks: Iterable[Block],
    num_samples: int,
    statistics: Mapping[str, Statistic],
    *,
    max_groups: int = MAX_GROUPS,
) -> dict[str, Reduced]:
    """Reduce blocks already in memory, or made one by one; the same bits as `reduce`.

    Each block starts at a multiple of 16 and ends at one, or at num_samples; blocks may come in any order.

    Raises:
      WorkError: a block that cuts a canonical one, lacks a variable or holds values that are not finite;
        duplicate or missing samples.
    """
    trees = _trees(statistics, num_samples, max_groups)
    use_one_blas_thread()
    for block in blocks:
        check_values(block, sorted({name for s in statistics.values() for name in s.variables}))
        _add_block(trees, block, num_samples)
    return {name: tree.finish() for name, tree in trees.items()}


def from_arrays(arrays: Mapping[str, Any]) -> Read:
    """`read` over arrays in memory (sliceable on a leading sample axis); sample ids are positions.

    Raises:
      UsageError: something that is no array, named arrays whose first dimension is not `sample`, or arrays of
        different numbers of samples.
    """
    counts = {name: _samples_of(name, array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise UsageError(
            f"from_arrays: the arrays hold different numbers of samples ({told}); they are paired by position. Give "
            f"arrays of the same samples."
        )
    return functools.partial(_read_arrays, dict(arrays))


def _samples_of(name: str, array: Any) -> int:
    shape, dims = getattr(array, "shape", None), getattr(array, "dims", (SAMPLE,))
    if not isinstance(shape, tuple) or not shape or not hasattr(array, "dtype"):
        held = "a single number" if shape == () else f"of type {type(array).__name__}"
        raise UsageError(
            f"from_arrays: {name} is {held}; give an array whose first axis is the sample, as in "
            f"numpy.asarray({name})."
        )
    if dims[0] != SAMPLE:
        raise UsageError(
            f"from_arrays: {name} has the dimensions {dims}, and the first must be sample; transpose it, as in "
            f'{name}.transpose("sample", ...), or use taba_core.stats.query, which reads names.'
        )
    return int(shape[0])


def _read_arrays(arrays: Mapping[str, Any], start: int, stop: int, variables: tuple[str, ...]) -> Block:
    return {
        SAMPLE: np.arange(start, stop),
        **{name: np.asarray(arrays[name][start:stop]) for name in variables},
    }


def _trees(statistics: Mapping[str, Statistic], num_samples: int, max_groups: int) -> dict[str, MergeTree]:
    return {name: MergeTree(stat, num_samples, max_groups=max_groups) for name, stat in statistics.items()}


def _node_level(num_samples: int, workers: int, max_groups: int) -> int:
    level = group_level(num_samples, max_groups)
    while level and num_blocks(num_samples) >> level < NODES_PER_WORKER * workers:
        level -= 1
    return level


def check_read(block: Block, variables: tuple[str, ...], start: int, stop: int) -> None:
    """Refuse (WorkError) a block that lacks a variable, or some of the samples start..stop-1."""
    lacking = [name for name in (SAMPLE, *variables) if name not in block]
    if lacking:
        raise WorkError(
            f"read({start}, {stop}) returned no variable {', '.join(lacking)}; it must return all asked for."
        )
    if not np.array_equal(block[SAMPLE], np.arange(start, stop)):
        raise WorkError(
            f"read({start}, {stop}) returned other samples ({np.asarray(block[SAMPLE])[:4]}...); it must "
            f"return the ids {start} to {stop - 1} in order."
        )
    for name in variables:
        if len(block[name]) != stop - start:
            raise WorkError(
                f"read({start}, {stop}) returned {len(block[name])} samples of {name} for {stop - start} ids; the data "
                "end before the samples asked for."
            )
    check_values(block, variables)


def _add_block(
    trees: Mapping[str, MergeTree], block: Block, num_samples: int, sample_ids: Array | None = None
) -> None:
    positions = np.asarray(block[SAMPLE])
    _check_canonical(positions, num_samples)
    if sample_ids is not None:
        block = {**block, SAMPLE: sample_ids[positions]}
    for tree in trees.values():
        check_block(tree.statistic, block)
        largest = min(tree.statistic.whole_block, CANONICAL_BLOCK << tree.group_level)
        for level, offset, stop in _pieces(int(positions[0]), len(positions), largest):
            part = {name: values[offset:stop] for name, values in block.items()}
            index = int(positions[offset]) // CANONICAL_BLOCK >> level
            tree.add(index, tree.statistic.partial(part), level=level)


def _pieces(start: int, count: int, largest: int) -> Iterator[tuple[int, int, int]]:
    """Nodes of the tree that `count` samples from `start` on make up: (level, offset, stop), as large as allowed."""
    offset = 0
    while offset < count:
        level, size = 0, CANONICAL_BLOCK
        while 2 * size <= largest and (start + offset) % (2 * size) == 0 and offset + 2 * size <= count:
            level, size = level + 1, 2 * size
        yield level, offset, min(offset + size, count)
        offset += size


def _check_canonical(positions: Array, num_samples: int) -> None:
    start, stop = int(positions[0]), int(positions[-1]) + 1
    consecutive = np.array_equal(positions, np.arange(start, start + len(positions)))
    if not consecutive or start % CANONICAL_BLOCK or (stop % CANONICAL_BLOCK and stop != num_samples):
        raise WorkError(
            f"samples {start} to {stop - 1} ({len(positions)} ids) are no canonical blocks: a block is "
            f"{CANONICAL_BLOCK} consecutive ids from a multiple of {CANONICAL_BLOCK}, only the last (to "
            f"{num_samples - 1}) may be short."
        )
