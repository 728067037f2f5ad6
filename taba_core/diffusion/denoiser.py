"""What a diffusion model is to the rest of taba: a function that predicts the two ends of the line a state lies on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from taba_core.diffusion.ends import Ends, Held
from taba_core.diffusion.level import Level
from taba_core.diffusion.schedule import NoiseSchedule

if TYPE_CHECKING:
    from torch import Tensor

# Axes: B samples in a batch, C channels, H rows, W columns.


@runtime_checkable
class Denoiser(Protocol):
    """A noise prediction eps(x_t, t, c), with what is needed to use it.

    The three properties may be plain attributes. A denoiser that gives both ends of the line (a network that predicts
    v, x_0 or a velocity) also has

    - `predict(x, level, cond) -> Ends`: the ends of states x of the given alpha and sigma, asked at `level.time`;
    - `held`: the quantity that moves carry between levels, `Held.VELOCITY`.

    Without them `eps` is all there is: noise is held, and x_0 follows from it, which needs alpha > 0. Use
    `predict_ends` and `held_by` of this module, which know both kinds. A conditional denoiser that can be guided has
    `null_condition(batch)`, see `taba_core.diffusion.guidance`.
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


def predict_ends(denoiser: Denoiser, x: Tensor, level: Level, cond: Mapping[str, Tensor]) -> Ends:
    """The two ends of the line each state lies on, as the denoiser predicts them: `x_0, eps = predict_ends(...)`.

    Args:
      x: states, (B, C, H, W).
      level: their alpha and sigma, and the time the network is asked at.
      cond: batch-first conditioning.
    """
    predict = getattr(denoiser, "predict", None)
    if predict is not None:
        ends: Ends = predict(x, level, cond)
        return ends
    assert level.time is not None, "a denoiser is asked at a time"
    return Ends(x, level, denoiser.eps(x, level.time, cond).to(x.dtype))


def held_by(denoiser: Denoiser) -> Held:
    """What moves between levels carry: `denoiser.held`, or the noise for denoisers that do not say."""
    held: Held = getattr(denoiser, "held", Held.NOISE)
    return held


class WrappedDenoiser:
    """A denoiser around another. What a subclass does not say itself is the inner denoiser's.

    Subclasses that change or watch predictions override `eps`, which is enough around denoisers of the noise, and
    `predict`, by which denoisers of both ends are asked.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser

    def __getattr__(self, name: str) -> Any:
        if name == "denoiser":  # copied or unpickled, and not yet filled
            raise AttributeError(name)
        return getattr(self.denoiser, name)

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

    def eps(self, x_t: Tensor, t: float, cond: Mapping[str, Tensor]) -> Tensor:
        """The wrapped denoiser's noise prediction."""
        return self.denoiser.eps(x_t, t, cond)

    def predict(self, x: Tensor, level: Level, cond: Mapping[str, Tensor]) -> Ends:
        """The wrapped denoiser's two ends; of a denoiser of the noise by this object's own `eps`."""
        if held_by(self.denoiser) is Held.NOISE:
            assert level.time is not None, "a denoiser is asked at a time"
            return Ends(x, level, self.eps(x, level.time, cond).to(x.dtype))
        return predict_ends(self.denoiser, x, level, cond)


class CountedDenoiser(WrappedDenoiser):
    """A denoiser that counts its evaluations: `num_evaluations` of single images, `num_calls` of batches."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser)
        self.num_evaluations = 0
        self.num_calls = 0

    def eps(self, x_t: Tensor, t: float, cond: Mapping[str, Tensor]) -> Tensor:
        """Count x_t's images and pass the call on."""
        self._count(x_t)
        return self.denoiser.eps(x_t, t, cond)

    def predict(self, x: Tensor, level: Level, cond: Mapping[str, Tensor]) -> Ends:
        """Count x's images and pass the call on."""
        self._count(x)
        return predict_ends(self.denoiser, x, level, cond)

    def _count(self, x: Tensor) -> None:
        self.num_calls += 1
        self.num_evaluations += x.shape[0] * int(getattr(self.denoiser, "evaluations_per_image", 1))
