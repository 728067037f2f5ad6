"""What the Ray executor survives: lost processes, hanging units, spoiled devices, nodes without room."""

import functools
import time

import cluster_workers as workers
import pytest

from cluster import Limits, NoWorkers, RayExecutor, Resources, Unit, offered
from cluster.ray.backend import RayBackend

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_session")]
QUICK = Limits(refresh=0.2, empty=0.5)


def run(units, worker, limits=QUICK, num_workers=2, resources=Resources()):
    executor = RayExecutor(num_workers=num_workers, retry_delay=0.01, limits=limits)
    return {outcome.unit.id: outcome for outcome in executor.execute(units, worker, resources)}


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_killed_worker_is_replaced_and_its_unit_run_again(tmp_path, num_workers):
    units = [Unit(f"u{i}", (str(tmp_path / f"{i}"), "kill" if i == 3 else "never")) for i in range(8)]
    outcomes = run(units, workers.Dies, num_workers=num_workers)
    assert [o.error for o in outcomes.values()] == [None] * 8
    assert {key: o.attempts for key, o in outcomes.items()} == {f"u{i}": 2 if i == 3 else 1 for i in range(8)}
    pids = {o.result for o in outcomes.values()}
    if num_workers == 1:
        assert len(pids) == 2 and outcomes["u2"].result != outcomes["u3"].result


def test_a_unit_that_always_ends_its_worker_is_given_up_and_the_others_complete(tmp_path):
    units = [Unit("bad", (str(tmp_path / "x"), "always")), Unit("after", None, after=("bad",))]
    units += [Unit(f"u{i}", (str(tmp_path / f"{i}"), "never")) for i in range(4)]
    outcomes = run(units, workers.Dies)
    assert outcomes["bad"].attempts == 4
    assert outcomes["bad"].error.startswith(f"worker {outcomes['bad'].worker} on ")
    assert " lost: " in outcomes["bad"].error and "\n" not in outcomes["bad"].error
    assert outcomes["after"].error == "not run: bad failed"
    assert [outcomes[f"u{i}"].error for i in range(4)] == [None] * 4


def test_a_hanging_unit_is_ended_at_its_deadline_and_run_again(tmp_path):
    limits = Limits(refresh=0.2, unit_min=0.5)
    units = [Unit(f"u{i}", (str(tmp_path / f"{i}"), "hang" if i == 6 else "never")) for i in range(8)]
    begin = time.monotonic()
    outcomes = run(units, workers.Dies, limits, num_workers=1)
    assert {key: o.attempts for key, o in outcomes.items()} == {f"u{i}": 2 if i == 6 else 1 for i in range(8)}
    assert outcomes["u6"].error is None and outcomes["u6"].result != outcomes["u5"].result
    assert time.monotonic() - begin < 20


def test_a_worker_that_takes_too_long_to_build_is_lost():
    with pytest.raises(NoWorkers, match=r"ended after 0\.5 s without an answer"):
        run([Unit("a", 0)], functools.partial(time.sleep, 600), Limits(refresh=0.2, load=0.5))


def test_results_and_errors_that_cannot_be_pickled_fail_their_unit_only():
    units = [Unit("result", "result"), Unit("error", "error"), Unit("fine", "fine")]
    outcomes = run(units, workers.Awkward, num_workers=1)
    assert "cannot pickle" in outcomes["result"].error and outcomes["result"].attempts == 4
    assert outcomes["error"].error == "RuntimeError: carries a lock"
    assert outcomes["fine"].error is None


def test_a_process_with_a_spoiled_device_is_not_used_again():
    outcomes = run([Unit("a", "device"), Unit("b", "pid")], workers.Awkward, num_workers=1)
    assert outcomes["a"].attempts == 4
    assert outcomes["a"].error == "AcceleratorError: CUDA error: an illegal memory access was encountered"
    assert outcomes["b"].error is None


def test_a_worker_gets_as_many_openmp_threads_as_cores():
    for cores in (1, 2):
        outcomes = run([Unit("a", "env")], workers.Awkward, resources=Resources(num_cpus=cores))
        assert outcomes["a"].result[1] == str(cores)


def test_a_request_no_node_can_hold_says_what_nodes_have():
    with pytest.raises(NoWorkers) as caught:
        run([Unit("a", 0)], workers.Echo, resources=Resources(num_cpus=1, num_gpus=3))
    assert "no node has room for a worker that holds 1 CPU, 3 GPU: " in str(caught.value)
    assert " has 2 CPU, 2 GPU, " in str(caught.value)


def test_describe_counts_nodes_and_cores():
    executor = RayExecutor(num_workers=2)
    assert executor.describe() == "Ray (local), up to 2 workers"
    list(executor.execute([Unit("a", 0)], workers.Echo, Resources()))
    assert executor.describe() == "Ray on the open connection: 1 nodes, 2 CPUs, 2 GPUs, up to 2 workers"


def test_two_workers_share_a_device_when_each_holds_half():
    resources = Resources(num_cpus=0.1, num_gpus=0.5)
    seen = {}

    def note(event):
        if event.kind == "worker-ready":
            seen[event.worker] = event.gpu

    executor = RayExecutor(limits=QUICK)
    # Enough units that the last worker is up before the first have done them all, on a busy machine too.
    outcomes = list(
        executor.execute([Unit(f"u{i}", "never") for i in range(24)], workers.Slow, resources, note)
    )
    assert sorted(seen.values()) == ["0", "0", "1", "1"]  # 2 devices / 0.5
    assert {(o.worker, o.gpu) for o in outcomes} <= set(seen.items())


def test_an_unavailable_actor_is_reported_as_lost_although_its_node_still_counts_as_alive(monkeypatch):
    import ray

    def unavailable(reference):
        raise ray.exceptions.ActorUnavailableError("The actor is temporarily unavailable", b"0" * 16)

    backend = RayBackend(b"", Resources(), lambda: None)
    done = ray.put(None)
    backend._owed[done] = ("ray-7", "unit")
    monkeypatch.setattr(ray, "get", unavailable)
    (answer,) = backend.poll(5.0)
    assert (answer.worker, answer.unit, answer.reply) == ("ray-7", "unit", None)
    assert answer.cause.startswith("ActorUnavailableError: ")
    assert len(backend.nodes()) == 1


def test_what_a_cluster_offers_is_counted_by_node():
    (node,) = offered()
    assert (node.offered["CPU"], node.offered["GPU"]) == (2, 2) and node.offered["memory"] > 0
