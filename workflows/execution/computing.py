"""The units of a run: one queue over all plans, and what came out of it put into the ledger."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from cluster.pool.executor import ClusterError, ClusterLost, Drained, OtherCode, Outcome, Resources
from taba_core.artifacts.base import Artifact
from taba_core.errors import UsageError, WorkError
from taba_core.models.base import make_ahead
from taba_core.store import ArtifactGroup, Receipt, Store
from workflows.execution.done import FailedUnitsError
from workflows.execution.shared_executor import SharedExecutor
from workflows.execution.watch import Watch
from workflows.planning.plan import Plan
from workflows.planning.planned import PlannedArtifact
from workflows.planning.stages import weights_seconds
from workflows.planning.units import JointUnits, parse_unit_id

MAX_SETBACKS = 3  # deaths of a private cluster in a row without a finished unit between them


class Computing:
    """What several plans miss, computed by one set of workers.

    Args:
      groups: of all artifacts of the plans.
      watch: told what happens, and asked before the ledger is written whether this process still owns the store.
      complete: told each artifact whose shards are all there now.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        store: Store,
        groups: Mapping[Artifact, ArtifactGroup],
        watch: Watch,
        complete: Callable[[Artifact], None],
    ) -> None:
        self._plans, self._store, self._groups = plans, store, groups
        self._watch, self._complete = watch, complete
        self._failures: dict[str, Outcome] = {}
        missing = [(p, plan) for plan in plans for p in plan.artifacts if p.missing]
        self._by_key: dict[str, tuple[PlannedArtifact, Plan]] = {
            p.artifact.key: (p, plan) for p, plan in missing
        }

    def carry_out(self, executor: SharedExecutor, resources: Resources) -> list[FailedUnitsError | None]:
        """Run all units; a private cluster that dies under them is started again, as long as there is progress.

        Returns:
          Of each plan the units that failed for good, as an error; None where all is there.
        """
        totals, setbacks = [plan.units for plan in self._plans], 0
        _make_ahead(self._plans)
        while len(units := self._units()):
            left = len(units)
            self._watch.expect(units)
            try:
                self._execute(units, executor, resources)
            except ClusterLost as lost:
                executor.close()  # the next one starts another cluster
                still = sum(plan.units for plan in self._plans)
                setbacks = setbacks + 1 if still == left else 0
                if setbacks >= MAX_SETBACKS:
                    raise WorkError(
                        f"{lost} It died {setbacks} times in a row without finishing a unit. What finished is stored; "
                        "see to the machine (memory, disk), then run the same command again."
                    ) from None
                self._watch.note(f"{lost} Starting it again; {still} units left.")
        for group in self._groups.values():
            group.remove_orphans()  # what lost workers were just writing
        return [self._failed(plan, total) for plan, total in zip(self._plans, totals, strict=True)]

    def _units(self) -> JointUnits:
        return JointUnits(self._plans, self._store.url, self._failures, weights_seconds)

    def _execute(self, units: JointUnits, shared: SharedExecutor, resources: Resources) -> None:
        """Record what succeeds, collect what fails."""
        from workflows.compute.worker import ShardWorker

        watch = self._watch
        executor = shared.get()
        watch.executor(executor.describe())
        make_worker = functools.partial(ShardWorker, device="cuda" if resources.num_gpus else "cpu")
        keep_logs = True  # unless nothing went wrong
        came: list[Outcome] = []
        try:
            for outcome in executor.execute(units, make_worker, resources, watch.event):
                came.append(outcome)
                if not outcome.more:
                    self._record(came)
                    came = []
            keep_logs = watch.saw_losses
        except Drained as drained:
            keep_logs = watch.saw_losses
            raise KeyboardInterrupt(str(drained)) from None
        except ClusterLost:
            raise
        except OtherCode as other:
            raise UsageError(f"{other} What is stored was computed by this code.") from None
        except ClusterError as stop:
            watch.check()  # a store that vanished explains more than what its loss led to
            raise WorkError(str(stop)) from None
        finally:
            if (
                keep_logs and watch.logs is not None and watch.logs.parents[1].is_dir()
            ):  # not of a store that vanished
                getattr(executor, "keep_logs", lambda directory: None)(watch.logs)

    def _record(self, came: Sequence[Outcome]) -> None:
        """Put what came together into the ledger: one look at the lease, one sync of each artifact's journal."""
        self._watch.check()  # before lines in a ledger: the store may be another driver's by now
        receipts: dict[str, list[Receipt]] = defaultdict(list)
        for outcome in came:
            if outcome.error is not None:
                self._failures[outcome.unit.id] = outcome
                continue
            for key, receipt in outcome.result.items():
                receipts[key].append(Receipt.from_json(receipt))
        for key, own in receipts.items():
            planned, _ = self._by_key[key]
            self._groups[planned.artifact].record(*own)
            for receipt in own:
                planned.missing.done(receipt.shard)
            if not planned.missing:
                self._complete(planned.artifact)
        for outcome in came:
            self._watch.outcome(outcome)

    def _failed(self, plan: Plan, total: int) -> FailedUnitsError | None:
        own = [o for o in self._failures.values() if self._by_key[parse_unit_id(o.unit.id)[0]][1] is plan]
        return FailedUnitsError(_failure_text(own, total)) if own else None


def _make_ahead(plans: Sequence[Plan]) -> None:
    """Let a thread make what models leave in the cache while the workers start, which would each wait for it.

    What goes wrong is told by the worker that builds the model.
    """
    specs = {plan.context.model_spec for plan in plans if plan.units and plan.context.card.embedded}

    def make() -> None:
        for spec in specs:
            with contextlib.suppress(Exception):
                make_ahead(spec)

    if specs:
        threading.Thread(target=make, name="taba-models", daemon=True).start()


def _failure_text(failures: list[Outcome], total: int) -> str:
    own = [f for f in failures if not (f.error or "").startswith("not run")] or failures
    by_cause: dict[str, list[str]] = {}
    for failed in own:
        cause = (failed.error or "").strip().splitlines()[-1].rstrip(".")
        by_cause.setdefault(cause, []).append(failed.unit.label)
    listed = "; ".join(
        f"{labels[0]}{f' and {len(labels) - 1} more' if labels[1:] else ''}: {cause}"
        for cause, labels in list(by_cause.items())[:3]
    )
    return (
        f"{len(failures)} of {total} units failed ({len(own)} by themselves, the rest wait for them): {listed}. "
        "Everything else is stored; run the same command again to retry only these."
    )
