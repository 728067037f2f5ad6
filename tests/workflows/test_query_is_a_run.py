"""A query of some samples of a store returns, bit for bit, what a run of only these samples reports."""

import pytest

import taba_core
from cluster.pool.executor import Resources
from cluster.pool.local import LocalExecutor
from taba_core.stats import query
from taba_core.store import Store
from workflows.analysis.study import find_studies
from workflows.configuration.context import Context
from workflows.configuration.settings import parse_settings
from workflows.execution.engine import run_plan
from workflows.planning.plan import make_plan

SETTINGS = ("num_inference_steps=5", "samples_per_shard=16", "bootstrap_replicates=100", "top_k=5")
STUDIES = ("correlation", "regions")


def run(path, num_samples):
    context = Context("gaussian", "ddim", parse_settings([*SETTINGS, f"num_samples={num_samples}"]))
    store = Store.open(path, mode="a")
    plan = make_plan(context, find_studies(list(STUDIES)), store)
    run_plan(plan, store, LocalExecutor, Resources(num_cpus=1), workers=1, scheduler="threads")
    return taba_core.open_store(path)


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs")
    return run(path / "many", 64), run(path / "few", 32)


def reported(tree, study):
    return taba_core.find(tree, kind="result", study=study)


def first(tree, kind, count=32):
    return taba_core.find(tree, kind=kind).isel(sample=slice(count))


def same_bits(found, reported, names):
    for ours, theirs in names.items():
        for suffix in ("", "_low", "_high"):
            value, told = found[ours + suffix].values, reported[theirs + suffix].values
            assert value.tobytes() == told.tobytes(), (theirs + suffix, value, told)


def test_the_correlation_of_half_a_store_is_that_of_a_run_of_half(trees):
    many, few = trees
    latent = first(many, "inversion").latent
    result = reported(few, "correlation")
    found = query.patch_correlation(latent, top_k=5).compute()
    same_bits(found, result, {"mean_top": "correlation_latent", "excess_r2": "excess_r2_latent"})
    assert float(found.mean_top_floor) == float(result["correlation_floor"])
    assert float(found.mean_top) != float(reported(many, "correlation")["correlation_latent"])
    lag = query.lag_correlation(latent, num_replicates=100).compute()
    same_bits(lag, result, {"value": "lag1_latent"})


def test_the_regions_of_half_a_store_are_those_of_a_run_of_half(trees):
    many, few = trees
    states = first(many, "generation").noise, first(many, "inversion").latent, first(many, "regions").region
    found = query.region_error(*states, num_replicates=100).compute()
    result = reported(few, "regions")
    same_bits(found, result, {"error": "error", "std": "std"})
