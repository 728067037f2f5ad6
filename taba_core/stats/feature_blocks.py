"""Sets of features that are read block by block: sums over pairs of blocks need the memory of a few blocks only.

Blocks begin at multiples of `BLOCK_ROWS`, or at the first sample of a group and then every `BLOCK_ROWS` rows, wherever
the features lie and whoever computes: every product of two blocks has the same shape and so the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taba_core.blas import use_one_blas_thread
from taba_core.errors import UsageError
from taba_core.stats.base import flat
from taba_core.stats.tasks import Scheduler, calls, in_order

BLOCK_ROWS = 1024  # 16.8 MB of 2048 features in float64, and 8.4 MB for the products of two blocks


@dataclass(frozen=True, eq=False)
class FeatureBlocks:
    """Features of n samples, (n, ...), in memory or not: anything with a shape that is cut along its first axis.

    Arrays of NumPy, Zarr, Dask and xarray are, and what a study reads from its store.
    """

    source: Any

    @classmethod
    def of(cls, features: Any) -> FeatureBlocks:
        """Of an array, or of blocks, which stay as they are."""
        if isinstance(features, FeatureBlocks):
            return features
        return cls(features if hasattr(features, "shape") else np.asarray(features))

    def __len__(self) -> int:
        return int(self.source.shape[0])

    @property
    def num_features(self) -> int:
        """Entries of a sample, d."""
        return prod(int(size) for size in self.source.shape[1:])

    def read(self, rows: slice) -> NDArray[np.float64]:
        """Samples of a slice, (k, d). Raises UsageError for a value that is not finite: it has no distances."""
        values = flat(np.asarray(self.source[rows]))
        if not np.isfinite(values).all():
            raise UsageError(
                f"features of samples {rows.start} to {rows.stop - 1} hold values that are not finite; they have no "
                "distances."
            )
        return values

    def blocks(self) -> list[slice]:
        """The slices of all samples."""
        return cut(slice(0, len(self)))

    def mean(self) -> NDArray[np.float64]:
        """Mean of all samples, (d,), summed in their order."""
        total = np.zeros((1, self.num_features))
        for rows in self.blocks():
            total = np.concatenate([total, self.read(rows)]).sum(axis=0, keepdims=True)
        return np.asarray(total[0] / len(self))


def cut(samples: slice) -> list[slice]:
    """Consecutive slices of `BLOCK_ROWS` rows, the last one of those that are left."""
    starts = range(samples.start, samples.stop, BLOCK_ROWS)
    return [slice(start, min(start + BLOCK_ROWS, samples.stop)) for start in starts]


def each(
    task: Callable[[slice], Any], slices: Sequence[slice], *, scheduler: Scheduler, workers: int | None = None
) -> list[Any]:
    """What `task` makes of every slice, in order, each in one call.

    Args:
      task: a function of a slice; picklable for schedulers that send it to other processes.
      slices: of samples.
      scheduler: as in `taba_core.stats.reduce`; no scheduler changes a bit.
      workers: of "threads" and "processes"; None = the number of cores.
    """
    use_one_blas_thread()
    found = calls(_on_one_thread, [(task, rows) for rows in slices], scheduler=scheduler, workers=workers)
    return in_order(found, len(slices))


def _on_one_thread(task: Callable[[slice], Any], rows: slice) -> Any:
    use_one_blas_thread()  # a process of its own has not been told
    return task(rows)
