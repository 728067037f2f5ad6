"""What every executor promises, over one and two workers, in this process and on Ray."""

import functools
import os
import signal
import time

import cluster_workers as workers
import pytest

from cluster import Drained, Limits, LocalExecutor, NoWorkers, RayExecutor, Resources, StopRun, Unit

FAST = {"retry_delay": 0.01}
QUICK = Limits(refresh=0.2)


@pytest.fixture(
    params=[
        "local-1",
        "local-2",
        pytest.param("ray-1", marks=pytest.mark.cluster),
        pytest.param("ray-2", marks=pytest.mark.cluster),
    ]
)
def make_executor(request):
    kind, count = request.param.split("-")
    if kind == "local":
        return functools.partial(LocalExecutor, int(count), **FAST)
    request.getfixturevalue("ray_session")
    return functools.partial(RayExecutor, None, int(count), limits=QUICK, **FAST)


def run(executor, units, worker, **kwargs):
    return {outcome.unit.id: outcome for outcome in executor.execute(units, worker, Resources(), **kwargs)}


def started_units(ids):
    """An `on_event` that keeps the ids of the units that start."""
    return lambda event: ids.append(event.unit) if event.kind == "unit-started" else None


def test_each_unit_runs_once_and_returns_its_result(make_executor):
    units = [Unit(f"u{i}", i) for i in range(50)]
    outcomes = run(make_executor(), units, workers.Echo)
    assert {key: outcome.result for key, outcome in outcomes.items()} == {f"u{i}": i for i in range(50)}
    assert {(o.error, o.attempts) for o in outcomes.values()} == {(None, 1)}
    assert all(o.worker and o.node and o.seconds >= 0 for o in outcomes.values())


def test_no_units_need_no_worker(make_executor):
    assert run(make_executor(), [], workers.NeverBuilt) == {}


def test_a_unit_starts_after_its_dependencies_ended(make_executor, tmp_path):
    units = [Unit(f"a{i}", (str(tmp_path), f"a{i}", 0.01)) for i in range(6)]
    for i in range(6):
        units.append(Unit(f"b{i}", (str(tmp_path), f"b{i}", 0.01), after=(f"a{i}", f"a{(i + 1) % 6}")))
    outcomes = run(make_executor(), units, workers.Journal)
    begin, end = {}, {}
    for path in tmp_path.iterdir():  # 'x' mode: a second run of a unit would leave a second file
        name, start = path.name.split(".")
        assert name not in begin
        begin[name], end[name] = int(start), int(path.read_text())
    assert sorted(begin) == sorted(outcomes) and len(begin) == 12
    for unit in units:
        assert all(end[name] <= begin[unit.id] for name in unit.after)


def test_one_worker_keeps_the_given_order(make_executor):
    executor = make_executor()
    units = [Unit(name, name) for name in "cadb"]
    order = [outcome.unit.id for outcome in executor.execute(units, workers.Echo, Resources())]
    expected = list("cadb")
    one = getattr(executor, "workers", None) == 1 or getattr(executor, "num_workers", None) == 1
    assert (order if one else sorted(order)) == (expected if one else sorted(expected))


def test_every_third_call_raises_and_all_units_complete(make_executor):
    # Tried again at once: the next call of that worker succeeds, so no unit can fail four times.
    executor = make_executor(retry_delay=0.0)
    outcomes = run(executor, [Unit(f"u{i}", i) for i in range(20)], workers.EveryThirdFails)
    assert {key: o.result for key, o in outcomes.items()} == {f"u{i}": i * i for i in range(20)}
    # One worker makes 29 calls: 20 good ones and the 3rd, 6th, ... 27th, which is 9. Two workers that end
    # just before or just after a third call make one failure less or more.
    failures = sum(o.attempts - 1 for o in outcomes.values())
    assert 8 <= failures <= 10


def test_a_poisoned_unit_is_given_up_after_four_attempts_and_the_others_complete(make_executor):
    units = [Unit("bad", "poison"), Unit("next", 1, after=("bad",)), Unit("last", 2, after=("next",))]
    units += [Unit(f"u{i}", i) for i in range(5)]
    outcomes = run(make_executor(), units, workers.Poisoned)
    assert (outcomes["bad"].error, outcomes["bad"].attempts) == ("ValueError: this unit is poisoned", 4)
    assert "cluster_workers.py" in outcomes["bad"].trace
    assert (outcomes["next"].error, outcomes["next"].attempts) == ("not run: bad failed", 0)
    assert outcomes["last"].error == "not run: next failed"
    assert [outcomes[f"u{i}"].result for i in range(5)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("payload", ["hopeless", "hopeless at its end"])
def test_a_hopeless_unit_is_tried_once_and_the_others_complete(make_executor, payload):
    units = [Unit(str(i), i) for i in range(4)]
    units += [Unit("lost", payload), Unit("later", 5, after=("lost",))]
    outcomes = dict(run(make_executor(), units, workers.Hopeless))
    lost = outcomes.pop("lost")
    assert (lost.attempts, lost.error, lost.trace) == (1, "weights.bin is damaged. Download it again.", "")
    assert outcomes.pop("later").error == "not run: lost failed"
    assert sorted(o.result for o in outcomes.values()) == [0, 1, 2, 3]


def test_stop_run_ends_the_run_with_its_own_text(make_executor):
    started = []
    units = [Unit("a", 0), Unit("b", "stop")] + [Unit(f"u{i}", i) for i in range(100)]
    with pytest.raises(StopRun) as caught:
        run(make_executor(), units, workers.Poisoned, on_event=started_units(started))
    assert str(caught.value) == "no space left on /data; free some and run the same command again."
    assert started.count("b") == 1 and len(started) < 50


def test_stop_run_while_a_worker_is_built_reaches_the_caller(make_executor):
    with pytest.raises(StopRun, match=r"^the store is of another version\.$"):
        run(make_executor(), [Unit("a", 0)], workers.StopsWhileBuilt)


def test_a_unit_that_exits_python_is_given_up_like_one_that_raises(make_executor):
    units = [Unit("bad", "exit"), Unit("good", 1)]
    outcomes = run(make_executor(retry_delay=0.0), units, workers.Exits)
    assert outcomes["bad"].error == "SystemExit: 3" and outcomes["good"].result == 1


def test_a_worker_that_cannot_be_built_is_a_clear_error(make_executor):
    begin = time.monotonic()
    with pytest.raises(NoWorkers, match="RuntimeError: weights of adm-64 are missing"):
        run(make_executor(), [Unit(f"u{i}", 0) for i in range(4)], workers.NeverBuilt)
    assert time.monotonic() - begin < 60


def test_events_name_the_worker_that_reports_the_outcome(make_executor):
    started = {}
    units = [Unit(f"u{i}", i) for i in range(6)]

    def note(event):
        if event.kind == "unit-started":
            started[event.unit] = event.worker

    outcomes = run(make_executor(), units, workers.Echo, on_event=note)
    assert started == {key: outcome.worker for key, outcome in outcomes.items()}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_lets_running_units_finish_and_starts_no_other(make_executor, number, tmp_path):
    started, outcomes = [], []

    def interrupt_third(event):
        if event.kind == "unit-started":
            started.append(event.unit)
        if event.kind == "unit-started" and len(started) == 3:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    units = [Unit(f"u{i}", (str(tmp_path), f"u{i}", 0.05)) for i in range(10)]
    with pytest.raises(Drained) as caught:
        for outcome in make_executor().execute(units, workers.Journal, Resources(), interrupt_third):
            outcomes.append(outcome.unit.id)
    assert sorted(outcomes) == sorted(started) and 3 <= len(started) <= 4
    assert (caught.value.completed, caught.value.remaining) == (len(started), 10 - len(started))
    name = signal.Signals(number).name
    assert str(caught.value).startswith(f"stopped by {name}: {len(started)} units finished")
    assert signal.getsignal(number) == before


def test_a_stop_asked_while_the_last_unit_runs_is_not_lost(make_executor):
    outcomes = []

    def interrupt(event):
        if event.kind == "unit-started" and event.unit == "last":
            os.kill(os.getpid(), signal.SIGTERM)

    units = [Unit("first", 1), Unit("last", 2, after=("first",))]
    with pytest.raises(Drained, match="stopped by SIGTERM: 2 units finished, 0 left to do") as caught:
        for outcome in make_executor().execute(units, workers.Echo, Resources(), interrupt):
            outcomes.append(outcome.unit.id)
    assert outcomes == ["first", "last"] and caught.value.remaining == 0


def test_a_second_interrupt_does_not_wait(make_executor, tmp_path):
    def interrupt_twice(event):
        if event.kind == "unit-started":
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(
            make_executor(), [Unit("a", (str(tmp_path), "a", 0.0))], workers.Journal, on_event=interrupt_twice
        )


def test_a_drain_file_stops_the_run(make_executor, tmp_path):
    file = tmp_path / "drain"
    executor = make_executor(drain_file=file)
    with pytest.raises(Drained, match=f"stopped by the file {file}: "):
        run(
            executor, [Unit(f"u{i}", i) for i in range(10)], workers.Echo, on_event=lambda event: file.touch()
        )


def test_an_abandoned_run_leaves_the_executor_usable(make_executor):
    executor = make_executor()
    outcomes = executor.execute([Unit(f"u{i}", i) for i in range(10)], workers.Echo, Resources())
    next(outcomes)
    outcomes.close()
    assert run(executor, [Unit("again", 7)], workers.Echo)["again"].result == 7


def test_impossible_graphs_are_refused_before_anything_starts(make_executor):
    with pytest.raises(ValueError, match="cycle"):
        make_executor().execute([Unit("a", 0, after=("a",))], workers.NeverBuilt, Resources())


@pytest.mark.parametrize("make", [lambda: LocalExecutor(0), lambda: RayExecutor(num_workers=0)])
def test_zero_workers_are_refused(make):
    with pytest.raises(ValueError, match=r"=0; a .* executor needs 1 worker or more"):
        make()


@pytest.mark.follows("; give num_cpus or num_gpus above 0.", printed=True)
def test_resources_must_be_possible():
    with pytest.raises(
        ValueError, match=r"a worker must hold some CPU or GPU; give num_cpus or num_gpus above 0\."
    ):
        Resources(num_cpus=0)
    assert Resources(num_cpus=0.5).num_gpus == 0 and Resources(num_cpus=0, num_gpus=1).num_gpus == 1
    with pytest.raises(ValueError, match="holds a negative amount"):
        Resources(num_gpus=-1)
