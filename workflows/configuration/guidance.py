"""Classifier-free guidance of a run: the scale of each direction, and which models and images can have it."""

from __future__ import annotations

from dataclasses import dataclass

from taba_core.conventions import UNGUIDED
from taba_core.errors import UsageError
from taba_core.models.cards import Card
from taba_core.models.null_condition import why_no_null_condition

# w of edits where the user says none: of text models on latents (Stable Diffusion), and of all others.
_TEXT_GUIDANCE, _GUIDANCE = 7.5, 3.0


def edit_guidance(card: Card) -> float:
    """w of the edits of a model where the user says none; 1 where it cannot be guided."""
    if why_no_null_condition(card):
        return UNGUIDED
    return _TEXT_GUIDANCE if card.domain == "latent" and card.conditional == "text" else _GUIDANCE


@dataclass(frozen=True)
class Guidance:
    """w of eps = eps_null + w (eps_cond - eps_null), by direction.

    Attributes:
      sampling: of generated images, of their paths and of what is sampled from latents; setting guidance_scale.
      inversion: of the inversion's own predictions; setting inversion_guidance_scale.
    """

    sampling: float = UNGUIDED
    inversion: float = UNGUIDED

    @property
    def off(self) -> bool:
        """Whether neither direction is guided, as in the paper."""
        return self.sampling == self.inversion == UNGUIDED

    @property
    def text(self) -> str:
        """Both scales; "" where neither direction is guided."""
        if self.off:
            return ""
        return f"guidance_scale={self.sampling:g}, inversion_guidance_scale={self.inversion:g}"

    @property
    def line(self) -> str:
        """What the line of the conventions says of it, a comma first; "" where neither direction is guided."""
        return f", {self.text}" if self.text else ""

    def check(self, card: Card, conditioning: str) -> None:
        """Refuse guidance of a model without a null condition, and of images without a condition.

        Nothing is loaded: which families have a null condition is known.

        Raises:
          UsageError: such a model, or such images.
        """
        reason = why_no_null_condition(card)
        if reason:
            raise UsageError(
                f"{self.text}: guidance compares a prompt or a class with a null condition, and {reason}; use another "
                "model, or leave both at 1."
            )
        if conditioning == "none":
            raise UsageError(
                f"{self.text}: the images of {card.title} are made without a condition, so there is nothing to guide "
                "towards; use --set conditioning=class, or leave both at 1."
            )
