"""The paper's 25,000 units on 110 nodes of 4 GPUs through the real scheduler: seconds a simulation takes."""

from __future__ import annotations

from workflows.analysis.study import PAPER
from workflows.bench.paired import Measurement, TableRow, run_pairs, timed
from workflows.planning.jobs import Asked, check_all, each_model
from workflows.planning.simulate import parse_failures, simulate_plans
from workflows.planning.stages import Machines
from workflows.text import count_text, duration_text

_BAD_DAY = "worker=0.02/h,node=0.01/h,unit=0.001"
_TARGET_S = 30.0


def measure(*, repeats: int) -> Measurement:
    """The plans of all models in one queue: nothing fails, and a bad day."""
    jobs, _ = check_all(each_model(Asked([PAPER], "", "", "ddim", []), [PAPER]), write=False)
    plans = [job.plan(None) for job in jobs]
    machines = Machines(110, 4)

    def simulated(failures: str) -> None:
        simulate_plans(plans, machines, parse_failures(failures), seed=0)

    pairs = run_pairs(timed(lambda: simulated("")), timed(lambda: simulated(_BAD_DAY)), repeats=repeats)
    units = count_text(sum(plan.units for plan in plans))
    rows = (
        TableRow("all models of the paper", units, "nothing fails", duration_text(pairs.medians[0])),
        TableRow(
            "",
            units,
            _BAD_DAY,
            duration_text(pairs.medians[1]),
            ratio=f"{pairs.ratio:.2f}",
            target=f"<= {_TARGET_S:.0f} s",
        ),
    )
    return Measurement(rows, {"seconds": pairs.medians[0], "seconds_bad_day": pairs.medians[1]})
