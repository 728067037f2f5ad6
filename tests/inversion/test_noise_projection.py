"""Noise projection: cost and use on a plain image, and what it leaves alone."""

import torch
from analytic_denoisers import LINEAR, gaussian, normal

from taba_core.diffusion import TimestepGrid, generate, invert
from taba_core.diffusion.inversion import invert_with_report
from taba_core.diffusion.inversion.methods.noise_projection import NoiseProjection

FIFTY = TimestepGrid.build(LINEAR, 50)
MODEL, NOISE = gaussian(1e-4), normal((4, 3, 16, 16), 6)
IMAGE = generate(MODEL, NOISE, FIFTY)


def test_a_plain_image_gets_its_noise_back_at_the_cost_of_ddim():
    # DDIM inversion leaves std .113 here, a clean-level grid with lam = 1e-4 (specification, section 3); its pattern is
    # right, only its size is not, so whitening the first steps restores most of it.
    report = invert_with_report(MODEL, IMAGE, FIFTY, "noise-projection")
    ddim = invert(MODEL, IMAGE, FIFTY)
    assert report.evaluations.tolist() == [50] * 4
    assert abs(ddim.std() / NOISE.std() - 0.113) < 0.01
    assert abs(report.latent.std() / NOISE.std() - 1) < 0.02
    assert (report.latent - NOISE).square().mean().sqrt() < 0.1


def test_without_strength_and_on_one_step_it_is_ddim():
    grid = TimestepGrid.build(LINEAR, 1)
    latent = invert(MODEL, IMAGE, grid, NoiseProjection(strength=0.0))
    torch.testing.assert_close(latent, invert(MODEL, IMAGE, grid), rtol=0, atol=1e-12)


def test_an_image_rounded_to_8_bits_does_not_get_more_noise_than_there_is():
    # Rounding to steps of 1/127.5 adds std 0.289/127.5 = .0023 to the .0056 of this image: sqrt(1 + (.0023/.0056)^2) =
    # 1.08 is what an exact inversion returns.
    rounded = (IMAGE * 127.5).round() / 127.5
    solved, projected = (
        invert(MODEL, rounded, FIFTY, method).std() for method in ("predictor-corrector", "noise-projection")
    )
    assert abs(solved - 1.085) < 0.02
    assert abs(projected - 1) < 0.02


def test_a_blank_image_has_nothing_to_whiten():
    blank = torch.full((2, 3, 8, 8), 0.25)
    latent = invert(gaussian(1e-4), blank, FIFTY, "noise-projection")
    assert latent.std() < 1e-3
