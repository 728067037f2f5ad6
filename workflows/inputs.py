"""How a study reads its artifacts: blocks of samples from several groups at once, for the reductions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from taba_core.spec import Artifact
from taba_core.store import Store
from workflows.study import Request

if TYPE_CHECKING:
    from taba_core.stats.base import Statistic
    from taba_core.stats.estimate import Estimate


@dataclass(frozen=True)
class JoinedReader:
    """Reads named variables of several artifacts over one range of samples. Picklable: it holds paths, not arrays.

    `columns` maps the name a statistic uses to (artifact attrs, variable).
    """

    store: str
    columns: Mapping[str, tuple[Mapping[str, Any], str]]

    def __call__(self, start: int, stop: int, variables: tuple[str, ...]) -> dict[str, NDArray[Any]]:
        """Arrays of samples start..stop-1, and their ids under "sample"."""
        from taba_core.spec import from_attrs

        store = Store.open(self.store, mode="r")
        block: dict[str, NDArray[Any]] = {"sample": np.arange(start, stop, dtype=np.int64)}
        for name in variables:
            if name == "sample":
                continue
            attrs, variable = self.columns[name]
            group = store.open_artifact(from_attrs(dict(attrs)))
            block[name] = group.read_samples(start, stop, (variable,))[variable]
        return block


class Inputs:
    """The artifacts of one study in one store, by the names its `requests` gave them."""

    def __init__(self, store: Store, requests: Mapping[str, Request], *, scheduler: Any, workers: int) -> None:
        self.store = store
        self.requests = requests
        self.scheduler = scheduler
        self.workers = workers

    def artifact(self, name: str) -> Artifact:
        """The spec asked for under that name."""
        return self.requests[name].artifact

    def reader(self, columns: Mapping[str, tuple[str, str]]) -> JoinedReader:
        """A reader for columns given as name -> (request name, variable)."""
        return JoinedReader(
            str(self.store.path),
            {name: (self.artifact(request).attrs(), variable) for name, (request, variable) in columns.items()},
        )

    def reduce(
        self, columns: Mapping[str, tuple[str, str]], statistics: Mapping[str, Statistic], replicates: int = 1000
    ) -> dict[str, dict[str, Estimate]]:
        """One pass over the samples: every statistic, with replicates for its intervals."""
        from taba_core.stats.estimate import estimates
        from taba_core.stats.reduce import reduce

        num_samples = next(iter(self.requests.values())).artifact.root().num_samples
        reduced = reduce(
            self.reader(columns), num_samples, dict(statistics), scheduler=self.scheduler, workers=self.workers
        )
        return {name: estimates(result, replicates=replicates) for name, result in reduced.items()}

    def head(self, name: str, variable: str, count: int) -> NDArray[Any]:
        """The first `count` samples of a variable (fewer if there are fewer)."""
        request = self.requests[name]
        stop = min(count, request.artifact.root().num_samples)
        return self.reader({variable: (name, variable)})(0, stop, (variable,))[variable]
