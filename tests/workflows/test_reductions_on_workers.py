"""Reductions of much data are made by workers: the same results to the bit, and the driver reads no state for them."""

from __future__ import annotations

from math import prod

import cloudpickle
import pytest
from engine_runs import ARGUMENTS, fingerprints, taba

from cluster.pool.executor import ClusterError, OtherCode, Resources
from cluster.pool.local import LocalExecutor
from cluster.pool.tasks import TaskFailed
from taba_core.errors import UsageError, WorkError
from taba_core.store import Store
from workflows.analysis import inputs as inputs_module
from workflows.analysis.inputs import Inputs, JoinedReader
from workflows.analysis.study import find_studies, read_settings
from workflows.configuration.context import Context
from workflows.execution.shared_executor import SharedExecutor

STUDIES = ("correlation", "step-error", "mapping")
SETTINGS = ("num_samples=40", "samples_per_shard=20", "num_inference_steps=4", "mapping_steps=4")
SETS = [part for setting in SETTINGS for part in ("--set", setting)]


class Elsewhere:
    """Makes calls on copies, from the last to the first, and says while it does: the driver does not read then."""

    workers = 2

    def __init__(self):
        self.inside, self.num_calls, self.num_closed = False, 0, 0

    def map(self, function, arguments):
        for place in reversed(range(len(arguments))):
            self.num_calls += 1
            made, given = cloudpickle.loads(cloudpickle.dumps((function, arguments[place])))
            self.inside = True
            found = made(*given)
            self.inside = False
            yield place, found

    def close(self):
        self.num_closed += 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("finished") / "store"
    command = ["run", *STUDIES, "--model", "gaussian", "--executor", "local", "--no-report"]
    assert taba(*command, "--store", path, *SETS) == 0
    return path


def analysed(path, name, mapper):
    context, (study,) = Context("gaussian", "ddim", read_settings(list(SETTINGS))), find_studies([name])
    inputs = Inputs(
        Store.open(path), study.requests(context), sample_shape=context.card.sample_shape, scheduler="sync",
        workers=1, mapper=lambda: mapper,
    )  # fmt: skip
    return study.analyse(inputs, context)


@pytest.mark.parametrize("name", STUDIES)
def test_workers_give_the_bits_of_the_driver_which_reads_next_to_nothing(finished, name, monkeypatch):
    here = analysed(finished, name, None)
    mapper, reads = Elsewhere(), []
    original = JoinedReader.__call__

    def noted(self, start, stop, variables):
        reads.append((mapper.inside, stop - start))
        return original(self, start, stop, variables)

    monkeypatch.setattr(JoinedReader, "__call__", noted)
    monkeypatch.setattr(inputs_module, "BYTES_FOR_WORKERS", 1)
    there = analysed(finished, name, mapper)
    assert there.identical(here) and mapper.num_calls > 1
    # The driver itself reads single samples, to show them; a reduction would read all forty.
    assert sum(size for inside, size in reads if not inside) < 40
    assert sum(size for inside, size in reads if inside) >= 40


def test_what_is_small_is_reduced_by_the_driver(finished):
    mapper = Elsewhere()
    analysed(finished, "correlation", mapper)
    assert mapper.num_calls == 0


def test_the_bytes_of_a_reduction_are_those_it_reads(finished):
    context, (study,) = (
        Context("gaussian", "ddim", read_settings(list(SETTINGS))),
        find_studies(["correlation"]),
    )
    asked = []
    inputs = Inputs(
        Store.open(finished), study.requests(context), sample_shape=context.card.sample_shape, scheduler="sync",
        workers=1, mapper=lambda: asked.append(1),
    )  # fmt: skip
    name = next(name for name, request in inputs.requests.items() if "image" in request.variables)
    each = 4 * prod(context.card.sample_shape)
    samples = -(-inputs_module.BYTES_FOR_WORKERS // each)
    columns = {"image": (name, "image"), "independent": None}
    assert inputs._scheduler(columns, samples - 1) == "sync" and not asked
    assert inputs._scheduler(columns, samples) == "sync" and asked == [1]
    assert inputs._scheduler(columns, 1, samples) == "sync" and asked == [1, 1]


class WithTasks(LocalExecutor):
    """An executor with a pool of calls, which notes what it was asked and how often it was closed."""

    def __init__(self, mapper):
        super().__init__(1)
        self.mapper, self.closed, self.beside = mapper, 0, []

    def task_pool(self, *, final, beside):
        assert issubclass(WorkError, final)
        self.beside.append(beside)
        return self.mapper

    def close(self):
        self.closed += 1


def test_one_executor_and_one_pool_serve_a_run_until_it_is_closed():
    executors = []

    def make():
        executors.append(WithTasks(Elsewhere()))
        return executors[-1]

    on_gpu = Resources(num_cpus=2, num_gpus=1)
    shared = SharedExecutor(make, on_gpu)
    shared.close()
    assert not executors  # what nobody needs is not made
    assert shared.get() is shared.get() is executors[0]
    assert shared.mapper() is shared.mapper() and executors[0].beside == [on_gpu]
    shared.close()
    assert (executors[0].closed, executors[0].mapper.num_closed) == (1, 1)
    assert shared.get() is executors[1]
    assert SharedExecutor(lambda: LocalExecutor(1), Resources()).mapper() is None


class Fails(Elsewhere):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def map(self, function, arguments):
        raise self.error
        yield


@pytest.mark.parametrize(
    "error", [TaskFailed("OSError: no route (4 attempts)"), ClusterError("Ray is gone.")]
)
@pytest.mark.follows("command again, or with --executor local, which reduces in this process.")
def test_a_reduction_that_fails_on_workers_is_made_by_the_same_command_or_here(tmp_path, monkeypatch, error):
    monkeypatch.setattr(inputs_module, "BYTES_FOR_WORKERS", 1)
    pools = [Fails(error), Elsewhere()]
    monkeypatch.setattr(
        "workflows.execution.run.choose_executor",
        lambda *given, **options: (lambda: WithTasks(pools[0]), Resources(), 1),
    )
    assert taba(*ARGUMENTS, "--store", tmp_path / "again") == 1
    del pools[0]
    assert taba(*ARGUMENTS, "--store", tmp_path / "again") == 0 and pools[0].num_calls
    monkeypatch.undo()
    assert taba(*ARGUMENTS, "--store", tmp_path / "here", "--executor", "local") == 0
    assert fingerprints(tmp_path / "again") == fingerprints(tmp_path / "here")


def test_other_code_on_a_node_is_the_users_to_mend():
    shared = SharedExecutor(lambda: WithTasks(Fails(OtherCode("node b runs other code."))), Resources())
    mapper = shared.mapper()
    assert mapper is not None
    with pytest.raises(UsageError, match="node b runs other code"):
        list(mapper.map(len, [("a",)]))
