"""Pix2Pix-Zero and ReNoise: what they reduce to, what they cost, and the published loops written out."""

import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

sys.path.insert(0, str(Path(__file__).parents[1] / "diffusion"))
from analytic_denoisers import LINEAR, Analytic, constant, normal, waves

from taba_core.diffusion import CountedDenoiser, NoiseSchedule, TimestepGrid, generate, invert
from taba_core.diffusion.inversion import inversion_method_named, invert_with_report
from taba_core.diffusion.inversion.methods.pix2pix_zero import Pix2PixZero
from taba_core.diffusion.inversion.methods.renoise import ReNoise
from taba_core.diffusion.noise_loss import (
    autocorrelation,
    draw_shifts,
    gaussian_divergence,
    patch_divergence,
)
from taba_core.errors import UsageError

SCALED = NoiseSchedule.from_betas(torch.linspace(0.00085**0.5, 0.012**0.5, 1000).double().square().numpy())
SDXL = TimestepGrid.build(SCALED, 50, steps_offset=1, final_alpha_bar="first")
FIVE = TimestepGrid.build(LINEAR, 5)
SHAPE = (3, 3, 8, 8)
IMAGES = normal(SHAPE, 4).clamp(-1, 1) / 2


def spread(eps):
    return eps.double().flatten(1).std(1)


class TestPix2PixZero:
    @pytest.mark.parametrize("off", [{"lambda_ac": 0.0, "lambda_kl": 0.0}, {"num_reg_steps": 0}])
    def test_without_regularisation_it_is_ddim_bit_for_bit(self, off):
        x = IMAGES.float()
        assert torch.equal(invert(waves(), x, FIVE, Pix2PixZero(**off)), invert(waves(), x, FIVE))

    def test_one_step_is_the_published_loop(self):
        grid, model = TimestepGrid.build(LINEAR, 1), waves()
        method = Pix2PixZero(num_reg_steps=2, num_ac_rolls=3, seed=5)
        eps = model.eps(IMAGES, float(grid.network_times[0]), {})
        shifts = draw_shifts(range(3), SHAPE[1:], draws=6, lowest=0, seed=5, stream="pix2pix-zero/1")
        for turn in range(2):
            for roll in range(3):
                eps = eps - 20 * autocorrelation(eps, shifts[:, 3 * turn + roll])[1] / 3
            eps = eps - 20 * gaussian_divergence(eps)[1]
        a_0, a_1 = 1.0, float(grid.upper_alpha_bar[0])
        expected = (a_1 / a_0) ** 0.5 * IMAGES + (1 - a_1) ** 0.5 * eps
        assert_close(invert(model, IMAGES, grid, method), expected, rtol=0, atol=1e-12)

    def test_white_noise_keeps_its_spread_within_a_percent_if_no_roll_is_zero(self):
        # eps = white noise whatever the state; the latent of the constant-in-x network is Q_1 eps + P_1 x.
        white = normal((4, 4, 32, 32), 1)
        model, grid = Analytic(lambda x, t: white, sample_shape=(4, 32, 32)), TimestepGrid.build(LINEAR, 1)
        sigma = float(1 - grid.upper_alpha_bar[0]) ** 0.5

        def regularised(**options):
            latent = invert(model, torch.zeros_like(white), grid, Pix2PixZero(lambda_kl=0.0, **options))
            return spread(latent / sigma) / spread(white)

        without_zero = draw_shifts(range(4), (4, 32, 32), draws=25, lowest=1, seed=0, stream="pix2pix-zero/1")
        eps = white
        for roll in range(25):
            eps = eps - 4 * autocorrelation(eps, without_zero[:, roll])[1]
        assert_close(spread(eps) / spread(white), torch.ones(4, dtype=torch.float64), rtol=0.01, atol=0)
        # The port's rolls of 0 penalise the energy itself: the spread falls, by a few per cent.
        assert 0.94 < regularised().mean() < 0.99

    def test_effective_lambda_moves_a_picture_as_far_in_any_resolution(self):
        blocks = normal((1, 4, 8, 8), 2)

        def change(size, **options):
            eps = blocks.repeat_interleave(size // 8, 2).repeat_interleave(size // 8, 3)
            model = Analytic(lambda x, t: eps, sample_shape=(4, size, size))
            grid = TimestepGrid.build(LINEAR, 1)
            plain = invert(model, torch.zeros_like(eps), grid)
            moved = invert(model, torch.zeros_like(eps), grid, Pix2PixZero(**options))
            return ((moved - plain).norm() / plain.norm()).item()

        published = [change(size) for size in (32, 64, 128)]
        assert published[0] > 2 * published[1] > 4 * published[2]
        effective = [change(size, effective_lambda=True) for size in (32, 64, 128)]
        assert max(effective) < 1.5 * min(effective)
        assert effective[1] == published[1]  # 4 x 64 x 64 is the size of reference

    def test_official_reading_drops_two_steps_and_stands_one_timestep_lower(self):
        times = []

        def f(x, t):
            times.append(t)
            return torch.full_like(x, 0.3)

        method = Pix2PixZero(reading="official", num_reg_steps=0)
        latent = invert(Analytic(f, SCALED), IMAGES, SDXL, method)
        assert times == list(range(21, 962, 20))
        assert method.evaluations(SDXL) == 48 == len(times)
        # A constant prediction telescopes: from alpha_bar of timestep 20 to that of 980.
        low, high = float(SCALED.alpha_bar[20]), float(SCALED.alpha_bar[980])
        expected = high**0.5 * (IMAGES - (1 - low) ** 0.5 * 0.3) / low**0.5 + (1 - high) ** 0.5 * 0.3
        assert_close(latent, expected, rtol=0, atol=1e-12)

    def test_official_reading_cannot_be_forward_replaced_and_needs_three_steps(self):
        method = Pix2PixZero(reading="official")
        with pytest.raises(UsageError, match="'pix2pix-zero' moves on a grid of its own"):
            invert(waves(), IMAGES, SDXL, method, forward_steps=2, forward_noise=normal(SHAPE, 3))
        with pytest.raises(UsageError) as error:
            invert(waves(), IMAGES, TimestepGrid.build(LINEAR, 2), method)
        assert str(error.value) == (
            "pix2pix-zero, reading=official drops the first and last of T=2 steps; use 3 or more."
        )

    def test_a_negative_lambda_is_refused_by_name(self):
        with pytest.raises(
            UsageError, match=r"'pix2pix-zero', option lambda_ac=-1: .*greater than or equal to 0"
        ):
            inversion_method_named("pix2pix-zero", lambda_ac=-1)


UNREGULARISED = {"num_reg_steps": 0}


class TestReNoise:
    @pytest.mark.parametrize("average", [True, False])
    def test_without_repetition_and_regularisation_it_is_ddim_bit_for_bit(self, average):
        method = ReNoise(num_renoise_steps=0, average=average, **UNREGULARISED)
        x = IMAGES.float()
        assert torch.equal(invert(waves(), x, FIVE, method), invert(waves(), x, FIVE))

    @pytest.mark.parametrize(
        "T, K, plain, regularised",
        # 13 of the 50 times 1, 21, ..., 981 lie below 250: K=9 costs 13 * 6 + 37 * 10 = 448.
        [
            (50, 1, 100, 150),
            (50, 4, 250, 300),
            (50, 9, 448, 498),
            (25, 1, 50, 75),
            (10, 4, 50, 60),
            (17, 2, 51, 68),
        ],
    )
    def test_evaluations(self, T, K, plain, regularised):  # T6
        grid = TimestepGrid.build(SCALED, T, steps_offset=1, final_alpha_bar="first")
        model = Analytic(lambda x, t: 0.1 * x, SCALED, (1, 2, 2))
        x = normal((2, 1, 2, 2), 0)
        for options, expected in ((UNREGULARISED, plain), ({"num_reg_steps": 1}, regularised)):
            counted, method = CountedDenoiser(model), ReNoise(num_renoise_steps=K, **options)
            report = invert_with_report(counted, x, grid, method)
            assert report.evaluations.tolist() == [expected, expected]
            assert counted.num_evaluations == 2 * expected
            assert method.evaluations(grid) == expected

    def test_many_repetitions_solve_the_step(self):  # T3
        model, noise = waves(SCALED), normal(SHAPE, 6)
        image = generate(model, noise, SDXL)
        late = [m for m in SDXL.upward() if m.network_time >= 250]
        errors = []
        for K in (0, 2, 40):
            method = ReNoise(num_renoise_steps=K, average=False, **UNREGULARISED)
            report = invert_with_report(model, image, SDXL, method, measure_residual=True)
            errors.append(report.residual[:, -len(late) :].max().item())
        assert errors[0] > 10 * errors[1]
        assert errors[2] < 1e-12

    def test_a_step_with_averages_and_regularisation_is_the_published_loop(self):
        model, grid = waves(), TimestepGrid.build(LINEAR, 1)
        a, t = float(grid.upper_alpha_bar[0]), float(grid.network_times[0])
        from taba_core import rng

        n = torch.from_numpy(rng.normal(range(3), SHAPE[1:], seed=2, stream="renoise")).double()
        reference = model.eps(a**0.5 * IMAGES + (1 - a) ** 0.5 * n, t, {})

        def regularised(eps, draw):
            shifts = draw_shifts(range(3), SHAPE[1:], draws=20, lowest=0, seed=2, stream=f"renoise/1/{draw}")
            for turn in range(4):
                eps = eps - 0.065 * patch_divergence(eps, reference)[1].clamp(-100, 100)
                for roll in range(5):
                    eps = eps - 20 * autocorrelation(eps, shifts[:, 5 * turn + roll])[1] / 5
            return eps

        def inverted(eps):
            return a**0.5 * IMAGES + (1 - a) ** 0.5 * eps

        z, seen = IMAGES, []
        for i in range(3):
            seen.append(model.eps(z, t, {}))
            z = inverted(regularised(seen[-1], i))
        expected = inverted(regularised(sum(seen) / 3, "mean"))
        latent = invert(model, IMAGES, grid, ReNoise(num_renoise_steps=2, seed=2))
        assert_close(latent, expected, rtol=0, atol=1e-12)

    def test_with_one_repetition_later_times_are_neither_averaged_nor_regularised(self):
        kept = dict(num_renoise_steps=1)
        late = TimestepGrid.build(LINEAR, 2)  # times 0 and 500
        noise = normal(SHAPE, 8)
        ours = invert(waves(), IMAGES, late, ReNoise(**kept), forward_steps=1, forward_noise=noise)
        plain = ReNoise(**kept, average=False, **UNREGULARISED)
        assert torch.equal(ours, invert(waves(), IMAGES, late, plain, forward_steps=1, forward_noise=noise))

    def test_a_prediction_with_the_statistics_of_its_reference_stays(self):
        # The constant network predicts its own reference: no divergence to reduce (lambda_ac off).
        method = ReNoise(num_renoise_steps=2, lambda_ac=0.0)
        assert_close(
            invert(constant(0.3), IMAGES, FIVE, method),
            invert(constant(0.3), IMAGES, FIVE),
            rtol=0,
            atol=1e-12,
        )

    def test_reference_noise_and_image_differ(self):
        options = dict(num_renoise_steps=1, num_reg_steps=1)
        latents = [
            invert(waves(), IMAGES, FIVE, ReNoise(**options, reference=kind)) for kind in ("noised", "image")
        ]
        assert (latents[0] - latents[1]).abs().max() > 1e-6


@pytest.mark.parametrize("method", [Pix2PixZero(), ReNoise(num_renoise_steps=2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_is_its_items_whose_draws_follow_their_ids(method, dtype):  # T8
    x, ids = IMAGES.to(dtype), [7, 3, 11]
    batch = invert(waves(), x, FIVE, method, sample_ids=ids)
    for i, sample in enumerate(ids):
        assert torch.equal(invert(waves(), x[i : i + 1], FIVE, method, sample_ids=[sample])[0], batch[i])
    assert not torch.equal(invert(waves(), x, FIVE, method), batch)
