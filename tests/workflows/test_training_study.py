"""Study `training` on networks that are trained here: what is asked, what is measured, what is shown."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from trained_networks import recipe, train

import workflows.studies.training as study_module
from cluster.pool.executor import Resources
from cluster.pool.local import LocalExecutor
from taba_core.store import Store
from workflows.analysis.study import find_studies, read_settings
from workflows.configuration.context import Context
from workflows.execution.engine import run_plan
from workflows.planning.plan import make_plan
from workflows.report.from_store import write_store_report

STEPS = (0, 10, 20, 30, 60)
SMALL = ("num_samples=32", "num_inference_steps=5", "bootstrap_replicates=100", "batch_size=16")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two trainings of 60 steps at 8x8, each kept at five steps."""
    folder = tmp_path_factory.mktemp("trained")
    torch.set_num_threads(1)
    return tuple(train(folder / f"{seed}", recipe(), STEPS, seed=seed) for seed in (0, 10))


def context_of(run, *sets):
    return Context(run.checkpoints[-1].model.location.rsplit("/", 1)[0] + "/card.yaml", "ddim", read_settings([*SMALL, *sets]))


def carried_out(place, context, monkeypatch, runs):
    monkeypatch.setattr(study_module, "trained_runs", lambda _: runs)
    store = Store.open(place, mode="a")
    plan = make_plan(context, find_studies(["training"]), store)
    run_plan(plan, store, lambda: LocalExecutor(1), Resources(), workers=1, scheduler="synchronous")
    return store, plan


@pytest.fixture(scope="module")
def done(trained, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("training") / "store"
        store, plan = carried_out(place, context_of(trained[0]), patch, trained)
        (name,) = store.results()
        yield place, store, plan, store.read_result(name)


def test_it(done):
    place, store, plan, result = done
    print(result)
    for c in json.loads(result.attrs["claims"]):
        print(json.dumps(c, indent=1))
