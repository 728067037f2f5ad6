"""Denoisers with known answers, for tests."""

import math

import numpy as np
import torch

from taba_core.diffusion import NoiseSchedule
from taba_core.diffusion.ends import Ends, Held

LINEAR = NoiseSchedule.linear()
ZERO = LINEAR.zero_terminal_snr()


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


class Ended(Analytic):
    """A network that gives both ends: its output f(x, t) is read as v or as a velocity, at the state's level."""

    held = Held.VELOCITY

    def __init__(self, f, schedule, output="velocity", sample_shape=(3, 4, 4)):
        super().__init__(f, schedule, sample_shape)
        self.output = output

    def eps(self, x_t, t, cond):
        return self.predict(x_t, self.schedule.level_at(t), cond).eps

    def predict(self, x, level, cond):
        f = self.f(x, level.time)
        if self.output == "velocity":
            return Held.VELOCITY.ends(f, x, level)
        assert self.output == "v"
        return Ends(x, level, level.sigma * x + level.alpha * f, level.alpha * x - level.sigma * f)


def gaussian_ends(variance, schedule, output):
    """Optimal denoiser of N(0, variance) on any path: x_0 = alpha variance / V x, eps = sigma / V x."""

    def f(x, t):
        level = schedule.level_at(t)
        power = level.signal_power * variance + level.noise_power
        x_0, eps = level.alpha * variance / power, level.sigma / power
        return (eps - x_0 if output == "velocity" else level.alpha * eps - level.sigma * x_0) * x

    return Ended(f, schedule, output)


def flow_twin(schedule):
    """The straight flow with the same ratio of signal to noise at every timestep: s = sigma / (alpha + sigma)."""
    alpha, sigma = np.sqrt(schedule.signal_power), np.sqrt(schedule.noise_power)
    s = sigma / (alpha + sigma)
    return NoiseSchedule((1 - s) ** 2, s**2, schedule.timestep_scale)


def normal(shape, seed, dtype=torch.float64):
    """Standard normal test data from a fixed seed."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)
