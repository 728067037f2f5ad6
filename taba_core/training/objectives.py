"""What a denoiser is trained to predict: the noise, v, a flow's velocity, or the noise with a learned variance."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from taba_core.diffusion.schedule import NoiseSchedule

# Axes: B samples, C channels, H rows, W columns.

ObjectiveName = Literal["epsilon", "v", "velocity", "hybrid"]
LOW_LEVELS = 0.1  # of the timesteps: the cleanest tenth, which the first inversion steps read


class Process(nn.Module):
    """The noising process of a schedule as tables on the training's device, and the losses on it.

    Args:
      schedule: of the training.
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.num_timesteps = schedule.num_train_timesteps
        self.timestep_scale = schedule.timestep_scale
        for name, table in _tables(schedule).items():
            self.register_buffer(name, torch.tensor(table, dtype=torch.float32), persistent=False)

    def timesteps(self, u: Tensor, low_share: float, low_power: float = 1.0) -> Tensor:
        """Training timesteps of uniform numbers u (B, 2), int64 (B,).

        A share `low_share` of the rows is drawn from the cleanest tenth, as u^low_power of its width: 1 is uniform,
        more draws the cleanest more often. The other rows are uniform over all timesteps.
        """
        low = u[:, 0] < low_share
        most = torch.where(low, LOW_LEVELS * self.num_timesteps, float(self.num_timesteps))
        share = torch.where(low, u[:, 1] ** low_power, u[:, 1])
        return (share * most).long().clamp_(max=self.num_timesteps - 1)

    def noised(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha_t x_0 + sigma_t eps, (B, C, H, W); of a VP process sqrt(a_t) x_0 + sqrt(1 - a_t) eps."""
        return self._at("signal", t) * x_0 + self._at("noise", t) * eps

    def loss(
        self, name: ObjectiveName, output: Tensor, x_0: Tensor, eps: Tensor, x_t: Tensor, t: Tensor
    ) -> Tensor:
        """The loss of each sample, float32 (B,).

        - epsilon: mean over C, H, W of (output - eps)^2 (Ho et al. 2020, Eq. 14).
        - v: of (output - v)^2 with v = sqrt(a) eps - sqrt(1 - a) x_0 (Salimans & Ho 2022, App. D).
        - velocity: of (output - (eps - x_0))^2 (Lipman et al. 2023; Liu et al. 2023).
        - hybrid: of epsilon, plus N / 1000 times the bound of the learned variance (Nichol & Dhariwal 2021, Eq. 16, as
          improved-diffusion scales it).
        """
        channels = x_0.shape[1]
        if name == "velocity":
            return (output[:, :channels] - (eps - x_0)).square().mean((1, 2, 3))
        if name == "v":
            target = self._at("signal", t) * eps - self._at("noise", t) * x_0
            return (output[:, :channels] - target).square().mean((1, 2, 3))
        simple = (output[:, :channels] - eps).square().mean((1, 2, 3))
        if name == "epsilon":
            return simple
        bound = self._bound(output[:, :channels].detach(), output[:, channels:], x_0, x_t, t)
        return simple + self.num_timesteps / 1000.0 * bound

    def _bound(self, eps_hat: Tensor, variance: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The term of the variational bound at t in bits per dimension, (B,); the mean takes no gradient.

        KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) for t > 0, and -log p(x_0 | x_1) of 8-bit values for t = 0.
        """
        x_0_hat = (x_t - self._at("noise", t) * eps_hat) / self._at("signal", t)
        true_mean = self._at("mean_of_x_0", t) * x_0 + self._at("mean_of_x_t", t) * x_t
        mean = self._at("mean_of_x_0", t) * x_0_hat + self._at("mean_of_x_t", t) * x_t
        true_log = self._at("log_beta_tilde", t)
        share = (variance + 1.0) / 2.0
        log_variance = share * self._at("log_beta", t) + (1.0 - share) * true_log
        gap = (true_mean - mean).square()
        divergence = 0.5 * (
            log_variance
            - true_log
            - 1.0
            + torch.exp(true_log - log_variance)
            + gap * torch.exp(-log_variance)
        )
        likelihood = -_discretised_log_likelihood(x_0, mean, 0.5 * log_variance)
        term = torch.where((t == 0)[:, None, None, None], likelihood, divergence)
        return term.mean((1, 2, 3)) / math.log(2.0)

    def _at(self, table: str, t: Tensor) -> Tensor:
        return getattr(self, table)[t][:, None, None, None]


def _tables(schedule: NoiseSchedule) -> dict[str, NDArray[np.float64]]:
    ends = {"signal": np.sqrt(schedule.signal_power), "noise": np.sqrt(schedule.noise_power)}
    return ends if schedule.signal_power[-1] == 0 else ends | _posterior(schedule.alpha_bar)


def _posterior(alpha_bar: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """What the bound of a learned variance reads, of a VP process that ends above alpha = 0."""
    previous = np.concatenate([[1.0], alpha_bar[:-1]])
    beta = 1.0 - alpha_bar / previous
    beta_tilde = beta * (1.0 - previous) / (1.0 - alpha_bar)
    # beta_tilde_0 is 0: its logarithm is replaced by the next one's, as in the original.
    clipped = np.concatenate([beta_tilde[1:2], beta_tilde[1:]]) if len(beta_tilde) > 1 else beta
    return {
        "mean_of_x_0": beta * np.sqrt(previous) / (1.0 - alpha_bar),
        "mean_of_x_t": (1.0 - previous) * np.sqrt(1.0 - beta) / (1.0 - alpha_bar),
        "log_beta": np.log(beta),
        "log_beta_tilde": np.log(clipped),
    }


def _discretised_log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log probability of x in [-1, 1] under a Gaussian rounded to 256 values, the tails in the two outer bins."""
    centred, inverse = x - mean, torch.exp(-log_std)
    upper = _normal_cdf(inverse * (centred + 1.0 / 255.0))
    lower = _normal_cdf(inverse * (centred - 1.0 / 255.0))
    inner = (upper - lower).clamp(min=1e-12).log()
    below = upper.clamp(min=1e-12).log()
    above = (1.0 - lower).clamp(min=1e-12).log()
    return torch.where(x < -0.999, below, torch.where(x > 0.999, above, inner))


def _normal_cdf(x: Tensor) -> Tensor:
    """The original's approximation of the standard normal distribution function."""
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
