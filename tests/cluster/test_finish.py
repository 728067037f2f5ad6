"""A unit that returns `Finish` is written while the next one computes, on every executor alike."""

import functools
import itertools

import cluster_workers as workers
import pytest

from cluster import Limits, LocalExecutor, RayExecutor, Resources, Unit


@pytest.fixture(
    params=["local-1", "local-2", *(pytest.param(f"ray-{n}", marks=pytest.mark.cluster) for n in "12")]
)
def make_executor(request):
    kind, count = request.param.split("-")
    if kind == "local":
        return functools.partial(LocalExecutor, int(count), retry_delay=0.01)
    request.getfixturevalue("ray_session")
    return functools.partial(RayExecutor, None, int(count), limits=Limits(refresh=0.2), retry_delay=0.01)


def run(executor, units):
    return {o.unit.id: o for o in executor.execute(units, workers.WritesBeside, Resources())}


def units_in(tmp_path, count, compute=0.02, write=0.02):
    return [Unit(f"u{i}", (str(tmp_path), f"u{i}", compute, write)) for i in range(count)]


def test_the_result_is_what_finish_returns_and_dependents_wait_for_it(make_executor, tmp_path):
    units = units_in(tmp_path, 6)
    units.append(Unit("last", (str(tmp_path), "last", 0.0, 0.0), after=("u5", "u0")))
    outcomes = run(make_executor(), units)
    assert {key: o.result for key, o in outcomes.items()} == {u.id: u.id.upper() for u in units}
    assert all(o.seconds >= 0.04 and o.attempts == 1 for o in outcomes.values() if o.unit.id != "last")
    times = {path.name: [int(t) for t in path.read_text().split()] for path in tmp_path.iterdir()}
    assert max(times["u5"][3], times["u0"][3]) <= times["last"][0]


def test_at_most_one_unit_is_unfinished_while_a_worker_computes(make_executor, tmp_path):
    # Writing takes four times as long as computing, so the writes are what a worker waits for.
    outcomes = run(make_executor(), units_in(tmp_path, 8, compute=0.02, write=0.08))
    overlapped = 0
    for name in {o.worker for o in outcomes.values()}:
        mine = [(tmp_path / o.unit.id).read_text().split() for o in outcomes.values() if o.worker == name]
        times = [[int(t) for t in line] for line in mine]
        for begin, _, _, _ in times:
            unfinished = [t for t in times if t[0] < begin < t[3]]
            assert len(unfinished) <= 1
            overlapped += len(unfinished)
        writes = sorted((start, end) for _, _, start, end in times)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(writes))
    inline = isinstance(make_executor(), LocalExecutor) and make_executor().workers == 1
    assert overlapped == 0 if inline else overlapped >= 4


def test_an_error_while_finishing_is_the_units_error_and_the_worker_stays(make_executor, tmp_path):
    units = [Unit("bad", (str(tmp_path), "broken", 0.0, 0.0)), *units_in(tmp_path, 3)]
    outcomes = run(make_executor(), units)
    assert (outcomes["bad"].error, outcomes["bad"].attempts) == ("OSError: the disk refuses", 4)
    assert outcomes["bad"].causes == ("OSError: the disk refuses",) * 4
    assert [outcomes[f"u{i}"].error for i in range(3)] == [None] * 3


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_session")
def test_a_unit_that_ends_its_worker_while_finishing_costs_its_neighbour_one_attempt_at_most(tmp_path):
    units = [Unit("bad", (str(tmp_path), "kills", 0.0, 0.0)), *units_in(tmp_path, 4, compute=0.3, write=0.0)]
    executor = RayExecutor(None, 1, limits=Limits(refresh=0.2), retry_delay=0.01)
    outcomes = run(executor, units)
    assert outcomes["bad"].attempts == 4 and len(outcomes["bad"].causes) == 4
    assert all(" lost: " in cause for cause in outcomes["bad"].causes)
    assert [outcomes[f"u{i}"].error for i in range(4)] == [None] * 4
    assert sum(outcomes[f"u{i}"].attempts for i in range(4)) <= 5
