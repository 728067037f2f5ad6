"""Methods whose image comes back because the way is kept (direct inversion, edit-friendly DDPM), and EasyInv."""

import math

import numpy as np
import pytest
import torch
from analytic_denoisers import LINEAR, Analytic, constant, gaussian, normal, waves
from torch.testing import assert_close

from taba_core import rng
from taba_core.diffusion import CountedDenoiser, NoiseSchedule, TimestepGrid, ddim_step, invert
from taba_core.diffusion.inversion import inversion_method_named, invert_with_report, reconstruct
from taba_core.diffusion.level import Level
from taba_core.errors import UsageError

SHAPE = (4, 3, 4, 4)
GRID = TimestepGrid.build(LINEAR, 50)
GUIDED = TimestepGrid.build(NoiseSchedule.cosine(4000, timestep_scale=0.25), 50, "guided")
OFFSET = TimestepGrid.build(LINEAR, 50, steps_offset=1, final_alpha_bar="first")
A = GRID.alpha_bar
SIGMA = np.sqrt(1 - A)


def wild(schedule=LINEAR):
    """A network that is no denoiser: large, rough, without any relation to noise."""
    return Analytic(lambda x, t: 3 * torch.sin(40 * x + t) - 2, schedule)


class TestDirectInversion:
    @pytest.mark.parametrize(
        "conventions",
        [
            {},
            {"network_time": "source"},
            {"network_time": "source", "levels": "shifted"},
            {"x0_rule": "dynamic"},
        ],
    )
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_its_latent_is_that_of_ddim_bit_for_bit(self, conventions, dtype):
        model, image = waves(GUIDED.schedule), normal(SHAPE, 1, dtype)
        latent = invert_with_report(model, image, GUIDED, "direct-inversion", **conventions).latent
        assert torch.equal(latent, invert(model, image, GUIDED, "ddim", **conventions))

    @pytest.mark.parametrize("network", [waves, wild])
    @pytest.mark.parametrize("x0_rule", ["none", "clip", "clip-rederive", "dynamic"])
    def test_the_image_comes_back_from_any_network(self, network, x0_rule):
        # float64 holds S + (x - S) before it is rounded to float32, so not one bit is lost
        model, image = network(), normal(SHAPE, 1, torch.float32)
        report = invert_with_report(model, image, GRID, "direct-inversion", x0_rule=x0_rule)
        again = reconstruct(
            model, report.latent, GRID, "direct-inversion", carried=report.carried, x0_rule=x0_rule
        )
        assert torch.equal(again, image)

    def test_the_image_comes_back_even_from_another_network(self):
        # which is why nothing about the latent follows from it
        image = normal(SHAPE, 1)
        report = invert_with_report(waves(), image, GRID, "direct-inversion")
        again = reconstruct(wild(), report.latent, GRID, "direct-inversion", carried=report.carried)
        assert (again - image).abs().max() < 1e-13

    def test_evaluations(self):  # T6: 50 + 50
        model = CountedDenoiser(waves())
        report = invert_with_report(model, normal(SHAPE, 1), GRID, "direct-inversion")
        assert report.evaluations.tolist() == [50] * 4 and model.num_evaluations == 200
        reconstruct(model, report.latent, GRID, "direct-inversion", carried=report.carried)
        assert model.num_evaluations == 400

    def test_without_its_states_it_cannot_sample(self):
        with pytest.raises(UsageError, match="'direct-inversion' needs states beside the latent"):
            reconstruct(waves(), normal(SHAPE, 1), GRID, "direct-inversion")


def edit_friendly(model, image, grid=GRID, sample_ids=None, **options):
    """(report, image again)"""
    method = inversion_method_named("edit-friendly", **options)
    report = invert_with_report(model, image, grid, method, sample_ids=sample_ids)
    return report, reconstruct(model, report.latent, grid, method, carried=report.carried)


def drawn(level, sample_ids=range(4)):
    """n_l of the given samples."""
    return torch.from_numpy(
        rng.normal(list(sample_ids), (3, 4, 4), seed=0, stream=f"edit-friendly/{level}")
    ).double()


class TestEditFriendly:
    def test_its_latent_is_forward_diffusion(self):
        image = normal(SHAPE, 1)
        for model in (waves(), wild()):
            latent = edit_friendly(model, image)[0].latent
            expected = math.sqrt(A[50]) * image + SIGMA[50] * drawn(50)
            assert_close(latent, expected, rtol=0, atol=1e-14)

    def test_the_published_residual_is_the_noise_of_the_first_level(self):
        # a_0 = 1 leaves no room for noise in the last step, x_0 = (x_1 - sig_1 eps) / sqrt(a_1); with eps = 0 the
        # image comes back with error (sig_1 / sqrt(a_1)) n_1: .0100 n_1
        image = normal(SHAPE, 1)
        _, again = edit_friendly(constant(0.0), image)
        error = again - image
        assert_close(error, SIGMA[1] / math.sqrt(A[1]) * drawn(1), rtol=0, atol=1e-12)
        assert error.std().item() == pytest.approx(0.0100, rel=0.1)

    @pytest.mark.parametrize("model", [waves, wild])
    @pytest.mark.parametrize(
        "grid", [GRID, GUIDED, OFFSET, TimestepGrid.build(LINEAR, 50, final_alpha_bar="first")]
    )
    @pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 4e-7), (torch.float64, 1e-15)])
    def test_with_every_noise_kept_the_image_comes_back(self, model, grid, dtype, tolerance):
        image = normal(SHAPE, 1, dtype)
        _, again = edit_friendly(model(grid.schedule), image, grid, num_zeroed=0)
        scale = 1 if model is waves else 100  # rounding of mu and z, where mu is far from the image
        assert (again - image).abs().max() < 10 * scale * tolerance

    def test_noise_of_a_step_by_hand(self):
        # data without variance, x_0 = 0: x_l = sig_l n_l and eps = n_l, so
        # z_l = (sig_{l-1} n_{l-1} - sqrt(sig_{l-1}^2 - V_l) n_l) / sqrt(V_l), of variance 2 sig_{l-1}^2 / V_l - 1
        report, _ = edit_friendly(gaussian(0.0), torch.zeros(SHAPE, dtype=torch.float64))
        z = report.carried["steps"]
        for l in (2, 10, 50):
            V = (SIGMA[l - 1] / SIGMA[l]) ** 2 * (1 - A[l] / A[l - 1])
            expected = SIGMA[l - 1] * drawn(l - 1) - math.sqrt(SIGMA[l - 1] ** 2 - V) * drawn(l)
            assert_close(z[:, l - 1], expected / math.sqrt(V), rtol=0, atol=1e-9)
            assert 2 * SIGMA[l - 1] ** 2 / V - 1 > 1
        # each n enters two neighbouring steps with opposite signs
        middle = z[:, 20:40].flatten(2)
        assert (middle[:, 1:] * middle[:, :-1]).mean() < -0.3 * middle.square().mean()

    def test_the_last_steps_zeroed(self):
        report, _ = edit_friendly(waves(), normal(SHAPE, 1), num_zeroed=3)
        assert [l + 1 for l in range(50) if not report.carried["steps"][:, l].any()] == [1, 2, 3]

    def test_evaluations(self):  # T6
        model = CountedDenoiser(waves())
        report, _ = edit_friendly(model, normal(SHAPE, 1))
        assert report.evaluations.tolist() == [50] * 4 and model.num_evaluations == 400

    def test_an_image_does_not_depend_on_its_batch_but_on_its_id_and_seed(self):  # T8
        model, image = waves(), normal(SHAPE, 1)
        together, again = edit_friendly(model, image, sample_ids=[3, 5, 7, 9], num_zeroed=0)
        alone, again_alone = edit_friendly(model, image[2:3], sample_ids=[7], num_zeroed=0)
        assert_close(together.latent[2:3], alone.latent, rtol=0, atol=1e-12)
        assert_close(again[2:3], again_alone, rtol=0, atol=1e-12)
        other = edit_friendly(model, image, sample_ids=[3, 5, 7, 9], seed=1)[0].latent
        assert (other - together.latent).abs().min(dim=0).values.max() > 0.5

    def test_its_path_is_recorded_upwards(self):
        records, image = [], normal(SHAPE, 1)
        method = inversion_method_named("edit-friendly", num_zeroed=0)
        report = invert_with_report(waves(), image, GRID, method, on_step=records.append)
        assert [r.step for r in records] == list(range(1, 51))
        assert torch.equal(records[-1].x_to, report.latent)
        assert_close(records[0].x_from, image, rtol=0, atol=1e-14)

    def test_options(self):
        with pytest.raises(
            UsageError, match="option num_zeroed=-1: Input should be greater than or equal to 0"
        ):
            inversion_method_named("edit-friendly", num_zeroed=-1)


class TestEasyInv:
    @pytest.mark.parametrize("conventions", [{}, {"network_time": "source", "levels": "shifted"}])
    def test_weight_1_is_ddim_bit_for_bit(self, conventions):
        model, image = waves(), normal(SHAPE, 1, torch.float32)
        method = inversion_method_named("easyinv", eta=1)
        assert torch.equal(
            invert(model, image, GRID, method, **conventions), invert(model, image, GRID, **conventions)
        )

    @pytest.mark.parametrize(
        "options, window",
        [
            ({}, range(43, 48)),  # SDXL: 42.5 < l < 47.5
            (
                {"eta": 0.5, "start_fraction": 0.05, "width": 0.2},
                range(3, 13),
            ),  # Stable Diffusion 1.4: 2.5 < l < 12.5
        ],
    )
    def test_states_are_mixed_inside_the_window_only(self, options, window):
        model, records = waves(), []
        method = inversion_method_named("easyinv", **options)
        invert(model, normal(SHAPE, 1), GRID, method, on_step=records.append)
        for r in records:
            plain = ddim_step(r.x_from, r.eps_t, Level.vp(A[r.step - 1]), Level.vp(A[r.step]))
            eta = method.eta if r.step in window else 1
            assert_close(r.x_to, eta * plain + (1 - eta) * r.x_from, rtol=0, atol=1e-14)

    def test_it_holds_the_latent_back(self):
        # variance 1e-4: each step of DDIM multiplies by P + Q k, one in the window by eta (P + Q k) + 1 - eta
        k = SIGMA / (A * 1e-4 + 1 - A)
        P = np.sqrt(A[1:] / A[:-1])
        ddim = P + (SIGMA[1:] - P * SIGMA[:-1]) * k[1:]
        mixed = np.where((np.arange(1, 51) > 2.5) & (np.arange(1, 51) < 12.5), 0.5 * ddim + 0.5, ddim)
        image = 0.005575058 * torch.ones(SHAPE, dtype=torch.float64)  # F of sampling: DDIM's latent is .113
        method = inversion_method_named("easyinv", eta=0.5, start_fraction=0.05, width=0.2)
        latent = [invert(gaussian(1e-4), image, GRID, m)[0, 0, 0, 0].item() for m in ("ddim", method)]
        assert latent[0] == pytest.approx(0.113213, abs=1e-6)
        assert latent[1] == pytest.approx(0.005575058 * mixed.prod(), rel=1e-9)
        assert latent[1] < latent[0] / 2

    def test_it_can_be_wrapped_by_forward_replacement(self):
        model, noise = CountedDenoiser(waves()), normal(SHAPE, 9)
        invert(model, normal(SHAPE, 1), GRID, "easyinv", forward_steps=2, forward_noise=noise)
        assert model.num_evaluations == 4 * 48
