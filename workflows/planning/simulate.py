"""`taba simulate`: a plan's real units through the real scheduler on nodes that exist only in a clock.

Answers what a division cannot: how many nodes make sense when stages wait for each other, how long the tail is, what
failures cost. Durations are step times under the profile that is asked, so the answer is as good as they are.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from cluster.pool.events import Event
from cluster.pool.executor import Resources
from cluster.pool.units import Unit
from cluster.simulation.backend import Durations, Failures
from cluster.simulation.run import Simulation, simulate
from taba_core.artifacts.base import Artifact
from taba_core.errors import UsageError, unknown_name
from workflows.planning.jobs import Asked, check_all
from workflows.planning.plan import Plan
from workflows.planning.stages import (
    LOAD_SECONDS,
    REDUCE_BYTES_PER_SECOND,
    START_SECONDS,
    Machines,
    unit_seconds,
    weights_seconds,
)
from workflows.planning.units import JointUnits, parse_unit_id
from workflows.text import count_text, duration_text, print_table

_RATES = {
    "worker": "worker_loss_per_hour",
    "node": "node_loss_per_hour",
    "unit": "unit_error_rate",
    "hang": "hang_rate",
}
_NODE_RETURNS = 300.0  # seconds; the launcher starts Ray on a node again
# The driver: a look at the lease and a sync of some journals for outcomes that came together, then each of them.
BATCH_SECONDS, OUTCOME_SECONDS = 0.05, 0.0005
_SHORT = 0.05  # seconds of a unit that asks the network nothing: read, compute a mask, write


def parse_failures(text: str | None) -> Failures:
    """Rates from "worker=0.01/h,node=0.001/h,unit=0.001,hang=0.0001": losses an hour, shares of attempts.

    Raises:
      UsageError: an unknown name, no number, a negative one, or a share above 1.
    """
    values: dict[str, float] = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        match = re.fullmatch(r"\s*(\w+)\s*=\s*([0-9.eE+-]+)\s*(/h)?\s*", part)
        try:
            name, value = (match[1], float(match[2])) if match else ("", math.nan)
        except ValueError:
            name, value = "", math.nan
        if not value >= 0:
            raise UsageError(
                f"--failures {part.strip()}: write NAME=RATE, for example worker=0.01/h,node=0.001/h,unit=0.001."
            )
        if name not in _RATES:
            raise unknown_name("failure", name, _RATES)
        if name in ("unit", "hang") and value > 1:
            raise UsageError(f"--failures {name}={value:g}: a share of attempts is at most 1.")
        values[_RATES[name]] = value
    return Failures(**values, node_return_seconds=_NODE_RETURNS)


@dataclass(frozen=True)
class SimulatedRun:
    """The simulated run of several models' plans.

    Attributes:
      simulation: what the units came to; seconds from when the nodes are there.
      spans: by model and kind of artifact the first start and the last end of its units, seconds.
      analysed: when the last study was analysed, seconds.
    """

    simulation: Simulation
    spans: dict[tuple[str, str], tuple[float, float]]
    analysed: float

    @property
    def seconds(self) -> float:
        """When all is done."""
        return max(self.simulation.makespan, self.analysed)


def simulate_plans(
    plans: Sequence[Plan], machines: Machines, failures: Failures, seed: int, store: str = ""
) -> SimulatedRun:
    """The missing units of plans on machines, in one queue, and the studies beside them."""
    units, chains = JointUnits(plans, store, load=weights_seconds), [plan.chains for plan in plans]
    of_key = {p.artifact.key: (plan, p) for plan in plans for p in plan.artifacts if p.missing}
    number = {id(plan): index for index, plan in enumerate(plans)}

    @lru_cache(maxsize=4096)  # a unit is asked about several times while it runs
    def seconds(unit_id: str) -> tuple[float, float]:
        key, shard = parse_unit_id(unit_id)
        plan = of_key[key][0]
        return unit_seconds(plan, chains[number[id(plan)]], units.parts(unit_id), shard)

    def needs(unit: Unit) -> tuple[str, float]:
        plan = of_key[parse_unit_id(unit.id)[0]][0]
        return plan.context.title, weights_seconds(plan)

    spans: dict[tuple[str, str], tuple[float, float]] = {}
    ends: dict[Artifact, float] = {}

    def note(now: float, event: Event) -> None:
        if event.kind in ("unit-started", "unit-finished"):
            plan, planned = of_key[parse_unit_id(event.unit)[0]]
            of = plan.context.title, planned.artifact.kind
            first, last = spans.get(of, (now, now))
            spans[of] = (min(first, now), max(last, now))
        if event.kind == "unit-finished":
            ends.update((part.artifact, now) for part in units.parts(event.unit))

    offered = {"CPU": float(machines.workers_per_node)}
    simulation = simulate(
        units,
        Resources(num_cpus=1),
        [(f"node{i + 1}", offered) for i in range(machines.nodes)],
        Durations(
            lambda unit: max(_SHORT, seconds(unit.id)[0]),
            lambda unit: max(_SHORT, seconds(unit.id)[1]),
            LOAD_SECONDS,
            needs,
            lambda outcomes: BATCH_SECONDS + outcomes * OUTCOME_SECONDS,
        ),
        failures=replace(failures, seed=seed),
        watch=note,
    )
    return SimulatedRun(simulation, spans, _analysed(plans, ends))


def _analysed(plans: Sequence[Plan], ends: Mapping[Artifact, float]) -> float:
    """When the driver, which analyses one study after the other as their shards come, is done with the last."""
    ready = []
    for plan in plans:
        size = {planned.artifact: plan.bytes_of(planned) for planned in plan.artifacts}
        for study in plan.studies:
            read = {request.artifact for request in plan.requests[study.name].values()}
            seconds = sum(size[artifact] for artifact in read) / REDUCE_BYTES_PER_SECOND
            ready.append((max((ends.get(artifact, 0.0) for artifact in read), default=0.0), seconds))
    clock = 0.0
    for at, seconds in sorted(ready):
        clock = max(clock, at) + seconds
    return clock


def print_simulation(
    parts: list[Asked], all_machines: Sequence[Machines], failures: str | None, seed: int
) -> None:
    """Simulate all models' plans on each number of nodes; one table, and the stages where there is one number."""
    rates = parse_failures(failures)
    jobs, store = check_all(parts, write=False)
    plans = [plan for plan in (job.plan(store) for job in jobs) if plan.units]
    if not plans:
        print("nothing to compute: the store holds every artifact that was asked for.")
        return
    began = time.monotonic()
    rows = []
    for machines in all_machines:
        outcome = simulate_plans(plans, machines, rates, seed, parts[0].store)
        rows.append(_row(machines, outcome))
        if len(all_machines) == 1:
            _print_spans(outcome)
    header = (
        "nodes",
        "workers",
        "wall time",
        "used",
        "ideal",
        "tail",
        "loading",
        "lost",
        "analyses after",
        "attempts",
        "workers lost",
        "units failed",
    )
    print_table(header, rows)
    units = sum(plan.units for plan in plans)
    names = ", ".join(plan.context.title for plan in plans)
    print(
        f"\n{names}: {count_text(units)} units"
        + (", models in one queue" if len(plans) > 1 else "")
        + f"; start of the nodes counted with {START_SECONDS:.0f} s; "
        f"simulated in {duration_text(time.monotonic() - began)} (seed {seed})."
    )
    print(
        "used: share of the workers' time, from when each has loaded its first model, that is spent on units. ideal: "
        "what the units would take if nobody ever waited. tail: from when the first worker had nothing left to do.\n"
        "loading: worker time of loading models. lost: worker time of attempts that failed or were lost. analyses "
        "after: what the studies take beyond the last unit."
    )


def _row(machines: Machines, outcome: SimulatedRun) -> tuple[str, ...]:
    run = outcome.simulation
    units = run.busy_worker_seconds - run.loading_worker_seconds - run.lost_worker_seconds
    return (
        count_text(machines.nodes),
        count_text(machines.workers),
        duration_text(START_SECONDS + outcome.seconds),
        f"{run.utilisation:.1%}",
        duration_text(units / machines.workers),
        duration_text(run.tail_seconds),
        duration_text(run.loading_worker_seconds),
        duration_text(run.lost_worker_seconds),
        duration_text(outcome.seconds - run.makespan),
        count_text(run.attempts),
        count_text(run.workers_lost),
        count_text(len(run.failed_units)),
    )


_WIDTH = 60  # characters of the text timeline


def _print_spans(outcome: SimulatedRun) -> None:
    end = outcome.simulation.makespan
    width = max(len(kind) for _, kind in outcome.spans)
    for title in dict.fromkeys(title for title, _ in outcome.spans):
        spans = {kind: span for (of, kind), span in outcome.spans.items() if of == title}
        print(f"{title}: {duration_text(max(last for _, last in spans.values()))}")
        for kind, (first, last) in sorted(spans.items(), key=lambda item: item[1]):
            left, right = (round(_WIDTH * at / end) for at in (first, last))
            bar = " " * left + "=" * max(1, right - left)
            print(
                f"  {kind.ljust(width)} |{bar.ljust(_WIDTH)}| {duration_text(first)} to {duration_text(last)}"
            )
    lost = [
        (at, event) for at, event in outcome.simulation.timeline if event.kind in ("node-lost", "worker-lost")
    ]
    for at, event in lost[:5]:
        print(f"  {duration_text(at)}: {event.kind} {event.node or event.worker} {event.detail}".rstrip())
    if len(lost) > 5:
        print(f"  and {len(lost) - 5} more")
    print()


def with_nodes(machines: Machines, numbers: str) -> list[Machines]:
    """Machines for each number of a list such as "1,4,28,110".

    Raises:
      UsageError: not whole numbers above 0.
    """
    try:
        counts = [int(part) for part in numbers.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise UsageError(f"--nodes {numbers}: give whole numbers above 0, for example 4 or 1,4,28,110.")
    return [replace(machines, nodes=count) for count in counts]
