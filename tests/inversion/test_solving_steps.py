"""Methods that solve the sampler's step for its input: exactness, guards, evaluations."""

import math

import numpy as np
import pytest
import torch
from analytic_denoisers import LINEAR, Analytic, gaussian, normal, waves
from torch.testing import assert_close

from taba_core.diffusion import (
    CountedDenoiser,
    TimestepGrid,
    generate,
    invert,
    invert_with_report,
    reconstruct,
)
from taba_core.diffusion.ends import Held
from taba_core.diffusion.inversion import Fallback, inversion_method_named
from taba_core.diffusion.inversion.guarded import Iterate
from taba_core.diffusion.inversion.methods.anderson import anderson_weights

named = inversion_method_named


def coefficients(move):
    """(P, Q) of a move that holds the noise."""
    return Held.NOISE.coefficients(move.start, move.stop)


GRID = TimestepGrid.build(LINEAR, 10)
FIFTY = TimestepGrid.build(LINEAR, 50)
SHAPE = (3, 2, 4, 4)
EXACT = {
    "fixed-point": dict(num_evaluations=40),
    "aidi-e": dict(num_iterations=60),
    "aidi-a": dict(num_iterations=14),
    "exact-dpm-1": dict(rho=1.0, tolerance=1e-12),
    "noise-initialised": dict(num_evaluations=40, rest_evaluations=40),
    "predictor-corrector": dict(solved_evaluations=14, rest_evaluations=14),
}


def smooth_network():
    """A random two-layer network over the whole state, of Lipschitz constant 0.6 / max(Q).

    f = c W' tanh(W x): the gradient of a function, as the prediction of an ideal denoiser is.
    """
    d = math.prod(SHAPE[1:])
    w = 0.1 * torch.randn(d, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bound = torch.linalg.matrix_norm(w, 2).item() ** 2
    steepest = max(coefficients(move)[1] for move in GRID.upward())
    scale = 0.6 / (steepest * bound)

    def f(x, t):
        hidden = torch.tanh(x.flatten(1) @ w.to(x.dtype) + t / 1000)
        return scale * (hidden @ w.T.to(x.dtype)).view_as(x)

    return Analytic(f)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-6), (torch.float32, 2e-4)])
def test_there_and_back_is_exact(name, dtype, tolerance):  # T3
    model, method = smooth_network(), named(name, **EXACT[name])
    if dtype == torch.float32 and name == "exact-dpm-1":
        method = named(name, rho=1.0, tolerance=1e-6)
    noise, extra = normal(SHAPE, 0, dtype), normal(SHAPE, 9, dtype)
    image = generate(model, noise, GRID)
    report = invert_with_report(model, image, GRID, method, forward_noise=extra, measure_residual=True)
    assert (report.latent - noise).abs().max() < tolerance
    assert (generate(model, report.latent, GRID) - image).abs().max() < tolerance
    assert report.residual.max() < tolerance  # T7: the steps are solved
    # and without iterating they are not
    plain = invert_with_report(model, image, GRID, measure_residual=True)
    assert plain.residual.max() > 1e-3 and (plain.latent - noise).abs().max() > 1e-3


def test_one_evaluation_is_ddim_inversion_bit_for_bit():
    model, image = waves(), normal(SHAPE, 1, torch.float32)
    plain = invert(model, image, FIFTY)
    assert torch.equal(invert(model, image, FIFTY, named("fixed-point", num_evaluations=1)), plain)


def test_fixed_point_ignores_conventions_of_one_evaluation_methods():
    model, image = waves(), normal(SHAPE, 1)
    shifted = invert(model, image, GRID, "fixed-point", network_time="source", levels="shifted")
    assert torch.equal(shifted, invert(model, image, GRID, "fixed-point"))


@pytest.mark.parametrize(
    "name, options, evaluations",
    [
        ("ddim", {}, 50),
        ("ddim-source", {}, 50),
        ("source-first", {}, 50),
        ("reverse-dpm", dict(order=1), 50),
        ("reverse-dpm", dict(order=2), 50),
        ("aidi-e", {}, 300),
        ("aidi-a", {}, 300),
        ("fixed-point", {}, 1000),
        ("noise-initialised", {}, 115),  # 5 * 5 + 45 * 2
        ("noise-initialised", dict(num_initialised=3, num_evaluations=3), 103),
        ("noise-initialised", dict(num_initialised=3, num_evaluations=3, rest_evaluations=1), 56),
        ("predictor-corrector", {}, 71),  # 3 * 8 + 47
        ("noise-level", {}, 48),  # levels .0100 and .0791 lie below .1
    ],
)
def test_totals_at_fifty_steps(name, options, evaluations):  # T6
    method, counted = named(name, **options), CountedDenoiser(waves())
    image = normal((1, 2, 2, 2), 1)
    report = invert_with_report(counted, image, FIFTY, method, forward_noise=normal((1, 2, 2, 2), 9))
    assert report.evaluations.tolist() == [evaluations] == [counted.num_evaluations]
    assert method.evaluations(FIFTY) == evaluations


def test_anderson_weights_of_two_residuals_by_hand():
    # R_1 = (1, 0), R_2 = (-1, 1): R R^T = [[1, -1], [-1, 2]], its inverse times 1 is (3, 2), scaled (3, 2) / 5;
    # the mix 3/5 R_1 + 2/5 R_2 = (1/5, 2/5) is the point of their line nearest to 0
    zero = torch.zeros(1, 1, 1, 2, dtype=torch.float64)
    residuals = [torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[-1.0, 1.0]]]])]
    history = [Iterate(zero, r.double(), zero) for r in residuals]
    assert anderson_weights(history, 0.0).numpy() == pytest.approx(np.array([[0.6, 0.4]]), abs=1e-12)


def test_anderson_weights_of_an_image_that_has_converged():
    zero = torch.zeros(1, 1, 1, 2)
    assert anderson_weights([Iterate(zero, zero, zero)] * 3, 1e-12).tolist() == [pytest.approx([1 / 3] * 3)]


def test_anderson_is_closer_than_plain_iteration_at_the_same_cost():
    model, noise = smooth_network(), normal(SHAPE, 0)
    image = generate(model, noise, GRID)
    error = {
        name: (invert(model, image, GRID, named(name, **options)) - noise).abs().max().item()
        for name, options in (
            ("fixed-point", dict(num_evaluations=5)),
            ("aidi-a", dict(num_iterations=4)),
        )
    }
    assert error["aidi-a"] < 0.2 * error["fixed-point"]


def test_a_tolerance_stops_each_image_by_itself():
    # prediction k x with k = 0 in the first image: solved by one evaluation, checked by a second
    k = torch.tensor([0.0, 0.5, 0.9], dtype=torch.float64).view(3, 1, 1, 1)

    class PerImage(Analytic):
        def eps(self, x_t, t, cond):
            return cond["k"] * x_t

    method = named("fixed-point", num_evaluations=50, tolerance=1e-9)
    image = torch.ones(3, 1, 2, 2, dtype=torch.float64)
    report = invert_with_report(PerImage(None), image, GRID, method, {"k": k}, measure_residual=True)
    assert report.evaluations[0] == 20
    assert report.evaluations[0] < report.evaluations[1] < report.evaluations[2] < 500
    assert report.residual.max() < 1e-9


class TestGuard:
    """g(z) = P x - Q k z has factor -Q k: plain iteration diverges above 1, damped by half above 3."""

    GRID = TimestepGrid.build(LINEAR, 2)  # tau = 0, 500: Q_2 is near 1

    def report(self, factor, num_evaluations=30):
        q = coefficients(self.GRID.upward()[1])[1]

        class Against(Analytic):
            def eps(self, x_t, t, cond):
                return -cond["k"] * x_t if t > 0 else 0 * x_t

        k = torch.tensor(factor, dtype=torch.float64).view(-1, 1, 1, 1) / q
        image = torch.ones(len(factor), 1, 2, 2, dtype=torch.float64)
        return invert_with_report(
            Against(None),
            image,
            self.GRID,
            named("fixed-point", num_evaluations=num_evaluations),
            {"k": k},
            measure_residual=True,
        )

    def test_each_image_is_damped_or_given_up_or_left_alone(self):
        report = self.report([0.5, 2.0, 4.0])
        assert report.fallback[:, 1].tolist() == [Fallback.NONE, Fallback.DAMPED, Fallback.BEST_ITERATE]
        assert report.fallback[:, 0].tolist() == [0, 0, 0]
        # x* = P x / (1 + Q k): with 0.5 and 2 solved
        move = self.GRID.upward()[1]
        p, _ = coefficients(move)
        below = math.sqrt(self.GRID.alpha_bar[1])  # what step 1 makes of x_0 = 1 with eps = 0
        for image, factor in ((0, 0.5), (1, 2.0)):
            assert report.latent[image, 0, 0, 0].item() == pytest.approx(p * below / (1 + factor), rel=1e-4)

    def test_an_image_that_is_given_up_has_its_best_iterate_and_costs_no_more(self):
        report = self.report([4.0])
        # residuals of z, g(z), ... grow by 4: the first iterate, x itself, is the best
        below = math.sqrt(self.GRID.alpha_bar[1])
        assert report.latent[0, 0, 0, 0].item() == pytest.approx(below, rel=1e-12)
        p, _ = coefficients(self.GRID.upward()[1])
        assert report.residual[0, 1].item() == pytest.approx(abs(p * below - 4 * below - below), rel=1e-12)
        # step 1: 30; step 2: 3 until it is damped; halfway on, residuals grow by 1.5 twice at once: 2 more
        assert report.evaluations.tolist() == [35]

    def test_rounding_is_no_growth(self):
        report = invert_with_report(waves(), normal(SHAPE, 1), GRID, named("fixed-point", num_evaluations=60))
        assert not report.fallback.any()


class TestExactDPM:
    def test_a_lower_tolerance_lowers_the_residual_it_reports(self):
        model, noise = waves(), normal(SHAPE, 0)
        image = generate(model, noise, GRID)
        for tolerance in (1e-3, 5e-4, 2.5e-4):
            method = named("exact-dpm-1", tolerance=tolerance)
            report = invert_with_report(model, image, GRID, method)
            P = np.array([coefficients(move)[0] for move in GRID.upward()])
            assert (report.residual.numpy() <= tolerance * P * (1 + 1e-9)).all()
            # the residual it knows is the one a measurement finds
            up = {}
            invert(model, image, GRID, method, on_step=lambda r: up.update({r.step: r}))  # noqa: B023
            last = up[10]
            p, q = coefficients(GRID.upward()[9])
            r = p * last.x_from + q * model.eps(last.x_to, 900, {}) - last.x_to
            rms = r.square().mean((1, 2, 3)).sqrt()
            assert_close(rms, report.residual[:, 9], rtol=1e-6, atol=1e-12)

    def test_an_image_that_never_gets_there_says_so(self):
        report = invert_with_report(
            waves(), normal(SHAPE, 1), GRID, named("exact-dpm-1", tolerance=0.0, max_iterations=5)
        )
        assert (report.fallback == Fallback.BEST_ITERATE).all()
        assert report.evaluations.tolist() == [60, 60, 60]  # ten steps of a guess and five checks

    def test_order_two_inverts_its_own_sampler(self):
        # relative error of the latent of one mode of variance 1; the second-order term is frozen at a coarse guess, so
        # it is not 0, and an eighth of what solving DDIM's steps gives
        method, model = named("exact-dpm-2", tolerance=1e-5), gaussian(1.0)
        grid = TimestepGrid.build(LINEAR, 25, final_alpha_bar="first")
        one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
        image = reconstruct(model, one, grid, method)
        assert invert(model, image, grid, method).item() - 1 == pytest.approx(0.0198, abs=2e-4)
        by_ddim = named("exact-dpm-1", tolerance=1e-5)
        assert invert(model, image, grid, by_ddim).item() - 1 == pytest.approx(0.1510, abs=2e-4)

    def test_its_sampler_is_of_second_order(self):
        # one mode of variance 1: every exact path has gain 1. Errors .0176, .0042 at T = 50, 100; DDIM .036, .018
        def error(sample, T):
            grid = TimestepGrid.build(LINEAR, T, final_alpha_bar="first")
            return abs(sample(gaussian(1.0), torch.ones(1, 1, 1, 1, dtype=torch.float64), grid).item() - 1)

        def own(model, noise, grid):
            return reconstruct(model, noise, grid, "exact-dpm-2")

        assert error(own, 50) / error(own, 100) == pytest.approx(4.2, abs=0.1)
        assert error(generate, 50) / error(generate, 100) == pytest.approx(1.98, abs=0.02)


class TestReverseDPM:
    def test_order_one_on_the_samplers_grid_is_ddim_at_source_times(self):
        model, image = waves(), normal(SHAPE, 1)
        first = invert(model, image, FIFTY, named("reverse-dpm", order=1, grid="sampler"))
        assert (first - invert(model, image, FIFTY, "ddim-source")).abs().max() < 1e-12

    @pytest.mark.parametrize(
        "grid, ends",
        [("linspace", [0, 20, 40, 939, 959, 999]), ("leading", [1, 20, 39, 894, 913, 999])],
    )
    def test_its_own_timesteps(self, grid, ends):
        # linspace: 0, 19.98, ... 979.02 rounded, then 999 in place of the last but one's neighbour;
        # leading, offset 1: stride floor(1000 / 51) = 19, and the last jump to 999
        from taba_core.diffusion.inversion.methods.reverse_dpm import own_timesteps

        found = own_timesteps(TimestepGrid.build(LINEAR, 50, steps_offset=1), grid)
        assert len(found) == 51
        if grid == "linspace":
            assert found[[0, 1, 2, 47, 48, 50]].tolist() == ends
        else:
            assert found[[0, 1, 2, 47, 48, 50]].tolist() == ends


def test_noise_initialisation_keeps_what_iteration_cannot_solve():
    # a network that predicts sigma_1^-1 z (plain area, variance 0): g(z) = z in step 1, every start is a solution
    class Plain(Analytic):
        def eps(self, x_t, t, cond):
            return x_t / math.sqrt(1 - LINEAR.alpha_bar[int(t)])

    flat, z = torch.zeros(1, 1, 4, 4, dtype=torch.float64), normal((1, 1, 4, 4), 9)
    latent = invert(Plain(None), flat, FIFTY, "noise-initialised", forward_noise=z)
    first = []
    invert(Plain(None), flat, FIFTY, "noise-initialised", forward_noise=z, on_step=first.append)
    assert_close(first[0].x_to, math.sqrt(1 - FIFTY.alpha_bar[1]) * z, rtol=1e-12, atol=0)
    assert 0.5 < latent.std() / z.std() <= 1.01
    assert invert(Plain(None), flat, FIFTY, "fixed-point").abs().max() == 0  # flat stays flat
