"""Another choice of what inversion steps carry between levels than the network's own (`conventions.HeldQuantity`)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from taba_core.conventions import HeldQuantity, no_velocity
from taba_core.diffusion.denoiser import Denoiser, WrappedDenoiser, held_by, predict_ends
from taba_core.diffusion.ends import Ends, Held
from taba_core.diffusion.level import Level
from taba_core.errors import UsageError

# Axes: B samples in a batch, C channels, H rows, W columns.


def holding(denoiser: Denoiser, held: HeldQuantity) -> Denoiser:
    """The denoiser as inversion steps ask it when they carry the quantity `held` between levels.

    Of a network that predicts the noise alone every choice but the velocity is its own.

    Raises:
      UsageError: held=velocity of a network that predicts the noise alone.
    """
    own = held_by(denoiser)
    if held == "velocity" and own is Held.NOISE:
        raise UsageError(no_velocity("the network"))
    if held == "auto" or own is Held.NOISE or held == "velocity":
        return denoiser
    return HoldsNoise(denoiser, scaled=held == "noise-vp")


class HoldsNoise(WrappedDenoiser):
    """A network that gives both ends, of which steps carry the noise, read at the level of the network's time.

    With level l of the network's time and a state x of level a the noise is

        eps = eps(x, l)                        (noise)
        eps = eps(x c_l / c_a, l),  c = sqrt(alpha^2 + sigma^2)        (scaled: noise-vp)

    and a step is x_b = P x + Q eps, P = alpha_b / alpha_a, Q = sigma_b - P sigma_a. Scaled, this is the step of the
    variance-preserving model y = x / c, of which a flow is the same model on other levels.
    """

    held = Held.NOISE

    def __init__(self, denoiser: Denoiser, *, scaled: bool) -> None:
        super().__init__(denoiser)
        self.scaled = scaled

    def predict(self, x: Tensor, level: Level, cond: Mapping[str, Tensor]) -> Ends:
        """The noise in states x of a level, (B, C, H, W), as the network reads it at the level of its own time."""
        assert level.time is not None, "a denoiser is asked at a time"
        asked = self.schedule.level_at(level.time)
        read = x * (asked.size / level.size) if self.scaled else x
        return Ends(x, level, predict_ends(self.denoiser, read, asked, cond).eps)
