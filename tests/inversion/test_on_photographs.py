"""What noise initialisation and prediction-correction claim, on the photo mixture (n = 48, T = 50)."""

import functools

import numpy as np
import pytest
import torch

from taba_core import rng
from taba_core.diffusion import generate, inversion_method_named, invert_with_report
from taba_core.models.base import load_model
from taba_core.models.catalog import load_card
from taba_core.models.grids import timestep_grid
from taba_core.stats import plain_mask

IDS = np.arange(48)


@functools.cache
def setting():
    model, grid = load_model("photo-mixture"), timestep_grid(load_card("photo-mixture"), 50)
    noise, fresh = (
        torch.from_numpy(rng.normal(IDS, model.sample_shape, seed=42, stream=stream))
        for stream in ("noise", "forward")
    )
    image = generate(model, noise, grid)
    plain = np.broadcast_to(plain_mask(image.numpy())[:, None], image.shape)
    return model, grid, noise, fresh, image, torch.from_numpy(plain.copy())


@functools.cache
def score(name, *, bits=None, forward_steps=0, **options):
    """NFE, mean |noise - latent| and latent std in plain areas, mean absolute error of the reconstruction."""
    model, grid, noise, fresh, image, plain = setting()
    if bits:
        levels = 2**bits - 1
        image = ((image.clamp(-1, 1) + 1) * levels / 2).round() * 2 / levels - 1
    method = inversion_method_named(name, **options)
    report = invert_with_report(model, image, grid, method, forward_noise=fresh, forward_steps=forward_steps)
    latent = report.latent
    return {
        "nfe": report.evaluations.double().mean().item(),
        "error": (noise - latent)[plain].abs().mean().item(),
        "std": latent[plain].std().item(),
        "mae": (generate(model, latent, grid) - image).abs().mean().item(),
    }


@functools.cache
def noise_std():
    _, _, noise, _, _, plain = setting()
    return noise[plain].std().item()


def test_noise_initialisation_against_forward_replacement_of_four_percent():
    # n = 192: 115 / 48 evaluations, error .411 / .859, MAE .0079 / .0701, std .751 / .588 with noise .977. The error's
    # ratio is .48 there and .52 on these 48 images
    ours, fix = score("noise-initialised"), score("ddim", forward_steps=2)
    assert ours["nfe"] <= 2.4 * fix["nfe"]
    assert ours["error"] <= 0.55 * fix["error"]
    assert ours["mae"] <= fix["mae"] / 5
    assert abs(ours["std"] - noise_std()) < abs(fix["std"] - noise_std())


def test_prediction_and_correction_against_noise_initialisation():
    # n = 192: 71 evaluations, error .012, MAE .0024, std .975
    ours, other = score("predictor-corrector"), score("noise-initialised")
    assert ours["nfe"] <= 0.62 * other["nfe"]
    assert ours["error"] <= other["error"] / 10
    assert ours["mae"] <= other["mae"] / 2
    assert ours["std"] == pytest.approx(noise_std(), rel=0.02)
    # and so what was claimed of noise initialisation, with room to spare
    fix = score("ddim", forward_steps=2)
    assert (
        ours["nfe"] <= 1.5 * fix["nfe"]
        and ours["error"] <= fix["error"] / 20
        and ours["mae"] <= fix["mae"] / 20
    )


def test_images_of_eight_bits_are_no_longer_the_samplers():
    # rounding (std .0023) is noise that no image of the model has: what inverts exactly amplifies it in plain areas
    assert score("predictor-corrector", bits=8)["std"] > 1.3
    # noise of sigma .02 hides it: latents of the right size for a sixth of the error of the paper's fix
    hidden = score("noise-level", bits=8, sigma=0.02, inner="predictor-corrector")
    fix = score("ddim", bits=8, forward_steps=2)
    assert hidden["std"] == pytest.approx(noise_std(), rel=0.03)
    assert hidden["mae"] < fix["mae"] / 4


def test_noise_projection_at_the_cost_of_plain_inversion():
    # n = 192: 50 evaluations, error .260 against .853, MAE .0097 against .0651, std .913 with noise .973
    ours, fix = score("noise-projection"), score("ddim", forward_steps=2)
    assert ours["nfe"] == 50
    assert ours["error"] <= fix["error"] / 3
    assert ours["mae"] <= fix["mae"] / 5
    assert abs(ours["std"] - noise_std()) < abs(fix["std"] - noise_std()) / 3
    # of rounded images as well, without a noise of its own
    rounded, fix = score("noise-projection", bits=8), score("ddim", bits=8, forward_steps=2)
    assert rounded["std"] == pytest.approx(noise_std(), rel=0.05)
    assert rounded["error"] < 0.8 * fix["error"]
    assert rounded["mae"] <= fix["mae"] / 5


def test_gradient_descent_in_two_steps_in_place_of_one():
    # the second step is nearly as singular as the first; with the defaults, n = 192: 231 and 311 evaluations, error
    # .358 and .065, std .564 and .929; here a cheaper setting
    cheap = dict(num_gradient_steps=40, num_evaluations=3)
    one, two = (score("hybrid-gradient", descent_steps=steps, **cheap) for steps in (1, 2))
    assert two["nfe"] < 1.3 * one["nfe"]
    assert two["error"] < one["error"] / 3
    assert two["mae"] < one["mae"] / 3
