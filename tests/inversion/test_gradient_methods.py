"""Methods that differentiate through the network: GNRI and hybrid gradient descent."""

import math

import numpy as np
import pytest
import torch
from analytic_denoisers import LINEAR, Analytic, gaussian, normal, waves
from torch.testing import assert_close

from taba_core.diffusion import (
    DDIMInversion,
    NoiseSchedule,
    TimestepGrid,
    generate,
    inversion_method_named,
    invert,
)
from taba_core.diffusion.descent import descend
from taba_core.diffusion.inversion import invert_with_report, per_image_rms
from taba_core.diffusion.inversion.methods.hybrid import HybridGradient
from taba_core.diffusion.inversion.methods.newton import GuidedNewton
from taba_core.diffusion.inversion.methods.spdinv import SPDInv

SCALED = NoiseSchedule.from_betas(np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
SDXL = TimestepGrid.build(SCALED, 50, steps_offset=1, final_alpha_bar="first")
FIFTY = TimestepGrid.build(LINEAR, 50)
TEN = TimestepGrid.build(LINEAR, 10)
ONE = TimestepGrid.build(LINEAR, 1, steps_offset=500)  # one large step, alpha_bar 1 to 0.08
SHAPE = (3, 3, 4, 4)


def mlp(seed=0, gain=0.9, schedule=SCALED):
    """A smooth random network of two layers over all 48 numbers of an image, Lipschitz constant `gain`."""
    generator = np.random.default_rng(seed)
    first, second = (torch.from_numpy(generator.standard_normal((48, 48))) for _ in range(2))
    first, second = (w / torch.linalg.matrix_norm(w, 2) for w in (first, second))

    def f(x, t):
        hidden = torch.tanh(x.flatten(1) @ first.to(x.dtype).T + t / 1000)
        return gain * (hidden @ second.to(x.dtype).T).view(x.shape)

    return Analytic(f, schedule)


def image_of(model, grid, seed=6):
    return generate(model, normal(SHAPE, seed), grid)


class TestDescent:
    def test_each_image_ends_by_itself_and_is_what_it_is_alone(self):
        start, goal = normal((3, 5), 0), torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
        seen = []

        def loss(values, rows):
            seen.append(rows.tolist())
            return (values - goal[rows]).square().mean(1)

        options = dict(learning_rate=0.3, num_steps=200, enough=1e-2)
        together = descend(start, loss, **options)
        assert len(seen[0]) == 3 > len(seen[-1])
        assert (together.loss <= 1e-2).all()
        for i in range(3):
            alone = descend(start[i : i + 1], lambda v, rows, i=i: (v - goal[i]).square().mean(1), **options)
            assert torch.equal(alone.last[0], together.last[i])
            assert torch.equal(alone.best[0], together.best[i])

    def test_the_first_update_has_the_length_of_the_rate(self):
        # Adam's first step is rate * g / (|g| + eps), whatever the gradient: from (3, -0.001) to (2.9, 0.099).
        start = torch.tensor([[3.0, -0.001]], dtype=torch.float64)
        found = descend(start, lambda v, rows: v.square().sum(1), learning_rate=0.1, num_steps=1, enough=0.0)
        assert_close(found.last, torch.tensor([[2.9, 0.099]], dtype=torch.float64), rtol=0, atol=1e-5)
        assert torch.equal(found.best, start)


class TestGNRI:
    @pytest.mark.parametrize("gradient", ["released", "network"])
    def test_one_iteration_is_ddim_bit_for_bit(self, gradient):
        x = image_of(waves(), TEN).float()
        method = GuidedNewton(num_iterations=1, gradient=gradient)
        assert torch.equal(invert(waves(), x, TEN, method), invert(waves(), x, TEN))

    @pytest.mark.parametrize("gradient", ["released", "network"])
    def test_iterations_lower_the_residual(self, gradient):
        # Two need not: what falls is |g(z) - z| at the kept z (next test), and the answer is g(z).
        model = mlp()
        image = image_of(model, SDXL)

        def residual(iterations):
            method = GuidedNewton(num_iterations=iterations, alpha=0.0, gradient=gradient)
            report = invert_with_report(model, image, SDXL, method, measure_residual=True)
            return report.residual.mean().item()

        assert residual(5) < residual(1) / 2

    @pytest.mark.parametrize("alpha", [0.0, 0.1, 10.0])
    def test_the_released_step_is_the_published_one(self, alpha):
        # One transition by hand: z + (F / D) sign(g(z) - z) with D = 48, then the better of g(z^0), g(z^1).
        model, grid = mlp(schedule=LINEAR), ONE
        x, t, a = 0.5 * normal(SHAPE, 2), float(grid.network_times[0]), float(grid.upper_alpha_bar[0])

        def g(z):
            return a**0.5 * x + (1 - a) ** 0.5 * model.eps(z, t, {})

        def objective(z):
            prior = alpha / 2 * ((g(z) - a**0.5 * x) / (1 - a) ** 0.5).square()
            return ((g(z) - z).abs() + prior).flatten(1).mean(1)

        z_1 = x + objective(x).view(-1, 1, 1, 1) * (g(x) - x).sign()
        better = (objective(z_1) < objective(x)).view(-1, 1, 1, 1)
        assert better.all() or alpha > 0
        expected = torch.where(better, g(z_1), g(x))
        latent = invert(model, x, grid, GuidedNewton(num_iterations=2, alpha=alpha))
        assert_close(latent, expected, rtol=0, atol=1e-13)

    def test_the_described_step_uses_the_derivative_of_the_network(self):
        # eps = c x: dF/dz = sign(g - z) (Q c - 1) at alpha = 0, here on one number, so F / D = |g - z| and the Newton
        # step is exact: z* = P x / (1 - Q c).
        a, c = float(ONE.upper_alpha_bar[0]), 0.4
        exact = a**0.5 * 0.7 / (1 - (1 - a) ** 0.5 * c)
        model = Analytic(lambda x, t: c * x, LINEAR, (1, 1, 1))
        x = torch.full((1, 1, 1, 1), 0.7, dtype=torch.float64)
        method = GuidedNewton(num_iterations=2, alpha=0.0, gradient="network")
        assert invert(model, x, ONE, method).item() == pytest.approx(exact, rel=1e-14)
        # Without the derivative the step is from x to g(x), and the answer g(g(x)): still (Q c)^2 off.
        released = invert(model, x, ONE, GuidedNewton(num_iterations=2, alpha=0.0)).item()
        off = ((1 - a) ** 0.5 * c) ** 2
        assert released - exact == pytest.approx(off * (0.7 - exact), rel=1e-12)

    def test_a_vanishing_derivative_does_not_throw_a_coordinate_away(self):
        # Q c = 1 - 1e-9: the derivative is -1e-9, so the bare step would be 1e9 times the residual.
        c = (1 - 1e-9) / (1 - float(ONE.upper_alpha_bar[0])) ** 0.5
        x = 0.1 * normal(SHAPE, 3)

        def size(floor):
            options = dict(num_iterations=2, gradient="network", alpha=0.0, gradient_floor=floor)
            states = []
            invert(Analytic(lambda x, t: states.append(x) or c * x, LINEAR), x, ONE, GuidedNewton(**options))
            return states[1].abs().max().item()

        assert size(0.3) < 10
        assert size(1e-12) > 1e6


class TestHybridGradient:
    def test_descent_solves_the_first_step_where_iteration_does_not(self):
        # lam = 1e-6 from a clean level 0: the contraction factor of step 1 is 1 / (1 + a_1 lam / sigma_1^2) = 0.99
        # (sigma_1 = .01), so 20 iterations leave 0.99^20 = 82 % of the way.
        model, down = gaussian(1e-6), {}
        image = generate(model, normal(SHAPE, 6), FIFTY, on_step=lambda r: down.update({r.step: r.x_from}))
        error = {}
        for method in (
            HybridGradient(tolerance=1e-7),  # 1e-4 is what a plain image's residual is to begin with
            inversion_method_named("fixed-point", num_evaluations=20),
            DDIMInversion(),
        ):
            up = {}
            invert(model, image, FIFTY, method, on_step=lambda r, up=up: up.update({r.step: r.x_to}))
            error[method.name] = per_image_rms(up[1] - down[1])
        assert_close(
            error["fixed-point"] / error["ddim"], torch.full((3,), 0.82), rtol=0.03, atol=0, check_dtype=False
        )
        assert (error["hybrid-gradient"] < 0.1 * error["ddim"]).all()

    def test_the_residual_of_the_first_step_is_the_measured_one(self):
        model, image = waves(SCALED), image_of(waves(SCALED), SDXL)
        method = HybridGradient(num_gradient_steps=5)
        known = invert_with_report(model, image, SDXL, method).residual[:, 0]
        states = {}
        invert(model, image, SDXL, method, on_step=lambda r: states.update({r.step: r.x_to}))
        move = SDXL.upward()[0]
        p = (move.stop.alpha_bar / move.start.alpha_bar) ** 0.5
        q = (1 - move.stop.alpha_bar) ** 0.5 - p * (1 - move.start.alpha_bar) ** 0.5
        equation = p * image + q * model.eps(states[1], move.network_time, {}) - states[1]
        assert_close(known, per_image_rms(equation), rtol=1e-9, atol=0)

    def test_started_from_noise_and_stopped_early_it_keeps_the_noise(self):
        model, image, noise = gaussian(1e-4), image_of(gaussian(1e-4), FIFTY), normal(SHAPE, 9)
        method = HybridGradient(start_from="noise", num_gradient_steps=1, num_evaluations=2)
        states = {}
        invert(
            model,
            image,
            FIFTY,
            method,
            forward_noise=noise,
            on_step=lambda r: states.update({r.step: r.x_to}),
        )
        a = float(FIFTY.alpha_bar[1])
        # `best` after one evaluation is the start itself
        assert_close(states[1], a**0.5 * image + (1 - a) ** 0.5 * noise, rtol=0, atol=1e-14)


class TestSPDInv:
    def test_one_update_by_hand(self):
        # eps = c x on one number: g(z) - z = P x - (1 - Q c) z, and the first of two Adam updates moves z by the rate
        # towards the root. The smaller residual is that of the second z.
        a, c, rate = float(ONE.upper_alpha_bar[0]), 0.4, 0.01
        p, q = a**0.5, (1 - a) ** 0.5
        model, x = Analytic(lambda x, t: c * x, LINEAR, (1, 1, 1)), 0.7
        start, root = (p + q * c) * x, p * x / (1 - q * c)
        image = torch.full((1, 1, 1, 1), x, dtype=torch.float64)
        method = SPDInv(num_gradient_steps=2, learning_rate=rate, tolerance=0.0)
        report = invert_with_report(model, image, ONE, method)
        moved = start + math.copysign(rate, root - start)
        assert report.latent.item() == pytest.approx(moved, abs=1e-7)
        assert report.residual.item() == pytest.approx((1 - q * c) * abs(root - moved), abs=1e-7)
        assert report.evaluations.tolist() == [3]

    def test_it_descends_where_the_iteration_oscillates(self):
        # eps = -4 x: the iteration's factor is -4 Q = -3.8, so that it runs away; the descent comes near the root.
        model = Analytic(lambda x, t: -4 * x, LINEAR)
        x = 0.1 * normal(SHAPE, 2)
        a = float(ONE.upper_alpha_bar[0])
        root = a**0.5 * x / (1 + 4 * (1 - a) ** 0.5)
        method = SPDInv(num_gradient_steps=300, learning_rate=0.01, tolerance=1e-10)
        assert (invert(model, x, ONE, method) - root).abs().max() < 1e-4
        plain = invert(model, x, ONE, inversion_method_named("fixed-point", num_evaluations=5))
        assert (plain - root).abs().max() > 1e-2

    def test_an_image_that_is_solved_costs_two_evaluations_a_step(self):
        image = image_of(waves(SCALED), SDXL)
        report = invert_with_report(waves(SCALED), image, SDXL, SPDInv(tolerance=1e9))
        assert report.evaluations.tolist() == [100, 100, 100]
        assert torch.equal(report.latent, invert(waves(SCALED), image, SDXL))
