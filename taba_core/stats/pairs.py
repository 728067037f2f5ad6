"""Reductions over pairs of samples: what one pass over the samples cannot give.

`reduce_pairs` is the sibling of `reduce` for statistics that compare every sample with every other. Its states merge
exactly (minima, not sums), so neither the order nor the size of the blocks changes a bit and no fixed tree is needed.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from taba_core.blas import use_one_blas_thread
from taba_core.errors import UsageError, WorkError
from taba_core.stats.base import SAMPLE, Array, Block, State
from taba_core.stats.inputs import Reads, check_block
from taba_core.stats.reduce import Read, check_read
from taba_core.stats.tasks import Scheduler, calls

DIVISION = "division"
States = dict[str, State]


@dataclass(frozen=True)
class PairStatistic(Reads, abc.ABC):
    """A statistic of pairs whose states merge in any order, any number of times, to the same bits."""

    @abc.abstractmethod
    def partial(self, block: Block, other: Block) -> State:
        """State of all pairs of a sample of `block` with one of `other`, of the same division."""

    @abc.abstractmethod
    def merge(self, a: State, b: State) -> State:
        """State of the pairs of both; associative, commutative, idempotent, exact. Changes neither."""


def reduce_pairs(
    read: Read,
    num_samples: int,
    statistics: Mapping[str, PairStatistic],
    *,
    division: Array | None = None,
    scheduler: Scheduler = "threads",
    workers: int | None = None,
    samples_per_read: int = 256,
) -> States:
    """Reduce all pairs of samples 0..num_samples-1 that share a division; two blocks in memory a worker.

    One call per block of samples: it walks over all blocks that may hold partners.

    Args:
      read: as for `taba_core.stats.reduce`.
      statistics: by name.
      division: (num_samples,) label of each sample; pairs of different labels do not exist. None: one division.
      scheduler, workers: as for `reduce`; they never change a value.
      samples_per_read: samples of a block; bounds memory, never changes a value.

    Raises:
      UsageError: num_samples < 1, samples_per_read < 1, or a division of another length.
      WorkError: `read` returned other samples or lacks a variable.
    """
    labels = _labels(division, num_samples)
    if samples_per_read < 1:
        raise UsageError(f"samples_per_read={samples_per_read}: a block needs at least 1 sample.")
    use_one_blas_thread()
    walk = functools.partial(
        _walk, read=read, statistics=dict(statistics), labels=labels, samples_per_read=samples_per_read
    )
    starts = [(start,) for start in range(0, num_samples, samples_per_read)]
    states: States = {name: {} for name in statistics}
    for _, node in calls(walk, starts, scheduler=scheduler, workers=workers):
        states = {name: statistics[name].merge(states[name], node[name]) for name in statistics}
    return states


def _labels(division: Array | None, num_samples: int) -> Array:
    if num_samples < 1:
        raise UsageError(f"num_samples={num_samples}: nothing to reduce; give at least 1.")
    labels = np.zeros(num_samples, dtype=np.int64) if division is None else np.asarray(division)
    if labels.shape != (num_samples,):
        raise UsageError(
            f"division has shape {labels.shape} for {num_samples} samples; give one label a sample."
        )
    return labels


def _walk(
    start: int, *, read: Read, statistics: Mapping[str, PairStatistic], labels: Array, samples_per_read: int
) -> States:
    use_one_blas_thread()
    block = _read(read, start, samples_per_read, labels, statistics)
    states: States = {name: {} for name in statistics}
    for other_start in _partners(start, labels, samples_per_read):
        other = (
            block if other_start == start else _read(read, other_start, samples_per_read, labels, statistics)
        )
        for name, statistic in statistics.items():
            states[name] = statistic.merge(states[name], statistic.partial(block, other))
    return states


def _partners(start: int, labels: Array, size: int) -> Iterator[int]:
    own = labels[start : start + size]
    return (
        first for first in range(0, len(labels), size) if np.isin(labels[first : first + size], own).any()
    )


def _read(
    read: Read, start: int, size: int, labels: Array, statistics: Mapping[str, PairStatistic]
) -> dict[str, Any]:
    variables = tuple(sorted({name for statistic in statistics.values() for name in statistic.variables}))
    stop = min(start + size, len(labels))
    block = read(start, stop, variables)
    check_read(block, variables, start, stop)
    for statistic in statistics.values():
        check_block(statistic, block)
    return {**block, DIVISION: labels[start:stop]}


def union_of_rows(a: State, b: State) -> tuple[Array, Array, Array]:
    """Ids in either state, ascending, and where the rows of a and of b stand among them."""
    ids = np.union1d(a[SAMPLE], b[SAMPLE])
    return ids, np.searchsorted(ids, a[SAMPLE]), np.searchsorted(ids, b[SAMPLE])


def check_complete(state: State, num_samples: int, name: str) -> None:
    """Refuse a state that lacks samples.

    Raises:
      WorkError: the first missing sample.
    """
    missing = np.setdiff1d(np.arange(num_samples), state.get(SAMPLE, np.empty(0, dtype=np.int64)))
    if missing.size:
        raise WorkError(
            f"{name}: {missing.size} of {num_samples} samples are missing, the first is sample {missing[0]}; a value "
            "over a part of the samples is not reported. Compute the missing samples, or reduce fewer."
        )
