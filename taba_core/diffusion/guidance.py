"""Classifier-free guidance: a conditional prediction pushed away from that of a null condition."""

from __future__ import annotations

from torch import Tensor

from taba_core.diffusion.denoiser import Denoiser, WrappedDenoiser, predict_ends
from taba_core.diffusion.ends import Ends
from taba_core.diffusion.level import Level
from taba_core.diffusion.sampling import Conditioning
from taba_core.errors import UsageError

# Axes: B samples in a batch, C channels, H rows, W columns.


def guided(eps_cond: Tensor, eps_null: Tensor, scale: float) -> Tensor:
    """eps = eps_null + w (eps_cond - eps_null)    (Ho & Salimans 2022, Eq. 6, with w = 1 + their w).

    Args:
      eps_cond, eps_null: predictions with the condition and with the null condition, (B, C, H, W).
      scale: w; 1 is the conditional prediction.
    """
    return eps_null + scale * (eps_cond - eps_null)


def guided_ends(cond: Ends, null: Ends, scale: float) -> Ends:
    """Both ends of the line guided as `guided` says, which is the same as guiding v or the velocity: they are linear.

    Args:
      cond, null: predictions for the same states, with the condition and with the null condition.
      scale: w.
    """
    clean = None
    if cond.clean is not None:
        clean = guided(cond.clean, null.x_0, scale)
    return Ends(cond.x, cond.level, guided(cond.eps, null.eps, scale), clean)


def null_condition(denoiser: Denoiser, batch: int) -> dict[str, Tensor]:
    """The condition that says nothing, `batch` rows of it: the empty prompt, the null class, any photograph.

    It is the denoiser's own `null_condition(batch)`; of a denoiser that has only a text encoder the empty prompt.

    Raises:
      UsageError: an unconditional model, or a conditional one that was trained without a null condition.
    """
    own = getattr(denoiser, "null_condition", None)
    if own is not None:
        condition: dict[str, Tensor] = own(batch)
        return condition
    text = getattr(denoiser, "text", None)
    if text is None:
        raise UsageError(no_null_condition("this model has no condition"))
    encoded: dict[str, Tensor] = text.encode([""] * batch)
    return encoded


def no_null_condition(reason: str) -> str:
    """The message for a model that cannot be guided, for a reason such as "this model has no condition"."""
    return (
        f"guidance compares a prompt or a class with a null condition, and {reason}; use a conditional model that has "
        "one, or guidance_scale=1."
    )


class Guided(WrappedDenoiser):
    """A denoiser under classifier-free guidance: two evaluations of the network for one prediction.

    Attributes:
      guidance_scale: w.
      evaluations_per_image: 2 times those of the denoiser, what counting drivers multiply with.
    """

    def __init__(self, denoiser: Denoiser, scale: float, null: Conditioning | None = None) -> None:
        """Wrap a denoiser.

        Args:
          scale: w, at least 0; 1 is no guidance, at the price of two evaluations.
          null: the null condition of one sample, each entry (1, ...); None is the model's own, see `null_condition`.

        Raises:
          UsageError: a negative scale, an empty or many-rowed null condition, or none for a model without one.
        """
        if not scale >= 0:
            raise UsageError(f"guidance_scale={scale}: it cannot be negative; 1 is no guidance.")
        null = null_condition(denoiser, 1) if null is None else null
        if not null or any(len(value) != 1 for value in null.values()):
            rows = {key: len(value) for key, value in null.items()}
            raise UsageError(
                f"the null condition has rows {rows}; give each of its tensors one row, or None for the model's own."
            )
        super().__init__(denoiser)
        self.guidance_scale, self.null = scale, null
        self._rows: dict[
            str, Tensor
        ] = {}  # the null condition of the last batch: the same tensors for all its steps
        self.evaluations_per_image = 2 * int(getattr(denoiser, "evaluations_per_image", 1))

    def eps(self, x_t: Tensor, t: float, cond: Conditioning) -> Tensor:
        """The guided prediction of the noise, (B, C, H, W).

        Raises:
          UsageError: no condition to be guided towards.
        """
        null = self._null(cond, len(x_t))
        return guided(self.denoiser.eps(x_t, t, cond), self.denoiser.eps(x_t, t, null), self.guidance_scale)

    def predict(self, x: Tensor, level: Level, cond: Conditioning) -> Ends:
        """The guided prediction of both ends.

        Raises:
          UsageError: no condition to be guided towards.
        """
        null = self._null(cond, len(x))
        towards = predict_ends(self.denoiser, x, level, cond)
        return guided_ends(towards, predict_ends(self.denoiser, x, level, null), self.guidance_scale)

    def _null(self, cond: Conditioning, batch: int) -> dict[str, Tensor]:
        if not cond:
            raise UsageError(
                f"guidance_scale={self.guidance_scale:g} without a condition: there is nothing to guide towards; give "
                "cond, or use the model itself."
            )
        rows = self._rows
        if not rows or any(len(value) != batch for value in rows.values()):
            rows = {key: value.expand(batch, *value.shape[1:]) for key, value in self.null.items()}
            self._rows = rows
        return rows
