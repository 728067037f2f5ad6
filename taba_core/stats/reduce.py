"""Reduce samples to statistics: one pass over the data, the same bits on any scheduler and any workers."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import numpy as np

from taba_core.blas import use_one_blas_thread
from taba_core.errors import UsageError, WorkError
from taba_core.stats.base import SAMPLE, Block, Statistic
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
Scheduler = Literal["threads", "processes", "sync"] | Callable[..., Any]
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
) -> dict[str, Reduced]:
    """Reduce samples 0..num_samples-1 to all statistics in one pass over what `read` returns.

    One Dask graph with a node per run of consecutive canonical blocks; the states meet in the fixed tree.

    Args:
      read: `read(start, stop, variables)` returns a block: `sample` ids start..stop-1 and the variables, each
        with a leading sample axis. Must be picklable for "processes" and for cluster schedulers.
      num_samples: n.
      statistics: by name.
      scheduler: "threads", "processes", "sync", or any Dask `get` function (Ray's `ray_dask_get`).
      workers: threads or processes; None = the number of cores. Never changes a value.
      samples_per_read: samples one call of `read` returns, a multiple of 16; bounds the memory of a node.
      max_groups: most jackknife groups, and so most states kept of a moment statistic.

    Raises:
      UsageError: num_samples < 1 or samples_per_read no multiple of 16.
      WorkError: `read` returned other samples or lacks a variable.
    """
    use_one_blas_thread()
    import dask

    if samples_per_read < CANONICAL_BLOCK or samples_per_read % CANONICAL_BLOCK:
        raise UsageError(
            f"samples_per_read={samples_per_read} would cut a canonical block; "
            f"use a multiple of {CANONICAL_BLOCK}."
        )
    level = _node_level(num_samples, workers or os.cpu_count() or 1, max_groups)
    span = functools.partial(
        _reduce_span,
        read=read,
        num_samples=num_samples,
        statistics=dict(statistics),
        samples_per_read=samples_per_read,
        max_groups=max_groups,
    )
    samples = CANONICAL_BLOCK << level
    task = dask.delayed(span, pure=False)  # type: ignore[attr-defined]
    nodes = [task(start, min(start + samples, num_samples)) for start in range(0, num_samples, samples)]
    options = {} if callable(scheduler) or workers is None else {"num_workers": workers}
    collected = dask.compute(  # type: ignore[attr-defined]
        *nodes, scheduler=scheduler, optimize_graph=False, **options
    )
    trees = _trees(statistics, num_samples, max_groups)
    for node in collected:
        for name, parts in node.items():
            trees[name].absorb(parts)
    return {name: tree.finish() for name, tree in trees.items()}


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
      WorkError: a block that cuts a canonical one, duplicate or missing samples.
    """
    trees = _trees(statistics, num_samples, max_groups)
    use_one_blas_thread()
    for block in blocks:
        _add_block(trees, block, num_samples)
    return {name: tree.finish() for name, tree in trees.items()}


def from_arrays(arrays: Mapping[str, Any]) -> Read:
    """`read` over arrays in memory (sliceable on a leading sample axis); sample ids are positions."""
    return functools.partial(_read_arrays, dict(arrays))


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


def _reduce_span(
    start: int,
    stop: int,
    *,
    read: Read,
    num_samples: int,
    statistics: Mapping[str, Statistic],
    samples_per_read: int,
    max_groups: int,
) -> dict[str, Parts]:
    variables = tuple(sorted({name for statistic in statistics.values() for name in statistic.variables}))
    trees = _trees(statistics, num_samples, max_groups)
    use_one_blas_thread()
    for first in range(start, stop, samples_per_read):
        last = min(first + samples_per_read, stop)
        block = read(first, last, variables)
        check_block(block, variables, first, last)
        _add_block(trees, block, num_samples)
    return {name: tree.parts for name, tree in trees.items()}


def check_block(block: Block, variables: tuple[str, ...], start: int, stop: int) -> None:
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


def _add_block(trees: Mapping[str, MergeTree], block: Block, num_samples: int) -> None:
    ids = np.asarray(block[SAMPLE])
    for offset in range(0, len(ids), CANONICAL_BLOCK):
        part = {name: values[offset : offset + CANONICAL_BLOCK] for name, values in block.items()}
        index = _block_index(np.asarray(part[SAMPLE]), num_samples)
        for tree in trees.values():
            tree.add(index, tree.statistic.partial(part))


def _block_index(ids: np.ndarray[Any, Any], num_samples: int) -> int:
    start = int(ids[0])
    if start % CANONICAL_BLOCK or not np.array_equal(
        ids, range(start, min(start + CANONICAL_BLOCK, num_samples))
    ):
        raise WorkError(
            f"samples {ids[0]} to {ids[-1]} ({len(ids)} ids) are no canonical block: a block is "
            f"{CANONICAL_BLOCK} consecutive ids from a multiple of {CANONICAL_BLOCK}, only the last (to "
            f"{num_samples - 1}) may be short."
        )
    return start // CANONICAL_BLOCK
