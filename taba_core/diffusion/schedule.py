"""Noise schedules: the table of alpha_bar over training timesteps, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taba_core.errors import UsageError, unknown_name


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """Cumulative signal power alpha_bar_t = prod_{s <= t} (1 - beta_s) of the training process.

    Attributes:
      alpha_bar: (N,), float64, strictly falling, in (0, 1); index = training timestep 0..N-1.
      timestep_scale: the network is given timestep * timestep_scale (1 for most models; 1000 / 4000 for the
        ADM models trained on 4000 steps with rescaled timesteps).

    Raises:
      UsageError: alpha_bar is no falling table in (0, 1), or timestep_scale is not positive.
    """

    alpha_bar: NDArray[np.float64]
    timestep_scale: float = 1.0

    def __post_init__(self) -> None:
        table = np.array(self.alpha_bar, dtype=np.float64)
        if (
            table.ndim != 1
            or not len(table)
            or not (table[-1] > 0 and table[0] < 1 and np.all(np.diff(table) < 0))
        ):
            raise UsageError(
                f"alpha_bar of shape {table.shape} is no noise schedule: it must be one-dimensional, "
                "strictly falling, and lie in (0, 1). Check the betas; each must lie in (0, 1)."
            )
        if not self.timestep_scale > 0:
            raise UsageError(
                f"timestep_scale={self.timestep_scale} must be positive; use 1 unless timesteps are rescaled."
            )
        table.setflags(write=False)
        object.__setattr__(self, "alpha_bar", table)

    @property
    def num_train_timesteps(self) -> int:
        """N."""
        return len(self.alpha_bar)

    @classmethod
    def from_betas(cls, betas: ArrayLike, *, timestep_scale: float = 1.0) -> NoiseSchedule:
        """Schedule of the given betas, (N,), each in (0, 1)."""
        alpha_bar: NDArray[np.float64] = np.cumprod(
            1.0 - np.asarray(betas, dtype=np.float64), dtype=np.float64
        )
        return cls(alpha_bar, timestep_scale)

    @classmethod
    def linear(
        cls, N: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02, *, timestep_scale: float = 1.0
    ) -> NoiseSchedule:
        """beta_t linear in t (Ho et al. 2020, Sec. 4; DiT, ADM-256)."""
        return cls.from_betas(np.linspace(beta_start, beta_end, N), timestep_scale=timestep_scale)

    @classmethod
    def scaled_linear(
        cls,
        N: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        *,
        timestep_scale: float = 1.0,
    ) -> NoiseSchedule:
        """sqrt(beta_t) linear in t (Rombach et al. 2022; the default values are Stable Diffusion's)."""
        roots = np.linspace(math.sqrt(beta_start), math.sqrt(beta_end), N)
        return cls.from_betas(roots**2, timestep_scale=timestep_scale)

    @classmethod
    def cosine(cls, N: int = 1000, max_beta: float = 0.999, *, timestep_scale: float = 1.0) -> NoiseSchedule:
        """beta_t = min(1 - f((t+1)/N) / f(t/N), max_beta), f(u) = cos^2(pi/2 (u + .008) / 1.008).

        Nichol & Dhariwal 2021, Eq. 17; ADM-32/64 (N = 4000) and DeepFloyd IF ("squaredcos_cap_v2").
        """
        f = np.cos((np.arange(N + 1) / N + 0.008) / 1.008 * (math.pi / 2)) ** 2
        return cls.from_betas(np.minimum(1.0 - f[1:] / f[:-1], max_beta), timestep_scale=timestep_scale)

    @classmethod
    def named(cls, kind: str, **fields: Any) -> NoiseSchedule:
        """Schedule of a model card: kind is linear, scaled-linear or cosine; fields as of that constructor.

        Raises:
          UsageError: no such kind, or a field the kind does not have.
        """
        kinds: dict[str, Callable[..., NoiseSchedule]] = {
            "linear": cls.linear,
            "scaled-linear": cls.scaled_linear,
            "cosine": cls.cosine,
        }
        if kind not in kinds:
            raise unknown_name("noise schedule", kind, kinds)
        try:
            return kinds[kind](**fields)
        except TypeError as error:
            raise UsageError(f"noise schedule '{kind}': {error}.") from error
