"""Study `stochastic-edits`: what is refused, artifacts by their definition, numbers by hand, claims, the report."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest
import torch
from engine_runs import result_of, taba
from pydantic import ValidationError
from real_image_runs import save_pictures

from cluster.pool.executor import Resources
from cluster.pool.local import LocalExecutor
from taba_core import rng
from taba_core.artifacts.base import from_attrs
from taba_core.artifacts.crops import Crops
from taba_core.artifacts.edit import Edit
from taba_core.artifacts.generation import Generation
from taba_core.artifacts.inversion import Inversion
from taba_core.diffusion.sampling import generate, generate_switching, switch_step
from taba_core.model_spec import ModelSpec
from taba_core.models.base import load_spec
from taba_core.models.crops import crop_sides, photos_of_crops, random_crops, real_crops
from taba_core.models.grids import timestep_grid
from taba_core.models.photos import load_photos
from taba_core.stats.compressibility import to_bytes
from taba_core.stats.estimate import Estimate
from taba_core.store import Store
from workflows.analysis.findings import Findings
from workflows.analysis.real_images import photographs
from workflows.analysis.study import Study, read_settings, studies
from workflows.compute.conditioning import prompts_from_bytes
from workflows.configuration.context import Context
from workflows.configuration.edits import edit_of
from workflows.execution.engine import run_plan
from workflows.planning.plan import make_plan
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
        ("switch_share=0.2,1", "1 is no share of the steps after which others follow", "switch_share=0,0.2,0.9"),
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


# ---------------------------------------------------------------- the sampler


class Towards:
    """Predicts the noise that a number says, whatever the state: a walk whose end can be computed by hand."""

    prediction = "eps"

    def __init__(self, schedule):
        self.schedule, self.seen = schedule, []

    def eps(self, x, t, cond):
        self.seen.append(float(cond["value"][0]))
        return cond["value"].view(-1, 1, 1, 1).expand_as(x)


def number(value):
    return {"value": torch.full((2,), float(value))}


@pytest.mark.parametrize(
    ("share", "steps"), [(0, 0), (0.2, 2), (0.21, 3), (0.1, 1), (0.7, 7), (0.99, 10), (1, 10)]
)
def test_the_condition_is_exchanged_after_the_ceiling_of_the_share(share, steps):
    grid = timestep_grid(Context("gaussian", "ddim", read_settings([])).card, 10)
    denoiser = Towards(grid.schedule)
    noise = torch.from_numpy(rng.normal(range(2), (3, 4, 4), seed=1, stream="t"))
    found = generate_switching(denoiser, noise, grid, (number(1), number(2)), share)
    assert denoiser.seen == [1.0] * steps + [2.0] * (10 - steps)
    if share in (0, 1):
        only = number(1 if share else 2)
        torch.testing.assert_close(found, generate(denoiser, noise, grid, only), rtol=0, atol=0)


def test_a_share_that_is_whole_up_to_rounding_is_that_many_steps():
    assert 0.07 * 100 > 7 and switch_step(0.07, 100) == 7  # in binary .07 x 100 is a little more than 7
    assert [switch_step(share, 50) for share in (0, 0.2, 0.201, 0.6, 1)] == [0, 10, 11, 30, 50]


# ---------------------------------------------------------------- artifacts

SOURCE = Generation(
    model=ModelSpec(name="m"), batch_size=4, num_inference_steps=2, seed=0, conditioning="class"
)
CROPS = Crops(model=ModelSpec(name="m"), batch_size=4, seed=0, photos="p")


def test_keys_of_edits_and_crops_are_what_they_were_before_these_fields():
    latent = Inversion(source=SOURCE, num_inference_steps=2)
    assert [Edit(source=SOURCE).key, Edit(source=latent).key, Edit(source=SOURCE, noise_seed=3).key] == [
        "a874bc2a03f5", "73af32d0b7cf", "0d47eb5633a8",
    ]  # fmt: skip
    assert CROPS.key == "d4328bdf5501"
    shares = {Edit(source=latent, switch_share=share).key for share in (0.0, 0.2, 0.4)}
    assert len(shares) == 3 and Edit(source=latent).key in shares
    assert len({CROPS.key, *(CROPS.altered(conditioning=kind).key for kind in ("class", "prompt"))}) == 3


def test_edits_of_real_images_start_from_noise_and_have_steps_of_their_own():
    crops = CROPS.altered(conditioning="class")
    edit = Edit(source=crops, noise_seed=5, num_inference_steps=7)
    assert edit.num_evaluations() == edit.num_steps == 7 and from_attrs(edit.attrs()) == edit
    assert edit.reads_of(crops) == ("class_id", "prompt") and edit.samples == crops
    latent = Inversion(source=crops, num_inference_steps=7)
    assert Edit(source=latent).num_evaluations() == 7 and from_attrs(latent.attrs()) == latent
    wrong = [
        {"source": crops, "num_inference_steps": 7},
        {"source": crops, "noise_seed": 5},
        {"source": SOURCE, "num_inference_steps": 7},
        {"source": CROPS, "noise_seed": 5, "num_inference_steps": 7},
        {"source": latent, "switch_share": 1.5},
    ]
    said = ["needs a noise_seed", "num_inference_steps", "num_inference_steps", "no condition", "less than"]
    for fields, message in zip(wrong, said, strict=True):
        with pytest.raises(ValidationError, match=message):
            Edit(**fields)


def test_a_crop_is_of_the_photograph_whose_number_it_has_and_as_wide_as_its_side_says():
    photos, ids = load_photos(), np.arange(40)
    chosen = photos_of_crops(len(photos), ids, seed=3)
    made = real_crops(photos, ids, seed=3)
    for i in (0, 7, 39):
        own = random_crops(photos[chosen[i]], [i], seed=3)
        np.testing.assert_array_equal(made[i], own[0])
    sides = crop_sides(photos[0], ids, seed=3)
    assert sides.min() >= 64 and sides.max() <= 384
    # u^3 with u uniform is below 1/8 for half of them: half of the sides lie below 64 (384 / 64)^(1/8) = 80.
    largest = min(*photos[0].pixels().shape[:2], 384)
    assert np.mean(sides < 64 * (largest / 64) ** 0.125) == pytest.approx(0.5, abs=4 * 0.5 / 40**0.5)


class Asks(Study):
    """Photographs and what is sampled of their latents at several shares."""

    name, title, question, paper_section = "asks", "Edits", "What is stored?", "0"

    def requests(self, context):
        images = photographs(context, 4)
        latent = context.inversion(images, 0, num_inference_steps=4)
        asked = {
            "images": context.request(images, ("image", *images.condition_variables)),
            "latent": context.request(latent, ("latent",)),
            "again": context.request(context.reconstruction(latent), ("reconstruction",)),
        }
        for share in (0.0, 0.5, 1.0):
            edit = edit_of(context, latent, switch_share=share)
            asked[f"edit/{share:g}"] = context.request(edit, ("edit",))
        fresh = edit_of(context, images, noise_seed=9, switch_share=0.5, num_inference_steps=4)
        asked["fresh"] = context.request(fresh, ("edit",))
        return asked

    def analyse(self, inputs, context):
        raise AssertionError("only its artifacts are asked")

    def present(self, results):
        raise AssertionError("only its artifacts are asked")


def stored(place, model):
    """Arrays of every request by name, the specs, and the context."""
    sets = [
        "num_samples=8",
        "batch_size=4",
        "samples_per_shard=4",
        "num_inference_steps=4",
        "conventions=exact",
    ]
    if model == "photo-mixture":
        sets += [*MIXTURE, "conditioning=class"]
    context, store = Context(model, "ddim", read_settings(sets)), Store.open(place, mode="a")
    made = make_plan(context, [Asks()], store)
    made.studies = []  # nothing is analysed
    run_plan(made, store, lambda: LocalExecutor(1), Resources(), workers=1, scheduler="synchronous")
    requests = made.requests["asks"]
    arrays = {}
    for name, request in requests.items():
        group = store.open_artifact(request.artifact)
        arrays[name] = group.read_samples(0, 8, tuple(group.variables))
    return arrays, requests, context


@pytest.mark.parametrize("model", ["photo-mixture", "photo-dit", "photo-if"])
def test_photographs_are_edited_by_their_definition(tmp_path, model):
    arrays, requests, context = stored(tmp_path / "s", model)
    # All steps under the own condition: the reconstruction, to the bit.
    np.testing.assert_array_equal(arrays["edit/1"]["edit"], arrays["again"]["reconstruction"])
    photos, ids = load_photos(), np.arange(8)
    chosen = photos_of_crops(len(photos), ids, seed=420)
    size = context.card.image_size
    pictures = real_crops(photos, ids, seed=420, size=size)
    if model == "photo-if":
        texts = prompts_from_bytes(arrays["images"]["prompt"])
        assert [photos[i].name in text for i, text in zip(chosen, texts, strict=True)] == [True] * 8
        assert (arrays["images"]["class_id"] == -1).all()
    else:
        np.testing.assert_array_equal(arrays["images"]["class_id"], chosen)
    loaded = load_spec(context.model_spec)
    if model == "photo-dit":
        np.testing.assert_array_equal(arrays["images"]["decoded"], to_bytes(pictures))
        with torch.no_grad():
            rgb = torch.from_numpy(to_bytes(pictures)[:4]).float() / 127.5 - 1
            expected = loaded.codec.encode(rgb, "mean")
        np.testing.assert_allclose(arrays["images"]["image"][:4], expected.numpy(), atol=1e-5)
    else:
        np.testing.assert_array_equal(arrays["images"]["image"], pictures)

    # Half of the steps under the own condition, the rest under the target, by hand.
    def conditions(of, variable):
        if model == "photo-if":
            return loaded.text.encode(prompts_from_bytes(of[variable][:4]))
        return {"class_id": torch.from_numpy(of[variable][:4].astype(np.int64))}

    target = requests["edit/0.5"].artifact.target_variable
    both = (
        conditions(arrays["images"], target.removeprefix("target_")),
        conditions(arrays["edit/0.5"], target),
    )
    grid = timestep_grid(context.card, 4)
    starts = {
        "edit/0.5": arrays["latent"]["latent"][:4],
        "fresh": rng.normal(range(4), loaded.sample_shape, seed=9, stream="noise"),
    }
    for name, start in starts.items():
        with torch.no_grad():
            expected = generate_switching(loaded, torch.from_numpy(start), grid, both, 0.5)
        np.testing.assert_array_equal(arrays[name]["edit"][:4], expected.numpy())
    np.testing.assert_array_equal(arrays["fresh"][target], arrays["edit/0.5"][target])
    assert np.abs(arrays["edit/0"]["edit"] - arrays["edit/0.5"]["edit"]).mean() > 1e-3


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
    page = (folder / "index.html").read_text()
    for text in (
        "Several edits of one photograph",
        "proxy for LPIPS",
        "taba fetch metrics",
        "random crops of those",
    ):
        assert text in page, text
    items = {entry["item"] for entry in json.loads((folder / "results.json").read_text())}
    assert {"stochastic-edits", "stochastic-edits-reconstruction"} <= items
    assert {"fig13.png", "fig13-switch-0.3.png"} <= {file.name for file in (folder / "figures").iterdir()}
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
    page = (tmp_path / "s" / "report" / "index.html").read_text()
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
