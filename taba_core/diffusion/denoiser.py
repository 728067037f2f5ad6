"""What a diffusion model is to the rest of taba: a function that predicts noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor

from taba_core.diffusion.schedule import NoiseSchedule

# Axes: B samples in a batch, C channels, H rows, W columns.


@runtime_checkable
class Denoiser(Protocol):
    """A noise prediction eps(x_t, t, c), with what is needed to use it.

    The three properties may be plain attributes.
    """

    @property
    def schedule(self) -> NoiseSchedule:
        """The training noise schedule."""
        ...

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one state."""
        ...

    @property
    def value_range(self) -> tuple[float, float]:
        """Smallest and largest value of a clean sample."""
        ...

    def eps(self, x_t: Tensor, t: float, cond: Mapping[str, Tensor]) -> Tensor:
        """Predict the noise in x_t.

        Args:
          x_t: states, (B, C, H, W), dimensionless.
          t: the network's time, the training timestep times the schedule's timestep_scale.
          cond: batch-first conditioning; {} if unconditional.

        Returns:
          eps_t, (B, C, H, W), standard deviations of the noise. Row i depends on row i of the inputs only.
        """
        ...


class WrappedDenoiser:
    """A denoiser around another, whose schedule, shape and value range are its own; subclasses say what `eps` does."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser

    @property
    def schedule(self) -> NoiseSchedule:
        """The wrapped denoiser's schedule."""
        return self.denoiser.schedule

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """The wrapped denoiser's (C, H, W)."""
        return self.denoiser.sample_shape

    @property
    def value_range(self) -> tuple[float, float]:
        """The wrapped denoiser's value range."""
        return self.denoiser.value_range


class CountedDenoiser(WrappedDenoiser):
    """A denoiser that counts its evaluations: `num_evaluations` of single images, `num_calls` of batches."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser)
        self.num_evaluations = 0
        self.num_calls = 0

    def eps(self, x_t: Tensor, t: float, cond: Mapping[str, Tensor]) -> Tensor:
        """Count x_t's images and pass the call on."""
        self.num_calls += 1
        self.num_evaluations += x_t.shape[0]
        return self.denoiser.eps(x_t, t, cond)
