"""Methods on independent Gaussian modes, against closed forms: T2, to the digits of the tables."""

import math

import numpy as np
import pytest
import torch
from analytic_denoisers import LINEAR, Analytic

from taba_core.diffusion import NoiseSchedule, TimestepGrid, generate, invert
from taba_core.diffusion.inversion import inversion_method_named
from taba_core.theory import GaussianModes

LAM = np.array([1e-4, 1e-2, 1.0])
GRIDS = {
    "dit": TimestepGrid.build(LINEAR, 50),
    "sdxl": TimestepGrid.build(NoiseSchedule.scaled_linear(), 50, steps_offset=1, final_alpha_bar="first"),
}


class Modes(Analytic):
    """Optimal denoiser of one pixel a channel, of variances LAM."""

    def __init__(self, schedule):
        super().__init__(None, schedule, (3, 1, 1))

    def eps(self, x_t, t, cond):
        a = float(self.schedule.alpha_bar[round(t / self.schedule.timestep_scale)])
        return math.sqrt(1 - a) / (a * torch.from_numpy(LAM).view(1, 3, 1, 1) + 1 - a) * x_t


def gains(grid, method, **options):
    """(F, A, B): image per noise, latent per image, latent per unit of injected noise; per mode."""
    grid, one = GRIDS[grid], torch.ones(1, 3, 1, 1, dtype=torch.float64)
    model = Modes(grid.schedule)

    def latent(image, noise):
        return invert(model, image, grid, method, forward_noise=noise, **options).numpy().ravel()

    return generate(model, one, grid).numpy().ravel(), latent(one, 0 * one), latent(0 * one, one)


def latent_std_and_rmse(grid, method, **options):
    """Std of the latent of a generated image, and the rms error of its reconstruction, per mode."""
    F, A, B = gains(grid, method, **options)
    return np.hypot(A * F, B), np.hypot((F * A - 1) * F, F * B)


@pytest.mark.parametrize(
    "method, dit, sdxl",
    [
        ("ddim", (20.307031, 7.914490, 1.035554), (11.892352, 7.395875, 1.026271)),
        ("ddim-source", (83.623728, 7.912518, 0.964176), (29.561803, 7.968890, 0.973757)),
        (("fixed-point", 2), (48.668324, 11.407783, 1.037148), (20.053664, 10.109604, 1.027064)),
        (("fixed-point", 5), (104.039715, 12.729101, 1.037259), (28.912503, 11.492741, 1.027101)),
        ("aidi-a", (179.370317, 12.762605, 1.037259), (32.960215, 11.622661, 1.027101)),
    ],
    ids=str,
)
def test_inversion_gains(method, dit, sdxl):
    if isinstance(method, tuple):
        method = inversion_method_named(method[0], num_evaluations=method[1])
    # the map of one image is linear, so six evaluations with Anderson's weights on three modes solve it
    for grid, expected in (("dit", dit), ("sdxl", sdxl)):
        assert gains(grid, method)[1] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "method, options, dit, sdxl",
    [
        # forward replacement of 2 steps, then the exact inverse
        (
            "aidi-a",
            dict(forward_steps=2),
            ((0.997, 0.933, 0.998), (0.0076, 0.0586, 0.0791)),
            ((1.018, 0.972, 0.996), (0.0385, 0.0832, 0.1401)),
        ),
        (
            ("noise-initialised", dict(num_initialised=3, num_evaluations=3)),
            {},
            ((0.656, 0.942, 1.00), (0.0021, 0.0046, 0.0001)),
            ((0.799, 0.940, 1.00), (0.0061, 0.0052, 0.0000)),
        ),
        # three steps from noise, DDIM inversion after: better than it on both counts at 56 evaluations
        (
            ("noise-initialised", dict(num_initialised=3, num_evaluations=3, rest_evaluations=1)),
            {},
            ((0.507, 0.757, 0.998), (0.0028, 0.0190, 0.0016)),
            ((0.691, 0.827, 0.999), (0.0094, 0.0149, 0.0007)),
        ),
    ],
    ids=["forward replacement and exact rest", "noise-initialised", "noise-initialised and DDIM"],
)
def test_latent_std_and_reconstruction(method, options, dit, sdxl):
    if isinstance(method, tuple):
        method = inversion_method_named(method[0], **method[1])
    for grid, (std, rmse) in (("dit", dit), ("sdxl", sdxl)):
        found = latent_std_and_rmse(grid, method, **options)
        assert found[0] == pytest.approx(std, abs=6e-4)
        assert found[1] == pytest.approx(rmse, abs=6e-5)


@pytest.mark.parametrize(
    "order, dit, sdxl",
    [(1, (0.312, 0.621, 0.931), (0.703, 0.663, 0.949)), (2, (0.314, 0.655, 0.958), (0.703, 0.678, 0.968))],
)
def test_reverse_dpm_on_its_own_grid(order, dit, sdxl):
    method = inversion_method_named("reverse-dpm", order=order)
    for grid, expected in (("dit", dit), ("sdxl", sdxl)):
        assert latent_std_and_rmse(grid, method)[0] == pytest.approx(expected, abs=6e-4)
    # order 2 brings large scales back better, lam = 1: .0498 against .0316
    rmse = {1: 0.0498, 2: 0.0316}[order]
    assert latent_std_and_rmse("sdxl", method)[1][2] == pytest.approx(rmse, abs=6e-5)


def test_predictor_corrector_against_plain_fixed_point_and_noise_initialisation():
    # 71 evaluations: three steps of 8, 47 of one
    std, rmse = latent_std_and_rmse("dit", "predictor-corrector")
    assert std == pytest.approx((1.0008, 1.0162, 1.0008), abs=6e-5)
    assert rmse == pytest.approx((0.0000, 0.0013, 0.0008), abs=6e-5)
    # noise-initialised at 103: .656 .942 1.000; fixed point at 250: .580 .997 1.000
    other, _ = latent_std_and_rmse("dit", inversion_method_named("fixed-point", num_evaluations=5))
    assert (abs(std - 1)[0], abs(other - 1)[0]) == pytest.approx((0.0008, 0.42), abs=1e-3)


def test_source_times_then_target_times_multiply():
    # G of the hybrid is the product of source gains below the switch and target gains above it
    grid = GRIDS["sdxl"]
    modes = GaussianModes(LAM, grid)
    s = np.sqrt((1 - grid.alpha_bar) / grid.alpha_bar)
    below = int((s[1:] < 0.2).sum())
    assert 0 < below < 50
    source = modes.step_gains(grid.upward(network_time="source"))[:below].prod(axis=0)
    expected = source * modes.inversion_gain(below)
    assert gains("sdxl", "source-first")[1] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("sigma, entered", [(0.05, 1), (0.1, 2), (0.005, 0)])
def test_a_noise_level_between_those_of_the_grid(sigma, entered):
    # DiT-like sigmas .0100 .0791 .1422: .05 lies past level 1, .1 past level 2, .005 before level 1.
    # first gain from a = 1 - sigma^2: P + Q k with k at the level entered
    grid, modes = GRIDS["dit"], GaussianModes(LAM, GRIDS["dit"])
    to, a = float(grid.alpha_bar[entered + 1]), 1 - sigma**2
    P = math.sqrt(to / a)
    Q = math.sqrt(1 - to) - P * sigma
    G = (P + Q * modes.eps_gain(grid.levels[entered + 1])) * modes.inversion_gain(entered + 1)
    _, A, B = gains("dit", inversion_method_named("noise-level", sigma=sigma))
    assert pytest.approx(math.sqrt(a) * G, rel=1e-12) == A
    assert pytest.approx(sigma * G, rel=1e-12) == B


def test_a_noise_level_of_the_grid_is_forward_replacement():
    grid = GRIDS["dit"]
    sigma = math.sqrt(1 - grid.alpha_bar[2])
    level = gains("dit", inversion_method_named("noise-level", sigma=sigma))
    replaced = gains("dit", "ddim", forward_steps=2)
    for a, b in zip(level, replaced, strict=True):
        assert a == pytest.approx(b, rel=1e-9)
