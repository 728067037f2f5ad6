"""Study `stochastic-edits`: what is refused, artifacts by their definition, numbers by hand, claims, the report."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest
from engine_runs import result_of, taba
from real_image_runs import save_pictures

from taba_core.stats.compressibility import to_bytes
from taba_core.stats.estimate import Estimate
from taba_core.store import Store
from workflows.analysis.findings import Findings
from workflows.analysis.study import read_settings, studies
from workflows.configuration.context import Context
from workflows.configuration.edits import edit_of
from workflows.studies.stochastic_edits.claims import find_claims

follows = pytest.mark.follows
FEW = ("num_samples=8", "num_inference_steps=10", "stochastic-edits.forward_steps=1")
MIXTURE = ("model.num_components_per_photo=2", "model.rank=8")


def plan(*sets, model="photo-mixture", method="ddim", few=FEW):
    arguments = [part for one in (*few, *sets) for part in ("--set", one)]
    return taba("plan", "stochastic-edits", "--model", model, "--method", method, *arguments)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("wrong", "said", "right"),
    [
        pytest.param(
            "switch_share=0.2,1",
            "1 is no share of the steps after which others follow",
            "switch_share=0,0.2,0.9",
            marks=follows("is no share of the steps after which others follow; use 0 or more, below 1"),
        ),
        ("switch_share=-0.1", "-0.1 is no share of the steps", "switch_share=0"),
        ("seeds=1", "greater than or equal to 2", "seeds=2"),
        ("forward_steps=10", "K=10 of T=10; variants need 1 <= K < T", "forward_steps=9"),
        ("forward_steps=0", "K=0 of T=10; variants need 1 <= K < T", "forward_steps=1"),
        ("forward_steps=25%", "25%", "forward_steps=20%"),
        ("distances=no-such", "random-lpips", "distances=random-lpips,ssim"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_refused_and_others_are_planned(wrong, said, right, capsys):
    few = FEW[:2]
    more = () if "forward_steps" in wrong else FEW[2:]
    assert plan(*more, f"stochastic-edits.{wrong}", few=few) == 2
    assert said in capsys.readouterr().err
    assert plan(*more, f"stochastic-edits.{right}", few=few) == 0


@follows("there are none that large. Use smaller ones.")
def test_seeds_count_on_from_seeds_that_are_small_enough(capsys):
    assert plan(f"forward_seed={2**63 - 1}") == 2
    assert "seeds=4: the seeds count on from forward_seed and from seed" in capsys.readouterr().err
    assert plan(f"forward_seed={2**63 - 4}") == 0


@follows(" Use another.")
def test_a_distance_that_does_not_suit_the_pictures_is_refused(capsys, monkeypatch):
    from taba_core.metrics.distances.random_lpips import RandomLpips

    monkeypatch.setattr(RandomLpips, "least_side", 64)
    assert plan("stochastic-edits.distances=random-lpips") == 2
    assert "stochastic-edits.distances=random-lpips" in capsys.readouterr().err
    assert plan("stochastic-edits.distances=ssim") == 0


@follows("or use a model that was made from photographs, such as photo-mixture, photo-dit or photo-if.")
def test_a_model_without_photographs_needs_a_folder(tmp_path, capsys):
    assert plan(model="dit") == 2
    assert "this study starts from photographs, and DiT comes with none" in capsys.readouterr().err
    assert plan(model="photo-dit") == plan(model="photo-if") == plan(model="photo-mixture") == 0
    folder = save_pictures(tmp_path / "cats", 8, **{"class": [281] * 8})
    assert plan(f"images={folder}", model="dit") == 0


@follows("use another method (--method ddim), or a share of 0.")
def test_a_method_with_a_sampler_of_its_own_cannot_exchange_the_condition(capsys):
    assert plan(method="direct-inversion") == 2
    said = capsys.readouterr().err
    assert "has a sampler of its own" in said or "cannot be replaced" in said
    context = Context("photo-mixture", "edict", read_settings(["conditioning=class"]))
    inversion = context.inversion(context.generation(10), 0)
    assert edit_of(context, inversion).switch_share == 0
    from taba_core.errors import UsageError

    with pytest.raises(UsageError, match="inversion method 'edict' has a sampler of its own"):
        edit_of(context, inversion, switch_share=0.2)
    other = Context("photo-mixture", "ddim", context.settings)
    assert edit_of(other, other.inversion(other.generation(10), 0), switch_share=0.2).switch_share == 0.2


def test_a_distance_without_weights_is_refused_where_it_is_named_and_left_out_where_it_is_not():
    arguments = [part for one in FEW for part in ("--set", one)]
    context = Context("photo-mixture", "ddim", read_settings(list(FEW)))
    asked = studies()["stochastic-edits"].requests(context)
    assert not [name for name in asked if name.startswith("lpips/")]
    assert [name for name in asked if name.startswith("random-lpips/")]
    run = ["run", "stochastic-edits", "--executor", "local", *arguments]
    assert taba(*run, "--set", "stochastic-edits.distances=lpips") == 2


# ---------------------------------------------------------------- the study

STUDY = (
    "num_samples=10", "num_inference_steps=6", "bootstrap_replicates=100", "stochastic-edits.forward_steps=2",
    "stochastic-edits.seeds=3", "stochastic-edits.examples=2", "stochastic-edits.switch_share=0,0.3",
)  # fmt: skip


def run(place, *sets, model="photo-mixture"):
    options = MIXTURE if model == "photo-mixture" else ()
    arguments = [part for one in (*STUDY, *options, *sets) for part in ("--set", one)]
    return taba(
        "run", "stochastic-edits", "--model", model, "--executor", "local", "--store", place, *arguments
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("stochastic") / "store"
    assert run(place) == 0
    return place


@pytest.fixture(scope="module")
def read(place):
    """A function that reads a variable of a request."""
    store, result = Store.open(place), result_of(place)
    groups = {group.name: group for group in store.artifacts()}
    return lambda name, variable: groups[result.attrs["artifacts"][name]].read_samples(0, 10, (variable,))[
        variable
    ]


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_numbers_are_means_over_the_variants_of_a_photograph_and_over_their_pairs(place, read, share):
    result = result_of(place)
    image = to_bytes(read("images", "image")).astype(float)
    for group, seeds in (("repaired", (42, 43, 44)), ("fresh-noise", (421, 422, 423))):
        names = [f"{share:g}/{group}-{seed}" for seed in seeds]
        edits = [to_bytes(read(f"edit/{name}", "edit")).astype(float) for name in names]
        expected = {
            "between/mae": np.mean([np.abs(a - b) for a, b in combinations(edits, 2)]) / 127.5,
            "between/random-lpips": np.mean(
                [read(f"random-lpips/{a}/{b.split('/')[1]}", "distance") for a, b in combinations(names, 2)]
            ),
            "source/mae": np.mean([np.abs(edit - image) for edit in edits]) / 127.5,
            "source/ssim": np.mean([read(f"ssim/{name}", "distance") for name in names]),
        }
        own = read("images", "class_id")
        for which, classes in (("source", own), ("target", read(f"edit/{names[0]}", "target_class_id"))):
            judged = [read(f"posterior/{name}", "probability")[np.arange(10), classes] for name in names]
            expected[f"posterior_{which}"] = np.mean(judged)
        for name, value in expected.items():
            found = float(result["value"].sel(share=share, group=group, measure=name))
            assert found == pytest.approx(value, rel=1e-5), (group, name)
    one = result["value"].sel(share=share)
    assert (one.sel(group="latent", measure=["between/mae", "between/random-lpips"]) == 0).all()
    ratio = one.sel(group="repaired") / one.sel(group="fresh-noise")
    for name in result["between"].values:
        assert float(result["ratio"].sel(share=share, between=name)) == pytest.approx(
            float(ratio.sel(measure=name))
        )
        low, high = (float(result[f"ratio_{end}"].sel(share=share, between=name)) for end in ("low", "high"))
        assert low < float(result["ratio"].sel(share=share, between=name)) < high


def test_pairs_are_different_pictures_of_one_target(read):
    targets = [read(f"edit/0/repaired-{seed}", "target_class_id") for seed in (42, 43, 44)]
    assert (targets[0] == targets[1]).all() and (targets[0] == targets[2]).all()
    assert (targets[0] != read("images", "class_id")).all()
    edits = [read(f"edit/0/repaired-{seed}", "edit") for seed in (42, 43, 44)]
    assert all(np.abs(a - b).mean(axis=(1, 2, 3)).min() > 1e-4 for a, b in combinations(edits, 2))


def test_reconstructions_are_of_every_latent_and_beside_that_of_plain_inversion(place, read):
    result, image = result_of(place), to_bytes(read("images", "image")).astype(float)
    starts = ["repaired-42", "repaired-43", "repaired-44", "latent"]
    assert result["start"].values.tolist() == starts
    errors = {}
    for start in starts:
        back = to_bytes(read(f"back/{start}", "reconstruction")).astype(float)
        errors[start] = np.abs(back - image).mean() / 127.5
        assert float(result["back_mae"].sel(start=start)) == pytest.approx(errors[start], rel=1e-6)
    for start in starts:
        ratio = float(result["back_ratio"].sel(start=start))
        assert ratio == pytest.approx(errors[start] / errors["latent"], rel=1e-6)


def measured(between, source, target):
    return {"between/ssim": between, "source/ssim": source, "posterior_target": target}


def estimates(values):
    return {name: Estimate.exact([value, 0.0]) for name, value in values.items()}


@pytest.mark.parametrize(
    ("between", "error", "verdicts"),
    [
        (0.1, 0.14, ["holds", "holds", "holds", "holds"]),  # .14 < 1.5 x .10
        (0.0, 0.16, ["fails", "holds", "holds", "fails"]),  # equal variants; .16 > .15
    ],
)
def test_the_claims_by_hand(between, error, verdicts):
    by_group = {
        "repaired": estimates(measured(between, 0.3, 0.6)),
        "fresh-noise": estimates(measured(0.4, 0.5, 0.7)),
        "latent": estimates(measured(0.0, 0.2, 0.4)),
    }
    errors = {"repaired-1": estimates({"mae": error}), "latent": estimates({"mae": 0.1})}
    found = Findings()
    find_claims(found, {0.2: by_group}, errors)
    claims = json.loads(found.dataset().attrs["claims"])
    names = ["CF13a-ssim-0.2", "keep-the-photograph-0.2", "show-the-target-0.2", "CF13b"]
    assert [claim["id"] for claim in claims] == names
    assert [claim["verdict"] for claim in claims] == verdicts
    margin = claims[-1]["numbers"]["repaired-1"]["margin"]
    assert margin == pytest.approx(1.5 * 0.1 - error)
    assert claims[1]["numbers"]["1 - SSIM"]["margin"] == pytest.approx(0.2)  # .5 of fresh noise less .3
    assert claims[2]["numbers"]["posterior, target"]["margin"] == pytest.approx(0.2)


def test_a_claim_on_a_stand_in_says_so_and_every_margin_has_an_interval(place):
    claims = {claim["id"]: claim for claim in json.loads(result_of(place).attrs["claims"])}
    assert set(claims) == {
        *(f"CF13a~-random-lpips-{share}" for share in ("0", "0.3")),
        *(f"CF13a-ssim-{share}" for share in ("0", "0.3")),
        *(f"{ours}-{share}" for ours in ("keep-the-photograph", "show-the-target") for share in ("0", "0.3")),
        "CF13b",
    }
    assert "stand-in for LPIPS" in claims["CF13a~-random-lpips-0"]["statement"]
    low, high = claims["CF13a-ssim-0"]["numbers"]["margin_ci95"]
    assert 0 < low < claims["CF13a-ssim-0"]["numbers"]["margin"] < high
    assert claims["CF13a-ssim-0"]["verdict"] == "holds"


def test_the_report_shows_the_grid_and_says_what_is_missing(place):
    folder = place / "report"
    page = (folder / "pages" / "study-stochastic-edits.html").read_text()
    for text in (
        "Several edits of one photograph",
        "proxy for LPIPS",
        "taba fetch metrics",
        "random crops of those",
    ):
        assert text in page, text
    items = {entry["item"] for entry in json.loads((folder / "results.json").read_text())}
    assert {"stochastic-edits", "stochastic-edits-reconstruction"} <= items
    assert {"fig13.webp", "fig13-switch-0.3.webp"} <= {file.name for file in (folder / "figures").iterdir()}
    assert not json.loads((folder / "failures.json").read_text())
    result = result_of(place)
    assert result["picture"].shape == (2, 3, 2, 3, 32, 32) and result["picture_back"].shape == (2, 3, 32, 32)


def test_how_many_are_shown_is_in_the_key_of_the_result_and_in_no_artifact():
    study = studies()["stochastic-edits"]
    contexts = [
        Context("photo-mixture", "ddim", read_settings([*FEW, f"stochastic-edits.examples={count}"]))
        for count in (2, 3)
    ]
    assert study.result_key(contexts[0]) != study.result_key(contexts[1])
    keys = [{r.artifact.key for r in study.requests(context).values()} for context in contexts]
    assert keys[0] == keys[1]


def test_own_photographs_with_classes_are_edited(tmp_path):
    folder = save_pictures(tmp_path / "own", 6, **{"class": [0, 1, 2, 3, 4, 5]})
    assert run(tmp_path / "s", f"images={folder}") == 0
    result = result_of(tmp_path / "s")
    assert int(result.attrs["n"]) == 6 and not int(result["crops"])
    assert "6 images of own" in result.attrs["images"]
    page = (tmp_path / "s" / "report" / "pages" / "study-stochastic-edits.html").read_text()
    assert "Photo mixture on own" in page and "random crops of those" not in page


@pytest.mark.parametrize("model", ["photo-dit", "photo-if"])
def test_trained_networks_edit_photographs_by_class_and_by_prompt(tmp_path, model):
    sets = ("num_samples=4", "num_inference_steps=5", "stochastic-edits.switch_share=0.2",
            "stochastic-edits.forward_steps=1", "stochastic-edits.seeds=2")  # fmt: skip
    arguments = [part for one in (*sets, "bootstrap_replicates=100") for part in ("--set", one)]
    where = ("--executor", "local", "--store", tmp_path / "s", "--no-report")
    assert taba("run", "fig13", "--model", model, *where, *arguments) == 0
    result = result_of(tmp_path / "s")
    assert {"classifier_target", "classifier_source"} <= set(result["measure"].values.tolist())
    assert result["picture"].shape[3:] == ((3, 64, 64) if model == "photo-dit" else (3, 32, 32))
    assert float(result["value"].sel(group="repaired", measure="between/mae")[0]) > 0
