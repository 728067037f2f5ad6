"""How far a profile moves statistics: measured of every kind of network, kept in the store, printed, and refused."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

from taba_core.errors import UsageError
from taba_core.models.base import model_spec
from taba_core.store import Store
from workflows.bench import profile_drift, run_benchmarks
from workflows.configuration.drift import Drift, drift_line, drift_of, needs_drift, too_far, write_drift
from workflows.execution.run import run_studies
from workflows.planning.drift_gate import check_drift
from workflows.planning.jobs import Asked, check

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_checkpoints import tiny_dit
from tiny_text_checkpoints import save_tiny_if, save_tiny_sdxl

SMALL = {"num_samples": 32}
STATISTICS = ("correlation", "lag1", "error", "std")


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """Processors without 16-bit instructions take seconds for each evaluation of a tiny network."""
    monkeypatch.setattr(profile_drift, "STEPS", 3)


@pytest.mark.parametrize("model", ["adm-32", "dit", "if", "sdxl"])
def test_the_drift_of_conditioned_networks_is_measured(model):
    found = profile_drift.measure(models=[model], tiny=True, **SMALL).figures
    errors = [found[f"{model}_fast_error_{at}"] for at in range(5)]
    # Sixteen bits: 2^-8 or 2^-11 of a number, somewhat more of what many products add up to.
    assert all(1e-5 < error < 0.2 for error in errors)
    assert {found[f"{model}_exact_{name}_drift"] for name in STATISTICS} == {0.0}
    assert all(math.isfinite(found[f"{model}_fast_{name}_share"]) for name in STATISTICS)
    assert any(found[f"{model}_fast_{name}_drift"] for name in STATISTICS)


def test_a_profile_of_the_same_precision_drifts_by_rounding_alone():
    found = profile_drift.measure(models=["adm-32"], profiles=["reference"], tiny=True, **SMALL).figures
    # ADM-32's own precision is float32, and a CPU knows no TF32; the layout in memory orders sums otherwise.
    assert all(abs(value) < 1e-3 for key, value in found.items() if "_reference_" in key)


@pytest.mark.follows("intervals need two blocks of 16 images; use ")
def test_too_few_images_for_an_interval_are_refused():
    with pytest.raises(
        UsageError, match="--num-samples 31: intervals need two blocks of 16 images; use 32 or more"
    ):
        profile_drift.measure(models=["adm-32"], tiny=True, num_samples=31)
    assert profile_drift.measure(models=["adm-32"], tiny=True, **SMALL).figures


@pytest.mark.parametrize("make", [tiny_dit, save_tiny_if, save_tiny_sdxl])
def test_the_drift_of_trained_weights_is_kept_where_runs_find_it(tmp_path, make):
    model, store = str(make(tmp_path / "net")), str(tmp_path / "store")
    profile_drift.measure(models=[model], store=store, **SMALL)
    opened = Store.open(store)
    spec = model_spec(model, {"profile": "fast"})
    drift = drift_of(opened, spec)
    assert (drift.n, drift.T, drift.fingerprint, drift.compiled) == (32, 3, spec.fingerprint, False)
    assert len(drift.errors) == 5 and set(drift.statistics) == set(STATISTICS)
    assert drift_of(opened, model_spec(model, {"profile": "reference"})) is None
    assert drift_of(opened, model_spec(model, {"profile": "fast", "compile": True})) is None
    assert drift_line(opened, model_spec(model, {"profile": "exact"}), 8) == ""
    assert (
        drift_line(opened, model_spec(model, {"profile": "reference"}), 8) == "drift from exact not measured"
    )
    assert drift.text(8) in drift_line(opened, spec, 8)


def made_up(spec, *, share, n=100):
    """A drift whose statistics have moved by a share of half their interval at n images."""
    return Drift(
        model=spec.name, fingerprint=spec.fingerprint, profile="fast", compiled=False, n=n, T=10, device="a card",
        errors=(0.01, 0.02, 0.03, 0.04, 0.05), statistics=dict.fromkeys(STATISTICS, (1.0, 1.0 + 0.5 * share, 0.5)),
    )  # fmt: skip


def test_a_drift_is_a_share_of_the_half_interval_which_narrows_with_the_root_of_n(tmp_path):
    spec = model_spec(str(tiny_dit(tmp_path / "net")), {"profile": "fast"})
    drift = made_up(spec, share=0.04)
    assert drift.share("std", 100) == pytest.approx(0.04)
    # Four times the images: half the interval, twice the share. 0.04 * sqrt(n / 100) passes 0.1 at n = 625.
    assert drift.share("std", 400) == pytest.approx(0.08)
    assert too_far(drift, STATISTICS, 624) == [] and too_far(drift, ("std",), 626) == ["std"]
    assert needs_drift(spec) and not needs_drift(model_spec("gaussian"))
    assert "an evaluation differs by 1.0e-02 to 5.0e-02 (measured with n=100, T=10)" in drift.text(100)


def job(model, *sets, studies=("correlation",), store="nowhere"):
    return check(Asked(list(studies), str(store), str(model), "ddim", ["model.profile=fast", *sets]))


@pytest.mark.follows("Use --set model.profile=reference, or --set model.profile=")
def test_fast_is_refused_for_a_study_whose_numbers_would_show_it(tmp_path):
    model, place = tiny_dit(tmp_path / "net"), tmp_path / "store"
    store = Store.open(place, mode="a")
    spec = model_spec(str(model), {"profile": "fast"})
    write_drift(store, spec, made_up(spec, share=0.04))
    assert check_drift([job(model, "num_samples=600")], store) == []
    refused = job(model, "num_samples=2500", studies=("model-card", "correlation"))
    with pytest.raises(UsageError) as caught:
        check_drift([refused], store)
    # 0.04 * sqrt(25) = 0.2
    assert str(caught.value) == (
        f"profile=fast: it would move numbers of study correlation of {refused.context.title} by more than 0.1 of half "
        "their 95 % interval at n=2500: correlation of latents (Table 2) by 0.2, signed lag-1 of latents by 0.2. Use "
        "--set model.profile=reference, or --set model.profile=exact."
    )
    # The model card has no number that a network makes.
    assert check_drift([job(model, "num_samples=2500", studies=("model-card",))], store) == []
    for other in ("reference", "exact"):
        assert (
            check_drift(
                [check(Asked(["correlation"], str(place), str(model), "ddim", [f"model.profile={other}"]))],
                store,
            )
            == []
        )


def test_a_run_under_fast_says_what_is_not_measured_and_prints_it_under_its_tables_once_it_is(
    tmp_path, capsys
):
    model, place = tiny_dit(tmp_path / "net"), tmp_path / "store"
    (note,) = check_drift([job(model, store=place)], Store.open(place, mode="a"))
    command = note.partition("; taba bench ")[2].removesuffix(" measures it.").split()
    assert command == ["profile-drift", "--model", str(model), "--store", str(place)]
    run_benchmarks(
        ["profile-drift"], repeats=1, options={"models": [str(model)], "store": str(place), "num_samples": 32}
    )
    assert check_drift([job(model, "num_samples=4", store=place)], Store.open(place)) == []
    settings = [
        "num_samples=6",
        "num_inference_steps=3",
        "patch_size=4",
        "top_k=3",
        "bootstrap_replicates=100",
    ]
    asked = Asked(["correlation"], str(place), str(model), "ddim", ["model.profile=fast", *settings])
    run_studies([asked], address=None, executor="inline", workers=1, report=True)
    (name,) = Store.open(place).results()
    assert Store.open(place).read_result(name).attrs["drift"].startswith("drift of fast from exact")
    rows = json.loads((place / "report" / "results.json").read_text())
    assert all("drift of fast from exact in half-intervals at this n" in row["conventions"] for row in rows)
