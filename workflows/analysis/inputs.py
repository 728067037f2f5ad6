"""How a study reads its artifacts: blocks of samples from several groups at once, for the reductions."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from taba_core import rng
from taba_core.artifacts.base import Artifact, from_attrs
from taba_core.artifacts.request import Request
from taba_core.store import Store

if TYPE_CHECKING:
    from taba_core.stats.base import MomentStatistic, RowStatistic, Statistic
    from taba_core.stats.estimate import Estimate
    from taba_core.stats.pairs import PairStatistic, States
    from taba_core.stats.tasks import Mapper, Scheduler


Column = tuple[str, str]  # name of a request, and one of its variables
_SAMPLES_AT_ONCE = 64
# Dimensions of images as one sees them; a latent model's states have fewer positions.
PICTURE_DIMS = ("example", "rgb", "pixel_y", "pixel_x")
# A reduction that reads as much as this is made by the run's workers, where it has any beyond this process. What is
# smaller is read here within seconds, sooner than workers start.
BYTES_FOR_WORKERS = 4 << 30
# Name of the column that is white noise of its own stream: what noise rows are compared with.
INDEPENDENT = "independent"


@dataclass(frozen=True)
class JoinedReader:
    """Reads named variables of several artifacts over one range of samples. Picklable: it holds paths, not arrays.

    `columns` maps the name a statistic uses to (artifact attrs, variable), or to None for white noise of its own.
    """

    store: str
    columns: Mapping[str, tuple[Mapping[str, Any], str] | None]
    noise_shape: tuple[int, ...]

    def __call__(self, start: int, stop: int, variables: tuple[str, ...]) -> dict[str, NDArray[Any]]:
        """Arrays of samples start..stop-1, and their ids under "sample"."""
        store = Store.open(self.store, mode="r")
        block: dict[str, NDArray[Any]] = {"sample": np.arange(start, stop, dtype=np.int64)}
        for name in variables:
            if name == "sample":
                continue
            column = None if name == INDEPENDENT else self.columns[name]
            if column is None:
                stream = name if name == INDEPENDENT else f"{INDEPENDENT}/{name}"
                block[name] = rng.normal(block["sample"], self.noise_shape, seed=0, stream=stream)
                continue
            attrs, variable = column
            group = store.open_artifact(from_attrs(dict(attrs)))
            block[name] = group.read_samples(start, stop, (variable,))[variable]
        return block


@dataclass(frozen=True)
class StoredArray:
    """A variable of an artifact as an array that is read where it is cut, `rows[start:stop]`. Picklable."""

    read: JoinedReader
    name: str
    shape: tuple[int, ...]

    def __getitem__(self, samples: slice) -> NDArray[Any]:
        """Samples start..stop-1."""
        return self.read(samples.start, samples.stop, (self.name,))[self.name]


def _function_of(
    function: Callable[[Mapping[str, NDArray[Any]]], NDArray[Any]],
    read: JoinedReader,
    names: tuple[str, ...],
    start: int,
    stop: int,
) -> NDArray[Any]:
    return function(read(start, stop, names))


class Inputs:
    """The artifacts of one study in one store, by the names its `requests` gave them.

    Args:
      scheduler, workers: of the reductions that are made in this process, as `taba_core.stats.reduce`.
      mapper: makes those that read `BYTES_FOR_WORKERS` or more; it is asked for when the first of them comes, and None
        says that there are no other processes. No value depends on who makes a reduction.
    """

    def __init__(
        self,
        store: Store,
        requests: Mapping[str, Request],
        *,
        sample_shape: tuple[int, ...],
        scheduler: Any,
        workers: int,
        mapper: Callable[[], Mapper | None] = lambda: None,
    ) -> None:
        self.store = store
        self.requests = requests
        self.sample_shape = sample_shape
        self.scheduler = scheduler
        self.workers = workers
        self._ask_mapper = mapper

    def artifact(self, name: str) -> Artifact:
        """The spec asked for under that name."""
        return self.requests[name].artifact

    def noise(self, name: str) -> Column | None:
        """The column of the noise that the images of a request were sampled from; of real images white noise."""
        return (name, "noise") if "noise" in self.requests[name].variables else None

    def reader(self, columns: Mapping[str, Column | None]) -> JoinedReader:
        """A reader for columns given as name -> (request name, variable), None for white noise."""
        return JoinedReader(
            self.store.url,
            {
                name: None if column is None else (self.artifact(column[0]).attrs(), column[1])
                for name, column in columns.items()
            },
            self.sample_shape,
        )

    @property
    def num_samples(self) -> int:
        """n, of the study's first request."""
        return next(iter(self.requests.values())).samples

    def _mapper(self, columns: Mapping[str, Column | None], samples: int, times: int = 1) -> Mapper | None:
        """Who reduces columns of so many samples, each read so often; None = this process."""
        each = sum(self._sample_bytes(*column) for column in columns.values() if column is not None)
        return self._ask_mapper() if each * samples * times >= BYTES_FOR_WORKERS else None

    def _sample_bytes(self, name: str, variable: str) -> int:
        layout = self.store.open_artifact(self.artifact(name)).array(variable).layout
        return math.prod(layout.shape[1:]) * np.dtype(layout.dtype).itemsize

    def _scheduler(self, columns: Mapping[str, Column | None], samples: int, times: int = 1) -> Scheduler:
        return self._mapper(columns, samples, times) or self.scheduler  # type: ignore[no-any-return]

    def reduce(
        self,
        columns: Mapping[str, Column | None],
        statistics: Mapping[str, Statistic],
        replicates: int = 1000,
        first: int | None = None,
        max_groups: int | None = None,
    ) -> dict[str, dict[str, Estimate]]:
        """One pass over the samples (or the `first` so many): every statistic, with replicates for its intervals.

        `max_groups`: most groups that a jackknife leaves out, each of which takes the statistic once more; None = the
        usual number.
        """
        from taba_core.stats.reduce import reduce
        from taba_core.stats.resample import estimates
        from taba_core.stats.tree import MAX_GROUPS

        samples = self.num_samples if first is None else min(first, self.num_samples)
        reduced = reduce(
            self.reader(columns),
            samples,
            dict(statistics),
            scheduler=self._scheduler(columns, samples),
            workers=self.workers,
            max_groups=max_groups or MAX_GROUPS,
        )
        return {name: estimates(result, num_replicates=replicates) for name, result in reduced.items()}

    def reduce_wide(
        self, columns: Mapping[str, Column | None], statistic: MomentStatistic
    ) -> dict[str, Estimate]:
        """One statistic of large states over the samples, which are read several times; see `reduce_rereading`."""
        from taba_core.stats.reread import reduce_rereading
        from taba_core.stats.resample import estimates

        reduced = reduce_rereading(
            self.reader(columns),
            self.num_samples,
            statistic,
            scheduler=self._scheduler(columns, self.num_samples),
            workers=self.workers,
        )
        return estimates(reduced)

    def reduce_pairs(
        self,
        columns: Mapping[str, Column | None],
        statistics: Mapping[str, PairStatistic],
        *,
        division: NDArray[Any] | None = None,
        samples_per_read: int,
    ) -> States:
        """States over all pairs of samples that share a division; see `taba_core.stats.pairs.reduce_pairs`."""
        from taba_core.stats.pairs import reduce_pairs

        times = 1 + self.num_samples // samples_per_read  # at most: every block is read for every other
        return reduce_pairs(
            self.reader(columns),
            self.num_samples,
            statistics,
            division=division,
            scheduler=self._scheduler(columns, self.num_samples, times),
            workers=self.workers,
            samples_per_read=samples_per_read,
        )

    def reduce_rows(self, name: str, statistic: RowStatistic, replicates: int = 1000) -> dict[str, Estimate]:
        """A row statistic over the rows that a request of this name has stored; see `reduce`."""
        from taba_core.stats.stored_rows import StoredRows

        names = self.requests[name].variables
        rows = {"rows": StoredRows(statistic, names)}
        return self.reduce({row: (name, row) for row in names}, rows, replicates)["rows"]

    def per_sample(
        self,
        columns: Mapping[str, Column | None],
        function: Callable[[Mapping[str, NDArray[Any]]], NDArray[Any]],
    ) -> NDArray[Any]:
        """One value a sample, (n,), computed block by block."""
        from taba_core.stats.tasks import calls, in_order

        starts = range(0, self.num_samples, _SAMPLES_AT_ONCE)
        runs = [(start, min(start + _SAMPLES_AT_ONCE, self.num_samples)) for start in starts]
        mapper = self._mapper(columns, self.num_samples)
        of_run = functools.partial(_function_of, function, self.reader(columns), tuple(columns))
        return np.concatenate(in_order(calls(of_run, runs, scheduler=mapper or "sync", workers=1), len(runs)))

    def pick(self, name: str, variable: str, samples: NDArray[np.integer]) -> NDArray[Any]:
        """A variable of chosen samples, in their order; the noise of real images is white noise."""
        read = self.reader({variable: self.noise(name) if variable == "noise" else (name, variable)})
        return np.concatenate([read(int(i), int(i) + 1, (variable,))[variable] for i in samples])

    def pictures(self, name: str, samples: NDArray[np.integer]) -> NDArray[Any]:
        """Images as one sees them, (k, 3, height, width) in [-1, 1]: decoded where the model is latent."""
        if "decoded" not in self.store.open_artifact(self.artifact(name)).variables:
            return self.pick(name, self.artifact(name).image_variable, samples)
        return (self.pick(name, "decoded", samples) / 127.5 - 1).astype(np.float32)

    def head(self, name: str, variable: str, count: int) -> NDArray[Any]:
        """The first `count` samples of a variable (fewer if there are fewer)."""
        request = self.requests[name]
        stop = min(count, request.samples)
        return self.reader({variable: (name, variable)})(0, stop, (variable,))[variable]

    def rows(self, name: str, variable: str, count: int) -> StoredArray:
        """The first `count` samples of a variable (fewer if there are fewer), of which nothing is read yet but one."""
        stop = min(count, self.requests[name].samples)
        read = self.reader({variable: (name, variable)})
        return StoredArray(read, variable, (stop, *read(0, 1, (variable,))[variable].shape[1:]))
