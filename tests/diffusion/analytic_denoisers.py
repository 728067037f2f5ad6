"""Denoisers with known answers, for tests."""

import math

import numpy as np
import torch

from taba_core.diffusion import NoiseSchedule

LINEAR = NoiseSchedule.linear()


class Analytic:
    """eps(x, t) = f(x, t)."""

    def __init__(self, f, schedule=LINEAR, sample_shape=(3, 4, 4)):
        self.f, self.schedule, self.sample_shape, self.value_range = f, schedule, sample_shape, (-1.0, 1.0)

    def eps(self, x_t, t, cond):
        return self.f(x_t, t)


def constant(c):
    """Predicts the same noise c everywhere."""
    return Analytic(lambda x, t: torch.full_like(x, c))


def waves(schedule=LINEAR):
    """The analytic eps of the golden scheduler runs (tests/data): smooth, non-linear, dependent on t."""

    def f(x, t):
        w = 0.2 + 0.72 * t / 1000
        return w * x + 0.3 * (1 - w) * torch.sin(2 * x + t / 250)

    return Analytic(f, schedule)


def gaussian(variance, schedule=LINEAR):
    """Optimal denoiser of N(0, variance): eps = sqrt(1 - a) / (a variance + 1 - a) x."""

    def f(x, t):
        a = float(schedule.alpha_bar[round(t / schedule.timestep_scale)])
        return math.sqrt(1 - a) / (a * variance + 1 - a) * x

    return Analytic(f, schedule)


def normal(shape, seed, dtype=torch.float64):
    """Standard normal test data from a fixed seed."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)
