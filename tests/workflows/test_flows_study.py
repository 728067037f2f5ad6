"""Study `flows` from the command line on the flow that comes with taba: its numbers, tables and claims."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from engine_runs import result_of, taba

import taba_core
from taba_core.stats.floor import correlation_floor
from taba_core.theory import GaussianModes
from workflows.analysis.study import read_settings
from workflows.configuration.context import Context
from workflows.studies.flows.measures import VARIANCES
from workflows.studies.flows.variants import cases_of

SET = [
    "num_samples=4", "batch_size=4", "bootstrap_replicates=100", "flows.steps=4,5", "flows.grids=flux-1024,sd3",
    "flows.forward_steps=1,2", "patch_size=8", "top_k=5",
]  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    place = tmp_path_factory.mktemp("flows") / "store"
    asked = [part for text in SET for part in ("--set", text)]
    assert taba("run", "flows", "--model", "photo-flow", "--store", place, "--executor", "local", *asked) == 0
    return place


@pytest.fixture(scope="module")
def result(store):
    return result_of(store, "flows")


def array(store, result, request, variable):
    return taba_core.open_store(store)[result.attrs["artifacts"][request]][variable].values.astype(np.float64)


def test_spread_error_and_correlation_are_those_of_the_stored_arrays(store, result):
    region = array(store, result, "regions/flux-1024/4", "region")[:, None].astype(bool)
    noise, image = (array(store, result, "images/flux-1024/4", name) for name in ("noise", "image"))
    latent = array(store, result, "latent/flux-1024/4/exact-1", "latent")
    back = array(store, result, "image/flux-1024/4/exact-1", "reconstruction")
    row = result.sel(row="flux-1024/4/exact-1")
    assert 0 < region.mean() < 1
    for name, mask in (("plain", region), ("non_plain", ~region), ("all", region | True)):
        mask = np.broadcast_to(mask, latent.shape)
        of = row.sel(region=name)
        assert float(of["std"]) == pytest.approx(latent[mask].std(ddof=1), rel=1e-6)
        assert float(of["rmse"]) == pytest.approx(np.sqrt(np.square(image - back)[mask].mean()), rel=1e-6)
        expected = np.corrcoef(noise[mask], latent[mask])[0, 1]
        assert float(of["noise_correlation"]) == pytest.approx(expected, rel=1e-6)
        assert float(of["std_low"]) <= float(of["std"]) <= float(of["std_high"])
    # One step is replaced, which is one evaluation less up and none less down.
    assert (int(row["evaluations_up"]), int(row["evaluations_down"])) == (3, 4)


def test_closed_forms_are_those_of_the_rows_own_levels(result):
    cases = {case.name: case for case in cases_of(Context("photo-flow", "ddim", read_settings(SET)))}
    for place, rule in (("sd3/4/matched-1", "matched"), ("beside/4/exact-2", "exact")):
        case, steps, variant = place.split("/")
        modes = GaussianModes(np.array(VARIANCES), cases[case].context.grid(int(steps)))
        latent = modes.latent(int(variant[-1]), rule)
        assert result["std_theory"].sel(row=place).values == pytest.approx(latent.std, rel=1e-12)
        assert result["rmse_theory"].sel(row=place).values == pytest.approx(
            latent.reconstruction_rmse, rel=1e-9
        )
    assert np.isnan(result["std_theory"].sel(row="flux-1024/4/uni-inv")).all()


def test_a_step_by_what_the_sampler_carried_is_stored_and_its_share_told(store, result):
    """After step 1 the state is the sampler's own, so the rest is plain inversion of it; here of all the images."""
    plain, swapped = (
        result["std"].sel(row=f"sd3/4/{name}", region="plain").item() for name in ("euler", "swap-2")
    )
    told = float(result["regained"].sel(case="sd3", swapped_step=2))
    assert told == pytest.approx(1 - np.log(swapped) / np.log(plain), rel=1e-9)
    one, other = (array(store, result, f"latent/sd3/4/{name}", "latent") for name in ("euler", "swap-1"))
    assert np.isfinite(other).all() and abs(one - other).max() > 1e-4
    assert np.isnan(result["rmse"].sel(row="sd3/4/swap-1")).all()


def test_tables_have_n_floors_and_intervals_and_claims_are_told_by_model(store, result):
    tables = {
        path.stem: list(csv.DictReader(path.open()))
        for path in (store / "report" / "tables").glob("flows-*.csv")
    }
    assert {"flows-shift", "flows-replacement", "flows-repairs", "flows-steps"} <= set(tables)
    assert [row["Inversion"][-5:] for row in tables["flows-shift"]] == ["T = 4", "T = 5"] * 3
    assert len(tables["flows-replacement"]) == 3 * (
        3 + 2 + 3
    )  # exact, matched and source times of three cases
    written = json.loads((store / "report" / "results.json").read_text())
    text = json.dumps(written)
    floor = correlation_floor(4, 256, 5).mean
    assert result["correlation_floor"] == pytest.approx(floor) and f"{floor:.6}"[:6] in text
    claims = [claim["id"] for claim in json.loads(result.attrs["claims"])]
    assert claims == [
        "FM1", "FM2", "FM5", "FM6", "FM7", "FM8", "FM9", "FM10", "FM11", "FM12", "FM13", "FM14", "FM3", "FM4",
    ]  # fmt: skip
    assert (store / "report" / "figures").exists() and result.attrs["n"] == 4


def test_a_second_run_computes_nothing(store, capsys):
    asked = [part for text in SET for part in ("--set", text)]
    assert taba("plan", "flows", "--model", "photo-flow", "--store", store, *asked) == 0
    assert "0 network evaluations" in capsys.readouterr().out
