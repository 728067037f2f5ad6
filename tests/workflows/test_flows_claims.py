"""Claims of study `flows` on the closed forms they were worked out in, and what is asked for and refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from engine_runs import taba

from taba_core.conventions import ForwardLevel
from taba_core.diffusion import TimestepGrid, generate, invert_with_report, reconstruct
from taba_core.diffusion.ends import Ends, Held
from taba_core.diffusion.inversion import inversion_method_named
from taba_core.errors import UsageError
from taba_core.models.base import load_spec, model_spec, network_spec
from taba_core.stats.estimate import Estimate
from workflows.analysis.findings import Findings
from workflows.analysis.study import find_studies, read_settings
from workflows.configuration.context import Context
from workflows.execution.results import convention_line
from workflows.studies.flows.claims import Evidence, find_claims
from workflows.studies.flows.measures import VARIANCES, theory
from workflows.studies.flows.options import levels_named
from workflows.studies.flows.variants import Row, Variant, cases_of, noise_vp, rows_of

SMALL = ["num_samples=4", "bootstrap_replicates=100"]


def context(*sets: str, model: str = "photo-flow") -> Context:
    return Context(model, "ddim", read_settings([*SMALL, *sets]))


class Modes:
    """Ideal predictions of independent modes of VARIANCES, one a channel, on any levels."""

    sample_shape, value_range = (len(VARIANCES), 1, 1), (-1.0, 1.0)

    def __init__(self, grid: TimestepGrid) -> None:
        self.schedule = grid.schedule
        self.held = Held.VELOCITY if grid.schedule.is_flow else Held.NOISE

    def _ideal(self, x, level):
        lam = torch.tensor(VARIANCES, dtype=x.dtype).view(1, -1, 1, 1)
        power = level.signal_power * lam + level.noise_power
        return level.alpha * lam / power * x, level.sigma / power * x

    def eps(self, x, t, cond):
        return self._ideal(x, self.schedule.level_at(t))[1]

    def predict(self, x, level, cond):
        x_0, eps = self._ideal(x, self.schedule.level_at(level.time))
        return Ends(x, level, eps) if self.held is Held.NOISE else Held.VELOCITY.ends(eps - x_0, x, level)


def numbers_of(row: Row) -> dict[str, Estimate]:
    """What the study measures of a row, exactly: everything is linear in the noise of the image and the drawn noise."""
    variant, grid = row.variant, row.case.context.grid(row.steps)
    own = grid if variant.steps is None else row.case.context.grid(variant.steps)
    model, method = Modes(grid), inversion_method_named(variant.method, **variant.options)
    one = torch.ones(1, len(VARIANCES), 1, 1, dtype=torch.float64)
    image = generate(model, one, grid)
    options = {k: v for k, v in variant.settings.items() if k in ("network_time", "first_time", "held")}
    rule: ForwardLevel = variant.rule
    latent, back = [], []
    for x_0, noise in ((image, 0 * one), (0 * image, one)):
        report = invert_with_report(
            model, x_0, own, method, forward_noise=noise, forward_steps=variant.forward_steps, forward_level=rule,
            **options,
        )  # fmt: skip
        latent.append(report.latent.numpy().ravel())
        back.append(reconstruct(model, report.latent, own, method, carried=report.carried).numpy().ravel())
    std = np.hypot(*latent)
    values = {
        "std": std,
        "rmse": np.hypot(back[0] - image.numpy().ravel(), back[1]),
        "noise_correlation": latent[0] / std,
        "image_std": np.abs(image.numpy().ravel()),
        "apart": np.sqrt(2) * np.abs(back[1]),
    }
    return {name: Estimate.exact(value) for name, value in values.items()}


@pytest.fixture(scope="module")
def measured():
    asked = rows_of(context())
    return {row.name: numbers_of(row) for row in asked if not row.variant.swapped}


def test_every_claim_holds_in_closed_form_with_the_margins_that_were_worked_out(measured):
    found, asked = Findings(), context()
    rows = {
        name: {**of, "correlation": Estimate.exact(2.0 - of["std"].value[0])} for name, of in measured.items()
    }
    find_claims(Evidence(found, rows, cases_of(asked), (28, 50), Estimate.exact(0.1), 0.1))
    claims = {claim["id"]: claim for claim in json.loads(found.dataset().attrs["claims"])}
    assert list(claims) == [
        "FM1",
        "FM2",
        "FM5",
        "FM6",
        "FM7",
        "FM8",
        "FM9",
        "FM10",
        "FM11",
        "FM12",
        "FM13",
        "FM14",
    ]
    verdicts = {name: claim["verdict"] for name, claim in claims.items() if claim["verdict"] != "holds"}
    assert not verdicts
    margin = {name: {k: v["margin"] for k, v in claim["numbers"].items()} for name, claim in claims.items()}
    assert margin["FM5"] == pytest.approx(
        {"FLUX, K=1": 0.628 - 0.2, "SD 3, K=1": 0.1 - 0.0297, "SD 3, K=2": 0.5692 - 0.2}, abs=1e-3
    )
    assert margin["FM6"] == pytest.approx({"3": 1.184932 - 1.05, "flux-1024": 1.191236 - 1.05}, abs=1e-5)
    assert margin["FM7"] == pytest.approx(
        {"std, plain": 0.995266 - 0.638255, "RMSE, rest": 0.155 - 0.117}, abs=1e-3
    )
    assert margin["FM8"]["K=1 over both"] == pytest.approx(0.987006 - 0.638255, abs=1e-5)
    assert len(claims["FM10"]["numbers"]) == 5


def test_a_claim_that_is_turned_round_fails(measured):
    found, asked = Findings(), context()
    turned = {
        name: {"std": of["std"] * -1.0 + 2.0, "rmse": of["rmse"] * -1.0, "noise_correlation": of["std"]}
        for name, of in measured.items()
    }
    find_claims(Evidence(found, turned, cases_of(asked), (28, 50), Estimate.exact(0.1), 0.1))
    claims = json.loads(found.dataset().attrs["claims"])
    assert {claim["id"] for claim in claims if claim["verdict"] == "fails"} >= {
        "FM1",
        "FM2",
        "FM5",
        "FM7",
        "FM13",
    }


def test_the_closed_forms_of_the_tables_are_those_of_the_engine(measured):
    known = 0
    for row in rows_of(context()):
        if (latent := theory(row)) is not None:
            known += 1
            assert latent.std == pytest.approx(measured[row.name]["std"].value, rel=1e-9)
            assert latent.reconstruction_rmse == pytest.approx(
                measured[row.name]["rmse"].value, rel=1e-6, abs=1e-12
            )
    assert known > 60


class TestWhatIsAsked:
    def test_levels_have_the_shifts_of_their_publishers(self):
        assert levels_named("flux-1024").shift == pytest.approx(3.158193, abs=5e-7)
        assert levels_named("flux-512").shift == pytest.approx(1.877611, abs=5e-7)
        assert levels_named("sd3").model_options == {"shift": 3.0, "grid": "sd3-default"}
        cases = {case.name: case.context for case in cases_of(context())}
        first = {name: own.grid(28).upper_levels[0].sigma for name, own in cases.items() if name != "beside"}
        assert first == pytest.approx(
            {"1": 1 / 28, "flux-512": 0.065020, "3": 0.1, "flux-1024": 0.104721, "sd3": 0.008929}, abs=1e-6
        )
        assert cases["beside"].name == "photo-dit"

    def test_one_network_is_loaded_for_all_levels_and_images_have_keys_of_their_own(self):
        cases = [case for case in cases_of(context()) if case.name != "beside"]
        specs = [case.context.model_spec for case in cases]
        assert len({spec.canonical() for spec in specs}) == 5
        assert {network_spec(spec).canonical() for spec in specs} == {context().model_spec.canonical()}
        assert len({case.images(28).key for case in cases}) == 5
        assert "shift=3.0, grid=sd3-default" in convention_line(cases[-1].context)
        # The card's own levels are in no key.
        assert context().model_spec.options == {"profile": "exact", "compile": False}

    def test_a_row_says_its_conventions_whatever_the_preset_is(self):
        rows = {row.name: row for row in rows_of(context())}
        made = {
            name: rows[f"flux-1024/28/{name}"].variant.inversion(
                rows[f"flux-1024/28/{name}"].case.context, rows[f"flux-1024/28/{name}"].case.images(28)
            )
            for name in ("euler", "source", "matched-2", "noise-vp", "swap-2", "rf-inversion-other")
        }
        assert (made["euler"].network_time, made["euler"].held, made["euler"].swapped_step) == (
            "target",
            "auto",
            0,
        )
        assert (made["source"].network_time, made["source"].first_time) == ("source", "zero")
        assert (made["matched-2"].forward_steps, made["matched-2"].forward_level) == (2, "matched")
        assert made["noise-vp"].held == "noise-vp" and made["swap-2"].swapped_step == 2
        assert made["rf-inversion-other"].forward_seed == 43
        assert made["swap-2"].num_evaluations() == 27 + 28
        assert made["swap-2"].saved_evaluations(frozenset({made["swap-2"].source})) == 28

    @pytest.mark.follows("use --model photo-flow, or another flow")
    def test_a_model_that_is_no_flow_is_refused(self, capsys, tmp_path):
        asked = [part for text in [*SMALL, "flows.steps=4", "flows.grids=1"] for part in ("--set", text)]
        store = ("--store", tmp_path / "s")
        assert taba("plan", "flows", "--model", "photo-dit", *store, *asked) == 2
        assert "Photo DiT is none; use --model photo-flow" in capsys.readouterr().err
        assert taba("plan", "flows", "--model", "photo-flow", *store, *asked) == 0

    @pytest.mark.follows("study flows lays the levels itself; leave it out")
    def test_levels_are_not_given_twice(self):
        with pytest.raises(UsageError, match=r"^model\.shift=3: study flows lays the levels itself"):
            cases_of(context("model.shift=3"))
        assert cases_of(context("flows.grids=3"))

    def test_only_flows_have_a_shift(self):
        with pytest.raises(UsageError, match=r"^model\.shift=3\.0: Photo DiT is no flow"):
            _ = context("model.shift=3", model="photo-dit").card
        assert context(model="photo-dit").card.schedule.shift is None
        assert context("model.shift=3").card.schedule.shift == 3.0
        assert context("model.grid=sd3-default").card.grid.style == "sd3-default"

    @pytest.mark.follows("use none, or a variance-preserving model such as photo-dit")
    def test_what_is_beside_the_flow_is_no_flow(self):
        with pytest.raises(UsageError, match=r"^flows\.beside=photo-flow: Photo flow is a flow"):
            cases_of(context("flows.beside=photo-flow"))
        assert [c.name for c in cases_of(context("flows.beside=none", "flows.grids=1"))] == ["1"]
        assert [c.name for c in cases_of(context("flows.beside=photo-dit", "flows.grids=1"))] == [
            "1",
            "beside",
        ]

    @pytest.mark.follows("names no levels; use a shift above 0, ")
    def test_levels_that_nobody_laid_are_refused_with_those_that_there_are(self):
        for text in ("0", "flux", "-1", "inf"):
            with pytest.raises(
                UsageError, match="names no levels; use a shift above 0, flux-512, flux-1024 or sd3"
            ):
                read_settings([f"flows.grids=1,{text}"])
        assert read_settings(["flows.grids=1.5,flux-512,flux-1024,sd3"])

    def test_the_study_is_found_by_its_name_and_in_no_group(self):
        (study,) = find_studies(["flows"])
        assert study.by_name_only and study not in find_studies(["paper"])
        assert find_studies(["flow-claims"]) == [study]


def test_a_network_on_other_levels_is_the_same_network():
    spec = model_spec("photo-flow", {"shift": 3.0})
    one, other = load_spec(spec), load_spec(model_spec("photo-flow"))
    x, cond = (
        torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)),
        {"class_id": torch.tensor([1])},
    )
    assert torch.equal(one.eps(x, 400.0, cond), other.eps(x, 400.0, cond))
    assert spec.fingerprint == model_spec("photo-flow").fingerprint and spec.options["shift"] == 3.0


def test_the_variants_of_carried_noise_and_of_plain_steps_are_two_artifacts():
    (case, *_) = cases_of(context())
    plain, noise = (v.inversion(case.context, case.images(28)) for v in (Variant("euler", ""), noise_vp()))
    assert plain.key != noise.key and "held" not in plain.content() and noise.content()["held"] == "noise-vp"
