"""Calls on the workers of a pool: what they return, how they fail, and that the workers stay."""

import functools
import os

import cluster_workers as workers
import pytest

from cluster import Limits, RayExecutor, Resources
from cluster.pool.backend import Node
from cluster.pool.capacity import without
from cluster.pool.local import InlineBackend, ThreadBackend
from cluster.pool.pool import Pool
from cluster.pool.tasks import Caller, TaskFailed, TaskPool
from cluster.ray.backend import RayBackend

QUICK = Limits(refresh=0.2)


def here(backend, count):
    """A pool in this process whose calls are tried again at once."""

    def open_pool():
        made = backend(functools.partial(Caller, (KeyError,)), count)
        return Pool(made, Resources(), count, QUICK, can_grow=False), made

    return TaskPool(open_pool)


@pytest.fixture(params=["inline", "threads", pytest.param("ray", marks=pytest.mark.cluster)])
def pool(request):
    if request.param == "ray":
        request.getfixturevalue("ray_session")
        made = RayExecutor(None, 2, limits=QUICK).task_pool(final=(KeyError,))
    else:
        made = here(InlineBackend, 1) if request.param == "inline" else here(ThreadBackend, 2)
    yield made
    made.close()


def test_every_call_comes_back_once_with_its_place_and_the_workers_stay(pool):
    first, second = (list(pool.map(workers.process_and, [(i,) for i in range(8)])) for _ in range(2))
    for found in (first, second):
        assert {place: value for place, (_, value) in found} == {i: i for i in range(8)} and len(found) == 8
    # A second worker may become ready after the first calls; one that is there stays.
    assert {process for _, (process, _) in second} >= {process for _, (process, _) in first}
    assert pool.workers in (1, 2) and list(pool.map(workers.process_and, [])) == []


def test_a_final_error_comes_as_it_was_raised_and_the_next_calls_are_made(pool):
    with pytest.raises(KeyError, match="no KeyError here"):
        list(pool.map(workers.refuses, [("KeyError",)] * 3))
    assert len(list(pool.map(workers.process_and, [(1,), (2,)]))) == 2


def test_calls_that_nobody_waits_for_any_more_are_not_taken_for_others(pool):
    for _ in pool.map(workers.process_and, [(i,) for i in range(8)]):
        break
    assert {value for _, (_, value) in pool.map(workers.process_and, [(i,) for i in range(9, 12)])} == {
        9,
        10,
        11,
    }


def test_any_other_error_is_tried_again_and_then_named():
    with pytest.raises(TaskFailed, match=r"OSError: no OSError here \(4 attempts\)"):
        list(here(InlineBackend, 1).map(workers.refuses, [("OSError",)]))


@pytest.mark.cluster
def test_a_call_whose_worker_dies_is_made_again_on_another(ray_session, tmp_path):
    pool = RayExecutor(None, 1, limits=QUICK).task_pool()
    ((_, (first, _)),) = pool.map(workers.process_and, [(0,)])
    ((_, second),) = pool.map(workers.dies_once, [(str(tmp_path / "marker"),)])
    assert first != second and os.getpid() not in (first, second)
    pool.close()


@pytest.mark.cluster
def test_calls_leave_the_cores_of_workers_with_devices_alone(ray_session):
    beside = Resources(num_cpus=0.5, num_gpus=1)  # two of them fit on two cores and two devices
    backend = RayBackend(b"", Resources(), beside=beside)
    (node,) = backend.nodes()
    assert (node.offered["CPU"], node.offered["GPU"]) == (1, 0)


def test_what_is_left_of_a_node_beside_workers():
    node = Node("a", "a", {"CPU": 72, "GPU": 4, "memory": 2e9})
    assert without(node, Resources(num_cpus=2, num_gpus=0.5)).offered == {"CPU": 56, "GPU": 0, "memory": 2e9}
    assert without(node, Resources(num_cpus=2, num_gpus=8)).offered == node.offered
