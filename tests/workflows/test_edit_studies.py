"""Studies `edits` and `compressibility`: refusals, numbers by their definitions, claims on margins, the report."""

from __future__ import annotations

import json

import numpy as np
import pytest
from engine_runs import result_of, taba

from taba_core.models.photos import load_photos
from taba_core.stats.compressibility import MIN_PIXELS, png_bits, to_bytes
from taba_core.stats.estimate import Estimate
from taba_core.stats.similarity import structural_similarity
from taba_core.store import Store
from workflows.analysis.edits import Start
from workflows.analysis.findings import Findings
from workflows.analysis.published import paper_value
from workflows.analysis.study import read_settings, studies
from workflows.compute.conditioning import draw
from workflows.configuration.context import Context
from workflows.studies.compressibility import _IN_PAPER, _TITLES
from workflows.studies.edits.claims import find_claims

follows = pytest.mark.follows


# ---------------------------------------------------------------- refusals


@follows(" is none; use a flow such as photo-flow, or leave edits.flow_edit out.")
def test_flow_edit_needs_a_flow_and_steps_of_it(capsys):
    few = ["--set", "num_samples=8", "--set", "num_inference_steps=10", "--set", "edits.flow_edit=60%"]
    assert taba("plan", "edits", *few) == 2
    assert "and Photo mixture is none; use a flow such as photo-flow, or leave" in capsys.readouterr().err
    assert taba("plan", "edits", *few, "--model", "photo-flow") == 0
    assert taba("plan", "edits", *few[:4]) == 0


@follows(": no step leaves every image as it is; use 1 to ")
def test_flow_edit_over_no_step_is_refused(capsys):
    asked = [
        "plan",
        "edits",
        "--model",
        "photo-flow",
        "--set",
        "num_samples=8",
        "--set",
        "num_inference_steps=10",
    ]
    assert taba(*asked, "--set", "edits.flow_edit=0") == 2
    assert "edits.flow_edit=0: no step leaves every image as it is; use 1 to 10." in capsys.readouterr().err
    assert taba(*asked, "--set", "edits.flow_edit=1") == 0
    assert taba(*asked, "--set", "edits.flow_edit=61.5%") == 2
    assert "--set edits.flow_edit: forward_fraction=0.615 of" in capsys.readouterr().err


@pytest.mark.parametrize("study", ["edits", "compressibility"])
@pytest.mark.parametrize(
    ("arguments", "said", "way_out"),
    [
        pytest.param(
            ["--model", "gaussian"],
            "reads neither; use a model that reads classes or prompts",
            ["--model", "photo-mixture"],
            marks=follows("use a model that reads classes or prompts, such as photo-mixture"),
        ),
        pytest.param(
            ["--set", "conditioning=none"],
            "are made without one; use conditioning=class",
            ["--set", "conditioning=class"],
            marks=follows("are made without one; use "),
        ),
        pytest.param(
            ["--set", "targets=no-such.txt"],
            "there is no such file. Give a text file, a line for each condition",
            [],
            marks=follows(": there is no such file. Give a text file, a line for each condition."),
        ),
    ],
)
def test_what_cannot_be_edited_is_refused_and_the_way_out_is_planned(study, arguments, said, way_out, capsys):
    few = ["--set", "num_samples=8", "--set", "num_inference_steps=10"]
    assert taba("plan", study, *few, *arguments) == 2
    assert said in capsys.readouterr().err
    assert taba("plan", study, *few, *way_out) == 0


@follows(" lines, or fewer images (--set num_samples).")
def test_a_file_of_too_few_targets_is_refused_and_its_way_out_is_planned(tmp_path, capsys):
    file = tmp_path / "few.txt"
    file.write_text("cat\nrocket\n3\n4\n")
    base = ["plan", "edits", "--set", "num_inference_steps=10", "--set", f"targets={file}"]
    assert taba(*base, "--set", "num_samples=8") == 2
    assert "the file has 4 lines, and the images have 8 conditions" in capsys.readouterr().err
    assert taba(*base, "--set", "num_samples=4") == 0
    assert taba(*base, "--set", "num_samples=8", "--set", "noises_per_condition=2") == 0


@follows(" Use another, or another model.")
def test_a_measure_that_does_not_suit_the_pictures_is_refused(tmp_path, capsys, monkeypatch):
    from taba_core.metrics.distances.random_lpips import RandomLpips

    few = ["plan", "edits", "--set", "num_samples=8", "--set", "num_inference_steps=10"]
    assert taba(*few, "--set", "edits.distances=no-such") == 2
    assert "random-lpips" in capsys.readouterr().err
    monkeypatch.setattr(RandomLpips, "least_side", 64)
    assert taba(*few) == 2
    assert "edits.distances=random-lpips" in capsys.readouterr().err
    assert taba(*few, "--model", "photo-dit") == 0


def test_an_unknown_method_is_refused_before_anything_is_made(capsys):
    few = ["plan", "edits", "--set", "num_samples=8", "--set", "num_inference_steps=10"]
    assert taba(*few, "--set", "edits.methods=o-blem") == 2
    assert "o-belm" in capsys.readouterr().err


def test_a_coupled_sampler_under_rules_that_it_cannot_undo_is_refused_before_anything_is_made(capsys):
    few = ["plan", "edits", "--model", "photo-if", "--set", "num_samples=8", "--set", "edits.methods=o-belm"]
    assert taba(*few) == 2
    assert "inversion method 'o-belm': x0_rule=dynamic" in capsys.readouterr().err
    assert taba(*few, "--set", "conventions=exact") == 0


def test_edits_have_a_guidance_scale_of_their_own(capsys):
    sets = ["num_samples=8", "num_inference_steps=10", "edits.guidance_scale=3"]
    asked = studies()["edits"].requests(Context("photo-dit", "ddim", read_settings(sets)))
    scales = {name: asked[name].artifact.guidance_scale for name in ("images", "edit/noise", "edit/latent")}
    assert scales == {"images": 1, "edit/noise": 3, "edit/latent": 3}
    few = ["plan", "edits", "--set", "num_samples=8", "--set", "num_inference_steps=10"]
    assert taba(*few, "--set", "edits.guidance_scale=0") == 2
    assert "greater than 0" in capsys.readouterr().err


# ---------------------------------------------------------------- the studies

STUDY = [
    "num_samples=12", "num_inference_steps=5", "bootstrap_replicates=100", "model.num_components_per_photo=2",
    "model.rank=8",
]  # fmt: skip


def run(place, study, *sets, model="photo-mixture"):
    arguments = [part for one in sets for part in ("--set", one)]
    return taba("run", study, "--model", model, "--executor", "local", "--store", place, *arguments)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    place = tmp_path_factory.mktemp("studies") / "store"
    assert run(place, "edits", *STUDY, "edits.methods=predictor-corrector") == 0
    assert run(place, "compressibility", *STUDY, "compressibility.forward_steps=1") == 0
    return place


def arrays_of(store, result, name, *variables):
    groups = {group.name: group for group in store.artifacts()}
    read = groups[result.attrs["artifacts"][name]].read_samples(0, 12, variables)
    return [read[variable] for variable in variables]


def test_the_numbers_of_edits_are_those_of_the_definitions(both):
    store, result = Store.open(both), result_of(both, "edits")
    (image,) = arrays_of(store, result, "images", "image")
    for start in ("noise", "latent", "matched-1", "method-predictor-corrector"):
        edit, target = arrays_of(store, result, f"edit/{start}", "edit", "target_class_id")
        a, b = (to_bytes(x).astype(np.float64) for x in (image, edit))
        expected = {
            "mae": np.abs(a - b).mean() / 127.5,
            "ssim": structural_similarity(a, b, 255).mean(),
            "random-lpips": arrays_of(store, result, f"random-lpips/{start}", "distance")[0].mean(
                dtype=float
            ),
        }
        u, v = (
            arrays_of(store, result, f"crop-classifier/{of}", "features")[0].astype(np.float64)
            for of in ("images", start)
        )
        lengths = np.linalg.norm(u, axis=1) * np.linalg.norm(v, axis=1)
        expected["cosine/crop-classifier"] = ((u * v).sum(axis=1) / lengths).mean()
        (posterior,) = arrays_of(store, result, f"posterior/{start}", "probability")
        expected["posterior_target"] = posterior[np.arange(12), target].mean()
        for name, value in expected.items():
            assert float(result["value"].sel(start=start, measure=name)) == pytest.approx(value, rel=1e-6)
            noise = float(result["value"].sel(start="noise", measure=name))
            difference = float(result["minus_noise"].sel(start=start, measure=name))
            assert difference == pytest.approx(value - noise, abs=1e-9)
    low, high = (result[f"minus_noise_{end}"].sel(start="noise").values for end in ("low", "high"))
    assert (low == 0).all() and (high == 0).all()  # paired: a row less itself


def test_the_claims_of_edits_are_read_from_margins(both):
    result = result_of(both, "edits")
    claims = {claim["id"]: claim for claim in json.loads(result.attrs["claims"])}
    assert {"C6-ssim", "C6~-random-lpips", "C12a~-matched-1", "C12b~-exact-1", "C7~-matched-1"} <= set(claims)
    assert "as-noise~-method-predictor-corrector" in claims
    for name, claim in claims.items():
        parts = [claim["numbers"], *claim["numbers"].values()]
        margins = [part for part in parts if isinstance(part, dict) and "margin" in part]
        low = min(m["margin_ci95"][0] for m in margins)
        assert (claim["verdict"] == "holds") == (low > 0), name
    # SSIM of latents less that of noise.
    value = result["value"].sel(measure="ssim")
    margin = claims["C6-ssim"]["numbers"]["margin"]
    assert margin == pytest.approx(float(value.sel(start="latent") - value.sel(start="noise")))


@pytest.mark.parametrize(
    ("noise", "latent", "repaired", "verdict"),
    [
        (0.4, 0.2, 0.32, "holds"),  # 0.12 of a gap of 0.2
        (0.4, 0.2, 0.28, "fails"),  # 0.08 of it
        (0.4, 0.6, 0.48, "holds"),  # noise may lie below the latent: the way is the other way
        (0.4, 0.6, 0.55, "fails"),
        (0.4, 0.6, 0.70, "fails"),
    ],
)
def test_the_share_of_the_gap_that_the_repair_closes_by_hand(noise, latent, repaired, verdict):
    starts = [Start("noise", ""), Start("latent", ""), Start("exact-2", "4 % (2)", "", 2, "exact")]
    values = dict(zip(("noise", "latent", "exact-2"), (noise, latent, repaired), strict=True))
    measured = {name: {"mae": Estimate.exact([value, 0.0])} for name, value in values.items()}
    found = Findings()
    find_claims(found, measured, ["mae"], starts, 50)
    claims = {claim["id"]: claim for claim in json.loads(found.dataset().attrs["claims"])}
    assert claims["C12b~-exact-2"]["verdict"] == verdict
    margin = claims["C12b~-exact-2"]["numbers"]["mean |difference|"]["margin"]
    assert margin == pytest.approx((repaired - latent - (noise - latent) / 2) * (1 if noise > latent else -1))
    assert claims["farther~-exact-2"]["verdict"] == ("holds" if repaired > latent else "fails")
    assert "C12a~-exact-2" not in claims  # of 20 % of the steps and more


def test_edits_that_ask_for_no_change_are_counted_and_left_out(both, tmp_path):
    before = result_of(both, "edits")
    context = Context("photo-mixture", "ddim", read_settings(["conditioning=class", *STUDY]))
    own = draw(context.generation(5), np.arange(12), 10)["class_id"]
    file = tmp_path / "targets.txt"
    names = [photo.name for photo in load_photos()]
    # The last six ask for what they are.
    asked = [*((own[:6] + 1) % 10), *own[6:]]
    file.write_text("\n".join(names[i] for i in asked))
    assert run(tmp_path / "s", "edits", *STUDY, f"targets={file}", "edits.forward_steps=1") == 0
    store, result = Store.open(tmp_path / "s"), result_of(tmp_path / "s", "edits")
    assert [int(result[f"of_{what}"]) for what in ("all", "distances", "alignments")] == [12, 6, 6]
    assert [int(before[f"of_{what}"]) for what in ("all", "distances")] == [12, 12]
    image, edit = (
        arrays_of(store, result, of, v)[0] for of, v in (("images", "image"), ("edit/noise", "edit"))
    )
    a, b = (to_bytes(x).astype(np.float64) for x in (image, edit))
    assert float(result["value"].sel(start="noise", measure="mae")) == pytest.approx(
        np.abs(a - b)[:6].mean() / 127.5, rel=1e-6
    )
    assert np.abs(a - b)[6:].max() == 0


def test_the_report_shows_the_tables_and_the_pictures(both):
    folder = both / "report"
    page = "".join(
        (folder / "pages" / f"study-{study}.html").read_text() for study in ("edits", "compressibility")
    )
    for text in ("Edits of the same images", "proxy for CLIP-T", "stand-in for LPIPS", "PNG bits a pixel"):
        assert text in page, text
    items = {entry["item"] for entry in json.loads((folder / "results.json").read_text())}
    assert {"table5", "table6", "table12", "fig7a", "fig7b"} <= items
    assert (folder / "figures" / "fig6.webp").exists() and not json.loads(
        (folder / "failures.json").read_text()
    )


def test_bits_are_those_of_png_in_the_regions_of_the_source(both):
    store, result = Store.open(both), result_of(both, "compressibility")
    (region,) = arrays_of(store, result, "regions", "region")
    for start in ("noise", "latent", "exact-1"):
        (edit,) = arrays_of(store, result, f"edit/{start}", "edit")
        for name, mask in (("plain", region == 1), ("non_plain", region == 0)):
            of_images = [
                png_bits(picture.transpose(1, 2, 0)[chosen])[0] / chosen.sum()
                for picture, chosen in zip(to_bytes(edit), mask, strict=True)
                if chosen.sum() >= MIN_PIXELS
            ]
            found = result.sel(start=start, region=name)
            assert int(result["images"].sel(region=name)) == len(of_images)
            assert float(found["bits"]) == pytest.approx(np.mean(of_images))
            noise = float(result["bits"].sel(start="noise", region=name))
            assert float(found["drop"]) == pytest.approx(100 * (1 - np.mean(of_images) / noise), abs=1e-9)
    claims = {claim["id"] for claim in json.loads(result.attrs["claims"])}
    assert claims == {"C5a-exact-1", "C5c-exact-1", "C5a-matched-1", "C5c-matched-1", "C5b"}


def test_the_papers_values_of_table_5_are_found_by_their_headings():
    expected = {"noise": 13.64, "latent": 11.95, "repaired": 13.27}
    for start, value in expected.items():
        paper = paper_value("5", f"DiT / {_TITLES['plain']}", _IN_PAPER[start])
        assert paper is not None and paper.value == value


@pytest.mark.parametrize("model", ["photo-dit", "photo-if"])
def test_trained_networks_are_edited_by_class_and_by_prompt(tmp_path, model):
    small = ["num_samples=6", "num_inference_steps=5", "bootstrap_replicates=100", "edits.forward_steps=1"]
    assert run(tmp_path / "s", "edits", *small, model=model) == 0
    result = result_of(tmp_path / "s", "edits")
    assert {"classifier_target", "classifier_source"} <= set(result["measure"].values.tolist())
    assert result["picture"].shape[2:] == ((3, 64, 64) if model == "photo-dit" else (3, 32, 32))
    names = {photo.name for photo in load_photos()}
    assert set(result["target_name"].values.tolist()) <= names
