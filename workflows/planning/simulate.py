"""`taba simulate`: a plan's real units through the real scheduler on nodes that exist only in a clock.

Answers what a division cannot: how many nodes make sense when stages wait for each other, how long the tail is, what
failures cost. Durations are step times under the profile that is asked, so the answer is as good as they are.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cluster.pool.events import Event
from cluster.pool.executor import Resources
from cluster.pool.units import Unit
from cluster.simulation.backend import Durations, Failures
from cluster.simulation.run import Simulation, simulate
from taba_core.errors import UsageError, unknown_name
from workflows.planning.jobs import Asked, check_all
from workflows.planning.plan import Plan
from workflows.planning.stages import START_SECONDS, Machines, load_seconds, unit_seconds
from workflows.planning.units import PlanUnits, parse_unit_id
from workflows.text import count_text, duration_text, print_table

_RATES = {
    "worker": "worker_loss_per_hour",
    "node": "node_loss_per_hour",
    "unit": "unit_error_rate",
    "hang": "hang_rate",
}
_NODE_RETURNS = 300.0  # seconds; the launcher starts Ray on a node again
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
    """One model's simulated run.

    Attributes:
      simulation: what it came to; seconds from when the nodes are there.
      spans: first start and last end of the units of each kind, seconds.
    """

    simulation: Simulation
    spans: dict[str, tuple[float, float]]


def simulate_plan(
    plan: Plan, machines: Machines, failures: Failures, seed: int, store: str = ""
) -> SimulatedRun:
    """The missing units of a plan on machines."""
    units, chains = PlanUnits(plan, store), plan.chains
    by_key = {planned.artifact.key: planned for planned in plan.artifacts}

    def seconds(which: int) -> Callable[[Unit], float]:
        def of(unit: Unit) -> float:
            _, shard = parse_unit_id(unit.id)
            return max(_SHORT, unit_seconds(plan, chains, units.parts(unit.id), shard)[which])

        return of

    spans: dict[str, tuple[float, float]] = {}

    def note(now: float, event: Event) -> None:
        if event.kind in ("unit-started", "unit-finished"):
            kind = by_key[parse_unit_id(event.unit)[0]].artifact.kind
            first, last = spans.get(kind, (now, now))
            spans[kind] = (min(first, now), max(last, now))

    offered = {"CPU": float(machines.workers_per_node)}
    simulation = simulate(
        units,
        Resources(num_cpus=1),
        [(f"node{i + 1}", offered) for i in range(machines.nodes)],
        Durations(seconds(0), seconds(1), load_seconds(plan)),
        failures=replace(failures, seed=seed),
        watch=note,
    )
    return SimulatedRun(simulation, spans)


def print_simulation(
    parts: list[Asked], all_machines: Sequence[Machines], failures: str | None, seed: int
) -> None:
    """Simulate every model's plan on each number of nodes; one table, and the stages where there is one number."""
    rates = parse_failures(failures)
    jobs, store = check_all(parts, write=False)
    plans = [plan for plan in (job.plan(store) for job in jobs) if plan.units]
    if not plans:
        print("nothing to compute: the store holds every artifact that was asked for.")
        return
    began = time.monotonic()
    rows = []
    for machines in all_machines:
        outcomes = [simulate_plan(plan, machines, rates, seed, parts[0].store) for plan in plans]
        rows.append(_row(machines, outcomes))
        if len(all_machines) == 1:
            for plan, outcome in zip(plans, outcomes, strict=True):
                _print_spans(plan, outcome)
    header = (
        "nodes",
        "workers",
        "wall time",
        "used",
        "tail",
        "lost",
        "attempts",
        "workers lost",
        "units failed",
    )
    print_table(header, rows)
    units = sum(plan.units for plan in plans)
    names = ", ".join(plan.context.title for plan in plans)
    print(
        f"\n{names}: {count_text(units)} units"
        + (", models one after another" if len(plans) > 1 else "")
        + f"; start of the nodes counted with {START_SECONDS:.0f} s; "
        f"simulated in {duration_text(time.monotonic() - began)} (seed {seed})."
    )
    print(
        "used: share of the workers' time spent on units. tail: from when the first worker had nothing left to do.\n"
        "lost: worker time of attempts that failed or were lost."
    )


def _row(machines: Machines, outcomes: Sequence[SimulatedRun]) -> tuple[str, ...]:
    runs = [outcome.simulation for outcome in outcomes]
    had = sum(run.busy_worker_seconds / run.utilisation for run in runs if run.utilisation)
    busy = sum(run.busy_worker_seconds for run in runs)
    return (
        count_text(machines.nodes),
        count_text(machines.workers),
        duration_text(START_SECONDS + sum(run.makespan for run in runs)),
        f"{busy / had:.1%}" if had else "",
        duration_text(sum(run.tail_seconds for run in runs)),
        duration_text(sum(run.lost_worker_seconds for run in runs)),
        count_text(sum(run.attempts for run in runs)),
        count_text(sum(run.workers_lost for run in runs)),
        count_text(sum(len(run.failed_units) for run in runs)),
    )


_WIDTH = 60  # characters of the text timeline


def _print_spans(plan: Plan, outcome: SimulatedRun) -> None:
    end = outcome.simulation.makespan
    print(f"{plan.context.title}: {duration_text(end)}")
    width = max(map(len, outcome.spans))
    for kind, (first, last) in sorted(outcome.spans.items(), key=lambda item: item[1]):
        left, right = (round(_WIDTH * at / end) for at in (first, last))
        bar = " " * left + "=" * max(1, right - left)
        print(f"  {kind.ljust(width)} |{bar.ljust(_WIDTH)}| {duration_text(first)} to {duration_text(last)}")
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
