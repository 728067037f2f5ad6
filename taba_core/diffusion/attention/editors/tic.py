"""TIC: keys and values of the inversion (Duan et al., AAAI 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from taba_core.diffusion.attention.control import Control
from taba_core.diffusion.attention.editor import AttentionEditor, Prompts, StartStep
from taba_core.diffusion.attention.editors.masactrl import MutualAttention, first_layer
from taba_core.diffusion.attention.layers import AttentionLayer
from taba_core.diffusion.attention.registry import editor


@editor("tic")
@dataclass(frozen=True)
class TIC(AttentionEditor):
    """Targets look at what the inversion saw: keys and values of its self-attention, at the step that it inverted.

        o_target = softmax(q_target k_inv^T / sqrt d) v_inv    (tuning-free inversion-enhanced control)

    where k_inv, v_inv of the step between x_{l-1} and x_l are those of the network at x_{l-1} and the time of level l,
    which is what DDIM inversion asked it; MasaCtrl takes those of a source that is sampled, at x_l. Sources are pinned
    to the states of the inversion and read their own prompt in both halves of guidance. The published concatenation
    under masks is not part of it.

    Attributes:
      start_step: S, sampling steps that are left alone; T or more is plain sampling.
      layer: L, first self-attention layer in order of execution; None = 10 of SD's 16, and as deep elsewhere.
    """

    start_step: StartStep = 4
    layer: Annotated[int, Field(ge=0)] | None = None

    source_one_below = True

    def control(
        self, layers: Sequence[AttentionLayer], prompts: Prompts, tokenizer: Any, device: str
    ) -> Control:
        """Keys and values of the inversion for the targets."""
        return _InversionAttention(self.start_step, first_layer(self.layer, layers))


@dataclass(frozen=True)
class _InversionAttention(MutualAttention):
    source_keeps_prompt = True
