"""Where a worker runs and what it holds: by the model, the machine, the cluster, and what the user asked."""

import pytest

from cluster import ClusterUnreachable, LocalExecutor, Node, RayExecutor, Resources
from taba_core.errors import UsageError, WorkError
from workflows.execution import resources
from workflows.execution.resources import worker_resources
from workflows.execution.run import choose_executor


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """A machine without devices, no cluster around it."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(resources, "_has_gpu", lambda: False)
    monkeypatch.setattr(
        "cluster.ray.executor.offered", lambda address: pytest.fail("nothing was to be asked")
    )


@pytest.fixture
def gpu_cluster(monkeypatch):
    """Addresses asked, of a cluster whose head has no device."""
    asked = []

    def offered(address):
        asked.append(address)
        return [Node("h", "head", {"CPU": 16.0}), Node("n", "node", {"CPU": 72.0, "GPU": 4.0})]

    monkeypatch.setattr("cluster.ray.executor.offered", offered)
    return asked


def test_a_driver_without_a_device_uses_those_of_its_cluster(gpu_cluster, monkeypatch):
    assert worker_resources("ray", "head:6379", embedded=False) == Resources(num_cpus=1, num_gpus=1)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert worker_resources("ray", None, embedded=False, gpus_per_worker=0.5).num_gpus == 0.5
    assert gpu_cluster == ["head:6379", "auto"]


def test_an_embedded_model_stays_on_cpus_and_asks_nobody(monkeypatch):
    monkeypatch.setattr(resources, "_has_gpu", lambda: pytest.fail("nothing was to be asked"))
    assert worker_resources("ray", "head:6379", embedded=True) == Resources(num_cpus=1, num_gpus=0)


def test_on_one_machine_the_machine_decides(monkeypatch):
    assert worker_resources("ray", None, embedded=False).num_gpus == 0
    monkeypatch.setattr(resources, "_has_gpu", lambda: True)
    for executor in ("ray", "local", "inline"):
        assert worker_resources(executor, None, embedded=False).num_gpus == 1
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # of no meaning without Ray
    assert worker_resources("local", None, embedded=False).num_gpus == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"gpus_per_worker": 0.5}, "--gpus-per-worker 0.5: this machine has no GPU; leave the option out."),
        (
            {"gpus_per_worker": 1.5},
            "--gpus-per-worker 1.5: give a part of a device, such as 0.5, or a whole number",
        ),
        ({"gpus_per_worker": 0}, "--gpus-per-worker 0: give a part of a device"),
        ({"gpus_per_worker": 1, "embedded": True}, "this model computes on CPUs only"),
        ({"gpus_per_worker": 1, "executor": "local"}, "--executor local has no workers that hold devices"),
    ],
)
def test_impossible_shares_are_refused(options, text):
    with pytest.raises(UsageError, match=text.replace(".", r"\.")):
        worker_resources(**{"executor": "ray", "address": None, "embedded": False} | options)


def test_a_cluster_that_does_not_answer_is_one_error_before_work(monkeypatch):
    def offered(address):
        raise ClusterUnreachable(f"no Ray cluster answers at {address}")

    monkeypatch.setattr("cluster.ray.executor.offered", offered)
    with pytest.raises(WorkError, match="no Ray cluster answers at head:6379"):
        worker_resources("ray", "head:6379", embedded=False)


def test_executors_by_name():
    make, held, cores = choose_executor("inline", None, None, embedded=True)
    assert isinstance(make(), LocalExecutor) and make().workers == cores == 1
    make, held, cores = choose_executor("local", None, 3, embedded=True)
    assert make().workers == cores == 3 and held == Resources()
    make, _, _ = choose_executor("ray", None, 2, embedded=True)
    assert isinstance(make(), RayExecutor) and make().num_workers == 2


@pytest.mark.parametrize(
    ("name", "address", "workers", "text"),
    [
        ("threads", None, None, r"--executor threads: use ray \(the default\), local or inline\."),
        ("inline", "auto", None, "--address names a Ray cluster; it cannot go with --executor inline"),
        ("inline", None, 2, "--executor inline has one worker; use --executor local for several threads"),
    ],
)
def test_impossible_executors_are_refused(name, address, workers, text):
    with pytest.raises(UsageError, match=text):
        choose_executor(name, address, workers, embedded=True)
