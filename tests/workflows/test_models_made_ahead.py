"""What every worker would wait for at its first unit is made by the driver while workers start."""

import time

from cluster.pool.executor import Resources
from cluster.pool.local import LocalExecutor
from taba_core.store import Store
from workflows.analysis.study import find_studies, read_settings
from workflows.configuration.context import Context
from workflows.execution.engine import run_plan
from workflows.planning.plan import make_plan

SETTINGS = [
    "num_samples=4", "samples_per_shard=4", "num_inference_steps=2", "bootstrap_replicates=100",
    "model.num_components_per_photo=1", "model.rank=4",
]  # fmt: skip


def run(path, make_executor, model="photo-mixture"):
    settings = SETTINGS if model == "photo-mixture" else SETTINGS[:4]
    store, context = Store.open(path, mode="a"), Context(model, "ddim", read_settings(settings))
    plan = make_plan(context, find_studies(["model-card"]), store)
    return run_plan(plan, store, make_executor, Resources(), workers=1, scheduler="synchronous")


def fits(cache):
    return list(cache.glob("photo-mixture-*.npz"))


class LateWorkers(LocalExecutor):
    """Its workers start once the driver has made the fit."""

    def __init__(self, cache):
        super().__init__(1)
        self._cache = cache

    def execute(self, *given, **options):
        deadline = time.monotonic() + 120
        while not fits(self._cache):
            assert time.monotonic() < deadline, "nobody makes the fit"
            time.sleep(0.01)
        return super().execute(*given, **options)


def test_the_mixture_is_fitted_while_workers_start_and_not_for_what_is_finished(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("TABA_CACHE", str(cache))
    assert run(tmp_path / "s", lambda: LateWorkers(cache)).units == 1
    (fit,) = fits(cache)
    fit.unlink()
    assert run(tmp_path / "s", lambda: LocalExecutor(1)).units == 0
    assert run(tmp_path / "g", lambda: LocalExecutor(1), model="gaussian").units == 1
    assert not fits(cache)


def test_a_fit_that_fails_is_told_by_the_worker_that_needs_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TABA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("workflows.execution.computing.make_ahead", lambda spec: 1 / 0)
    assert run(tmp_path / "s", lambda: LocalExecutor(1)).units == 1


def test_other_models_leave_nothing_to_be_made(tmp_path, monkeypatch):
    from taba_core.models.base import make_ahead, model_spec

    monkeypatch.setenv("TABA_CACHE", str(tmp_path / "cache"))
    make_ahead(model_spec("gaussian"))
    assert not (tmp_path / "cache").exists()
