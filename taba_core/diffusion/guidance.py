"""Classifier-free guidance: a conditional prediction pushed away from that of a null condition."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from taba_core.diffusion.denoiser import Denoiser, WrappedDenoiser
from taba_core.errors import UsageError

# Axes: B samples in a batch, C channels, H rows, W columns.

Conditioning = Mapping[str, Tensor]


def guided(eps_cond: Tensor, eps_null: Tensor, scale: float) -> Tensor:
    """eps = eps_null + w (eps_cond - eps_null)    (Ho & Salimans 2022, Eq. 6, with w = 1 + their w).

    Args:
      eps_cond, eps_null: predictions with the condition and with the null condition, (B, C, H, W).
      scale: w; 1 is the conditional prediction.
    """
    return eps_null + scale * (eps_cond - eps_null)


def null_condition(denoiser: Denoiser, batch: int) -> dict[str, Tensor]:
    """The condition of the empty prompt, `batch` rows of it.

    Raises:
      UsageError: the model reads no text.
    """
    text = getattr(denoiser, "text", None)
    if text is None:
        raise UsageError(
            "guidance compares a prompt with the empty prompt, and this model reads no text; use a text-conditional "
            "model, or guidance_scale=1."
        )
    encoded: dict[str, Tensor] = text.encode([""] * batch)
    return encoded


class Guided(WrappedDenoiser):
    """A denoiser under classifier-free guidance: two evaluations of the network for one prediction.

    Attributes:
      evaluations_per_image: 2, what counting drivers multiply with.
    """

    evaluations_per_image = 2

    def __init__(self, denoiser: Denoiser, scale: float, null: Conditioning | None = None) -> None:
        """Wrap a denoiser.

        Args:
          scale: w, at least 0; 1 is no guidance, at the price of two evaluations.
          null: the null condition of one sample, each entry (1, ...); None is the empty prompt.

        Raises:
          UsageError: a negative scale, an empty or many-rowed null condition, or none for a model without text.
        """
        if not scale >= 0:
            raise UsageError(f"guidance_scale={scale}: it cannot be negative; 1 is no guidance.")
        null = null_condition(denoiser, 1) if null is None else null
        if not null or any(len(value) != 1 for value in null.values()):
            rows = {key: len(value) for key, value in null.items()}
            raise UsageError(
                f"the null condition has rows {rows}; give each of its tensors one row, or None for the empty prompt."
            )
        super().__init__(denoiser)
        self.scale, self.null = scale, null

    def eps(self, x_t: Tensor, t: float, cond: Conditioning) -> Tensor:
        """The guided prediction, (B, C, H, W).

        Raises:
          UsageError: no condition to be guided towards.
        """
        if not cond:
            raise UsageError(
                f"guidance_scale={self.scale:g} without a condition: there is nothing to guide towards; give cond, or "
                "use the model itself."
            )
        null = {key: value.expand(len(x_t), *value.shape[1:]) for key, value in self.null.items()}
        return guided(self.denoiser.eps(x_t, t, cond), self.denoiser.eps(x_t, t, null), self.scale)
