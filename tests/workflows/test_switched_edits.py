"""Edits that keep a condition for a share of their steps, and edits of real images: the sampler and the artifacts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engine_runs import taba
from pydantic import ValidationError

from cluster.pool.executor import Resources
from cluster.pool.local import LocalExecutor
from taba_core import rng
from taba_core.artifacts.base import from_attrs
from taba_core.artifacts.crops import Crops
from taba_core.artifacts.edit import Edit
from taba_core.artifacts.generation import Generation
from taba_core.artifacts.inversion import Inversion
from taba_core.diffusion.inversion import reconstruct
from taba_core.diffusion.sampling import generate, generate_switching, switch_step
from taba_core.model_spec import ModelSpec
from taba_core.models.base import load_spec
from taba_core.models.crops import crop_sides, photos_of_crops, random_crops, real_crops
from taba_core.models.grids import timestep_grid
from taba_core.models.photos import load_photos
from taba_core.stats.compressibility import to_bytes
from taba_core.store import Store
from workflows.analysis.real_images import photographs
from workflows.analysis.study import Study, read_settings
from workflows.compute.conditioning import prompts_from_bytes
from workflows.configuration.context import Context
from workflows.configuration.edits import edit_of
from workflows.execution.engine import run_plan
from workflows.planning.plan import make_plan

follows = pytest.mark.follows
FEW = ("num_samples=8", "num_inference_steps=10", "stochastic-edits.forward_steps=1")
MIXTURE = ("model.num_components_per_photo=2", "model.rank=8")


def plan(*sets, model="photo-mixture", method="ddim", few=FEW):
    arguments = [part for one in (*few, *sets) for part in ("--set", one)]
    return taba("plan", "stochastic-edits", "--model", model, "--method", method, *arguments)


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


class Leaves(Asks):
    """An edit by a method whose own sampler is guided."""

    def requests(self, context):
        latent = context.inversion(photographs(context, 4), 0, num_inference_steps=4)
        asked = {"images": latent.source, "latent": latent, "edit": edit_of(context, latent)}
        variables = ("prompt",), ("latent",), ("edit", "target_prompt")
        return {
            name: context.request(artifact, chosen)
            for (name, artifact), chosen in zip(asked.items(), variables, strict=True)
        }


def stored(place, model, study=Asks, method="ddim"):
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
    context, store = Context(model, method, read_settings(sets)), Store.open(place, mode="a")
    made = make_plan(context, [study()], store)
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


def test_edits_behind_the_negative_prompt_are_guided_away_from_the_own_prompt(tmp_path):
    arrays, _, context = stored(tmp_path / "s", "photo-if", Leaves, "negative-prompt")
    model = load_spec(context.model_spec)
    own, target = (
        model.text.encode(prompts_from_bytes(arrays[name][variable][:4]))
        for name, variable in (("images", "prompt"), ("edit", "target_prompt"))
    )
    latent, grid = torch.from_numpy(arrays["latent"]["latent"][:4]), timestep_grid(context.card, 4)
    with torch.no_grad():
        away, cancelled = (
            reconstruct(model, latent, grid, "negative-prompt", target, source_cond=source).numpy()
            for source in (own, target)
        )
    np.testing.assert_array_equal(arrays["edit"]["edit"][:4], away)
    assert np.abs(away - cancelled).mean() > 1e-2
