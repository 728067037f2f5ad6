"""Classifier-free guidance around every kind of model: its null condition, its two ends, its count of evaluations."""

from __future__ import annotations

import pytest
import torch
from tiny_checkpoints import DIT_LABELS, edit_json, tiny_class_unet, tiny_dit, tiny_ldm, tiny_unet
from tiny_text_checkpoints import save_scheduler, save_tiny_if, save_tiny_sd, save_tiny_sdxl
from torch.testing import assert_close

from taba_core.diffusion import CountedDenoiser, Guided, TimestepGrid, generate, invert_with_report
from taba_core.diffusion.ends import Held
from taba_core.diffusion.guidance import null_condition
from taba_core.errors import UsageError
from taba_core.models.base import load_model
from taba_core.models.catalog import load_card
from taba_core.models.grids import timestep_grid
from taba_core.models.null_condition import why_no_null_condition

V = {"prediction_type": "v_prediction", "timestep_spacing": "trailing"} | {
    "rescale_betas_zero_snr": True,
    "clip_sample": False,
}


def noise_of(model, batch=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, *model.sample_shape, generator=generator)


def loaded(directory):
    return load_model(str(directory)), timestep_grid(load_card(str(directory)), 5)


def sdxl_of_the_empty_prompt(directory):
    save_tiny_sdxl(directory)
    edit_json(directory / "model_index.json", force_zeros_for_empty_prompt=False)
    return directory


@pytest.mark.parametrize("make", [save_tiny_if, save_tiny_sd, sdxl_of_the_empty_prompt])
def test_the_null_condition_of_a_text_model_is_the_empty_prompt(make, tmp_path):
    model, grid = loaded(make(tmp_path / "model"))
    null, empty = null_condition(model, 2), model.text.encode(["", ""])
    assert null.keys() == empty.keys()
    assert all(torch.equal(null[key], empty[key]) for key in null)
    check_formula(model, grid, empty)


def check_formula(model, grid, null):
    cond, x, t = model.text.encode(["a red boat", "the horse"]), noise_of(model), float(grid.network_times[2])
    given, nothing = model.eps(x, t, cond), model.eps(x, t, null)
    assert not torch.allclose(given, nothing)
    assert_close(Guided(model, 3.0).eps(x, t, cond), nothing + 3 * (given - nothing), rtol=0, atol=1e-5)


@pytest.mark.parametrize("stated", [True, None])
def test_the_null_condition_of_sdxl_is_zeros_with_the_sizes_of_an_image(stated, tmp_path):
    # As its pipeline class has it, also where the file says nothing.
    directory = save_tiny_sdxl(tmp_path / "model")
    if stated:
        edit_json(directory / "model_index.json", force_zeros_for_empty_prompt=True)
    model, grid = loaded(directory)
    null, given = null_condition(model, 2), model.text.encode(["a red boat", "the horse"])
    assert null.keys() == given.keys() and all(null[key].shape == given[key].shape for key in null)
    assert torch.equal(null["time_ids"], given["time_ids"])
    assert not null["prompt_embeds"].any() and not null["pooled"].any()
    check_formula(model, grid, null)


def test_the_null_condition_of_dit_is_the_class_after_the_last(tmp_path):
    model, grid = loaded(tiny_dit(tmp_path / "model"))
    assert null_condition(model, 3)["class_id"].tolist() == [len(DIT_LABELS)] * 3
    cond, x, t = {"class_id": torch.tensor([1, 7])}, noise_of(model), float(grid.network_times[2])
    # diffusers' own transformer, given the null label
    from diffusers import DiTTransformer2DModel

    transformer = DiTTransformer2DModel.from_pretrained(tmp_path / "model" / "transformer")
    with torch.no_grad():
        raw = [
            transformer(x, timestep=torch.full((2,), t), class_labels=labels).sample[:, :4]
            for labels in (cond["class_id"], torch.tensor([10, 10]))
        ]
    assert_close(Guided(model, 4.0).eps(x, t, cond), raw[1] + 4 * (raw[0] - raw[1]), rtol=0, atol=1e-5)
    with pytest.raises(UsageError, match="spans 1 to 11; the network has classes 0 to 9"):
        model.eps(x, t, {"class_id": torch.tensor([1, 11])})


def test_the_null_condition_of_the_photo_mixture_is_any_photograph():
    model = load_model("photo-mixture")
    grid, cond, x = TimestepGrid.build(model.schedule, 5), {"class_id": torch.tensor([0, 2])}, noise_of(model)
    assert null_condition(model, 2)["class_id"].tolist() == [-1, -1]
    given, anything = model.eps(x, 400.0, cond), model.eps(x, 400.0, {})
    assert_close(Guided(model, 2.0).eps(x, 400.0, cond), anything + 2 * (given - anything), rtol=0, atol=1e-5)
    # two evaluations a prediction, counted for each image
    counted = CountedDenoiser(model)
    report = invert_with_report(Guided(counted, 2.0), generate(model, x, grid, cond), grid, "ddim", cond)
    assert report.evaluations.tolist() == [10, 10] and counted.num_evaluations == 20


@pytest.mark.parametrize(
    ("make", "reason"),
    [(tiny_unet, "model has no condition"), (tiny_class_unet, "model has classes but no null class")],
)
def test_models_without_a_null_condition_are_refused(make, reason, tmp_path):
    model, _ = loaded(make(tmp_path / "model"))
    with pytest.raises(UsageError) as error:
        Guided(model, 2.0)
    assert str(error.value) == (
        f"guidance compares a prompt or a class with a null condition, and {reason}; use a conditional model that has "
        "one, or guidance_scale=1."
    )
    with pytest.raises(UsageError, match=", and this model has no condition; use a conditional model"):
        Guided(load_model("gaussian"), 2.0)


class TestBothEnds:
    @pytest.fixture(scope="class")
    def v_network(self, tmp_path_factory):
        directory = save_tiny_sd(tmp_path_factory.mktemp("sd") / "model")
        save_scheduler(directory, "DDIMScheduler", **V)
        model, grid = loaded(directory)
        return model, grid, model.text.encode(["a red boat", "the horse"])

    def test_guiding_the_ends_is_guiding_v(self, v_network):
        model, grid, cond = v_network
        x, level = noise_of(model), grid.levels[3]
        x_0, eps = Guided(model, 5.0).predict(x, level, cond)
        with torch.no_grad():
            raw = [model._raw(x, level.time, c) for c in (cond, model.null_condition(2))]
        v = raw[1] + 5 * (raw[0] - raw[1])
        assert_close(x_0, level.alpha * x - level.sigma * v, rtol=0, atol=1e-5)
        assert_close(eps, level.sigma * x + level.alpha * v, rtol=0, atol=1e-5)

    def test_sampling_from_pure_noise_is_that_of_diffusers(self, v_network):
        from diffusers import DDIMScheduler

        model, grid, cond = v_network
        guided, scheduler = Guided(model, 5.0), DDIMScheduler(**V)
        assert guided.held is Held.VELOCITY and guided.evaluations_per_image == 2
        scheduler.set_timesteps(5)
        x = noise_of(model)
        ours, null = generate(guided, x, grid, cond), model.null_condition(2)
        with torch.no_grad():
            for t in scheduler.timesteps:
                raw = [model._raw(x, float(t), c) for c in (cond, null)]
                x = scheduler.step(raw[1] + 5 * (raw[0] - raw[1]), t, x).prev_sample
        assert_close(ours, x, rtol=0, atol=1e-5 * max(1.0, float(x.abs().max())))

    def test_at_scale_one_it_is_the_conditional_prediction(self, v_network):
        model, grid, cond = v_network
        x = noise_of(model)
        assert_close(
            generate(Guided(model, 1.0), x, grid, cond), generate(model, x, grid, cond), rtol=0, atol=1e-4
        )


def test_a_wrapper_that_only_knows_eps_still_changes_what_methods_see():
    # the noise is all a denoiser of the noise predicts, so wrapping it is enough
    from taba_core.diffusion.denoiser import WrappedDenoiser

    class Doubled(WrappedDenoiser):
        def eps(self, x_t, t, cond):
            return 2 * self.denoiser.eps(x_t, t, cond)

    model = load_model("gaussian", options={"size": 8})
    x, grid = noise_of(model), TimestepGrid.build(model.schedule, 3)
    assert_close(Doubled(model).predict(x, grid.levels[2], {}).eps, 2 * model.eps(x, grid.levels[2].time, {}))


FAMILIES = {
    "tiny-unet": tiny_unet, "tiny-class-unet": tiny_class_unet, "tiny-ldm": tiny_ldm, "tiny-dit": tiny_dit,
    "tiny-if": save_tiny_if, "tiny-sd": save_tiny_sd, "tiny-sdxl": save_tiny_sdxl,
    **dict.fromkeys(("gaussian", "photo-mixture", "photo-adm", "photo-ldm", "photo-dit", "photo-flow", "photo-if")),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_a_card_says_of_every_family_what_the_loaded_model_says(name, tmp_path):
    make = FAMILIES[name]
    model = name if make is None else str(make(tmp_path / name))
    reason = why_no_null_condition(load_card(model))
    options = {"num_components_per_photo": 2, "rank": 8} if name == "photo-mixture" else None
    loaded = load_model(model, options=options)
    if not reason:
        assert all(len(value) == 3 for value in null_condition(loaded, 3).values())
        return
    with pytest.raises(UsageError) as error:
        null_condition(loaded, 3)
    assert reason.split(" has ")[1] in str(error.value)
