"""The losses: worked numbers, and the terms of the learned variance against torch's own distributions."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from taba_core.diffusion.schedule import NoiseSchedule
from taba_core.training.objectives import Process


def setting(schedule: NoiseSchedule, timesteps: list[int]):
    process = Process(schedule)
    generator = torch.Generator().manual_seed(1)
    shape = (len(timesteps), 3, 4, 4)
    x_0 = torch.rand(shape, generator=generator) * 2 - 1
    eps = torch.randn(shape, generator=generator)
    t = torch.tensor(timesteps)
    return process, x_0, eps, t, process.noised(x_0, eps, t)


def test_perfect_predictions_cost_nothing():
    schedule = NoiseSchedule.linear()
    process, x_0, eps, t, x_t = setting(schedule, [0, 10, 999])
    signal = torch.tensor(schedule.alpha_bar[t.numpy()]).sqrt().float()[:, None, None, None]
    v = signal * eps - (1 - signal**2).sqrt() * x_0
    assert process.loss("epsilon", eps, x_0, eps, x_t, t).max() == 0.0
    assert process.loss("v", v, x_0, eps, x_t, t).max() < 1e-9


def test_predicting_zero_costs_the_variance():
    process, x_0, eps, t, x_t = setting(NoiseSchedule.linear(), [500])
    zero = torch.zeros_like(eps)
    assert process.loss("epsilon", zero, x_0, eps, x_t, t)[0] == pytest.approx(float(eps.square().mean()))


@pytest.mark.parametrize("t", [1, 100, 3999])
def test_the_bound_is_the_divergence_of_the_two_gaussians(t):
    schedule = NoiseSchedule.cosine(4000)
    process, x_0, eps, when, x_t = setting(schedule, [t])
    eps_hat, share = 0.9 * eps, 0.3
    output = torch.cat([eps_hat, torch.full_like(eps, 2 * share - 1)], dim=1)
    found = process.loss("hybrid", output, x_0, eps, x_t, when)[0] - (eps_hat - eps).square().mean()

    a, before = schedule.alpha_bar[t], schedule.alpha_bar[t - 1]
    beta = 1 - a / before
    tilde = beta * (1 - before) / (1 - a)

    def posterior_mean(x_start):
        start = beta * math.sqrt(before) / (1 - a) * x_start.double()
        return start + (1 - before) * math.sqrt(1 - beta) / (1 - a) * x_t.double()

    x_0_hat = (x_t.double() - math.sqrt(1 - a) * eps_hat.double()) / math.sqrt(a)
    model_std = math.exp(0.5 * (share * math.log(beta) + (1 - share) * math.log(tilde)))
    divergence = kl_divergence(
        Normal(posterior_mean(x_0), math.sqrt(tilde)), Normal(posterior_mean(x_0_hat), model_std)
    )
    assert float(found) == pytest.approx(4.0 * float(divergence.mean()) / math.log(2), rel=2e-3)


def test_at_the_first_timestep_the_bound_is_the_likelihood_of_8_bit_values():
    process, x_0, eps, t, x_t = setting(NoiseSchedule.cosine(4000), [0])
    output = torch.cat([eps, torch.zeros_like(eps)], dim=1)  # the mean is x_0 itself
    # Half a bin is 1/255; the variance lies half-way, on a logarithmic scale, between beta_0 = 9.866e-6 and the
    # clipped 5.008e-6: a standard deviation of 2.651e-3, and 0.2161 bits; N / 1000 = 4 times that.
    inside = Normal(0.0, math.sqrt(math.sqrt(9.865819e-6 * 5.007683e-6)))
    bits = -torch.log2(2 * inside.cdf(torch.tensor(1.0 / 255)) - 1)
    assert float(process.loss("hybrid", output, x_0, eps, x_t, t)[0]) == pytest.approx(
        4 * float(bits), rel=5e-3
    )


def test_the_bound_moves_the_variance_and_leaves_the_mean_alone():
    process, x_0, eps, t, x_t = setting(NoiseSchedule.cosine(4000), [5, 700])
    mean = (0.5 * eps).requires_grad_()
    variance = torch.zeros_like(eps).requires_grad_()
    output = torch.cat([mean, variance], dim=1)
    process.loss("hybrid", output, x_0, eps, x_t, t).sum().backward()
    hybrid = mean.grad.clone()
    mean.grad = None
    process.loss("epsilon", torch.cat([mean, variance.detach()], dim=1), x_0, eps, x_t, t).sum().backward()
    assert torch.equal(hybrid, mean.grad)
    assert variance.grad.abs().min() > 0


def test_timesteps_of_the_low_share_lie_in_the_cleanest_tenth():
    process = Process(NoiseSchedule.linear())
    u = torch.tensor([[0.1, 0.999], [0.1, 0.0], [0.5, 0.999], [0.5, 0.2]], dtype=torch.float64)
    assert process.timesteps(u, 0.2).tolist() == [99, 0, 999, 200]
    assert process.timesteps(u, 0.0).tolist() == [999, 0, 999, 200]
    # With the power 2: 0.5^2 of 100 is 25, and the other rows stay as they are.
    u = torch.tensor([[0.1, 0.5], [0.1, 0.05], [0.5, 0.5]], dtype=torch.float64)
    assert process.timesteps(u, 0.2, 2.0).tolist() == [25, 0, 500]
