"""`taba simulate` replays the scheduler: it agrees with hand arithmetic, and failures cost what they hit."""

from __future__ import annotations

import math

import pytest

from taba_core.errors import UsageError
from workflows.planning.jobs import Asked, check_all, each_model
from workflows.planning.simulate import parse_failures, print_simulation, simulate_plans, with_nodes
from workflows.planning.stages import Machines, load_seconds, timetable


def parts_of(*studies, model="adm-64", n=1280):
    return each_model(Asked(list(studies), "nowhere", "", "ddim", [f"num_samples={n}"]), [model])


def plan_of(*studies, **options):
    return check_all(parts_of(*studies, **options), write=False)[0][0].plan(None)


def test_one_worker_does_everything_after_loading():
    plan = plan_of("correlation")
    run = simulate_plans([plan], Machines(1, 1), parse_failures(None), seed=0).simulation
    # 20 shards of 64 images, generation and inversion at T = 100: 40 units of 64 * 100 * .093 / 128 = 4.65 s.
    assert run.makespan == pytest.approx(load_seconds(plan) + 40 * 4.65, abs=1.0)
    assert run.attempts == 40 and run.completed == 40
    assert run.utilisation == pytest.approx(1, abs=0.01)


def test_stages_overlap_so_a_replay_is_never_slower_than_stage_after_stage():
    plan = plan_of("correlation", "fix", model="dit")
    machines = Machines(2, 3)
    run = simulate_plans([plan], machines, parse_failures(None), seed=0)
    table = timetable(plan, machines)
    staged = sum(stage.seconds for stage in table.stages)
    computing = run.simulation.makespan - table.load_seconds
    least = math.fsum(stage.device_seconds for stage in table.stages) / machines.workers
    assert 0.98 * least <= computing <= 1.02 * staged
    generation, reconstruction = (
        run.spans[plan.context.title, kind] for kind in ("generation", "reconstruction")
    )
    assert generation[0] < reconstruction[0] < reconstruction[1]


def test_failures_cost_attempts_and_the_same_seed_meets_the_same():
    plan, rates = plan_of("correlation"), parse_failures("unit=0.1")
    first, again = (simulate_plans([plan], Machines(1, 4), rates, seed=3).simulation for _ in range(2))
    calm = simulate_plans([plan], Machines(1, 4), parse_failures(None), seed=3).simulation
    assert first == again
    assert first.attempts > calm.attempts == 40
    assert first.lost_worker_seconds > 0 == calm.lost_worker_seconds
    assert not first.failed_units  # four attempts each: .1^4 of 40 units is none


def test_the_table_answers_how_many_nodes_make_sense(capsys):
    print_simulation(parts_of("correlation"), with_nodes(Machines(1, 4), "1,2"), None, 0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["nodes", "workers"]
    assert lines[2].split()[:2] == ["1", "4"] and lines[3].split()[:2] == ["2", "8"]
    assert "40 units" in "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("worker", "--failures worker: write NAME=RATE"),
        ("worker=-1", "--failures worker=-1: write NAME=RATE"),
        ("nods=1", "unknown failure 'nods'"),
        ("unit=2", "a share of attempts is at most 1"),
    ],
)
def test_rates_that_cannot_be_are_refused(text, message):
    with pytest.raises(UsageError, match=message):
        parse_failures(text)


@pytest.mark.parametrize("numbers", ["0", "4,x", "-2", ""])
def test_numbers_of_nodes_that_cannot_be_are_refused(numbers):
    with pytest.raises(UsageError, match="give whole numbers above 0"):
        with_nodes(Machines(1, 4), numbers)
