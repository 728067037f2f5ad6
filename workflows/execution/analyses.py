"""The studies of a run: each is analysed once its shards are there, beside the computing or after it."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from taba_core.artifacts.base import Artifact
from taba_core.store import Store
from workflows.analysis.inputs import Inputs
from workflows.analysis.study import Study
from workflows.execution.done import Report
from workflows.execution.results import result_attrs
from workflows.execution.session import stop_if_asked
from workflows.execution.watch import Watch
from workflows.planning.plan import Plan

if TYPE_CHECKING:
    from taba_core.stats.tasks import Mapper

_LOOK_S = 0.5  # how soon a stop is seen while the last studies are analysed


@dataclass(eq=False)
class _Task:
    """A study of a plan, and the artifacts that it still waits for."""

    plan: Plan
    report: Report
    study: Study
    waits_for: set[Artifact]


class Analyses:
    """The studies of several plans.

    Args:
      reports: of the plans, told what was analysed.
      watch: told what begins, and asked before a result is written whether this process still owns the store.
      scheduler, workers, mapper: of the reductions, as `Inputs`.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        reports: Sequence[Report],
        store: Store,
        watch: Watch,
        *,
        scheduler: Any,
        workers: int,
        mapper: Callable[[], Mapper | None] = lambda: None,
    ) -> None:
        self._mapper = mapper
        self._store, self._watch = store, watch
        self._scheduler, self._workers = scheduler, workers
        self._tasks: list[_Task] = []
        for plan, report in zip(plans, reports, strict=True):
            missing = {planned.artifact for planned in plan.artifacts if planned.missing}
            for study in plan.studies:
                read = {request.artifact for request in plan.requests[study.name].values()}
                self._tasks.append(_Task(plan, report, study, read & missing))
        self._thread: threading.Thread | None = None
        self._queue: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._stopped = False
        self._error: Exception | None = None

    @contextlib.contextmanager
    def running(self, *, beside: bool) -> Iterator[None]:
        """The time of a run. With `beside`, studies are analysed in a thread of their own as soon as they can be.

        Leaving the block by an error waits for the study that is being analysed, and begins no other.
        """
        if beside and self._tasks:
            self._thread = threading.Thread(target=self._loop, name="taba-analyses", daemon=True)
            self._thread.start()
            self._hand_over()
        try:
            yield
        finally:
            self._stopped = True
            if self._thread is not None:
                self._queue.put(None)
                self._thread.join()

    def complete(self, artifact: Artifact) -> None:
        """Say that all shards of an artifact are there."""
        for task in self._tasks:
            task.waits_for.discard(artifact)
        self._hand_over()

    def finish(self) -> None:
        """Analyse what is left of the studies whose shards are there.

        Raises:
          KeyboardInterrupt: a stop was asked for. And what a study raised that was analysed beside the computing.
        """
        if self._thread is None:
            for task in self._tasks:
                if not task.waits_for:
                    stop_if_asked()
                    self._analyse(task, announce=True)
            return
        self._queue.put(None)
        if self._thread.is_alive():
            self._watch.stage("analysis")
        while self._thread.is_alive():
            stop_if_asked()
            self._thread.join(_LOOK_S)
        if self._error is not None:
            raise self._error

    def _hand_over(self) -> None:
        """Give the thread, if there is one, the studies that wait for nothing any more."""
        if self._thread is None:
            return
        for task in [task for task in self._tasks if not task.waits_for]:
            self._tasks.remove(task)
            self._queue.put(task)

    def _loop(self) -> None:
        while (task := self._queue.get()) is not None:
            if self._stopped or self._error is not None:
                continue
            try:
                self._analyse(task, announce=False)
            except Exception as error:  # shown once the units are done, which are worth more than the study
                self._error = error

    def _analyse(self, task: _Task, *, announce: bool) -> None:
        """Analyse one study unless its result is stored; `announce` it as the stage of the run."""
        plan, study, report = task.plan, task.study, task.report
        name = study.result_name(plan.context)
        if self._store.has_result(name):
            report.reused.append(study.name)
            return
        begun = time.monotonic()
        if announce:
            self._watch.stage(study.name)
        inputs = Inputs(
            self._store,
            plan.requests[study.name],
            sample_shape=plan.context.card.sample_shape,
            scheduler=self._scheduler,
            workers=self._workers,
            mapper=self._mapper,
        )
        result = study.analyse(inputs, plan.context)
        self._watch.check()
        attrs = result_attrs(study, plan.context, plan.requests[study.name], self._store)
        self._store.write_result(name, result, attrs)
        report.analysed.append(study.name)
        report.stages[study.name] = time.monotonic() - begun
