"""MasaCtrl: mutual self-attention (Cao et al., ICCV 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from taba_core.diffusion.attention.control import Call, Control, Heads
from taba_core.diffusion.attention.editor import AttentionEditor, Prompts, StartStep
from taba_core.diffusion.attention.layers import AttentionLayer
from taba_core.diffusion.attention.registry import editor

# Where the published layer 10 of SD's 16 lies in any network: SDXL's is layer 44 of 70.
_DEPTH = 10 / 16


@editor("masactrl")
@dataclass(frozen=True)
class MasaCtrl(AttentionEditor):
    """Targets look at the source's image: from a step and a layer on, keys and values of its self-attention.

        o_target = softmax(q_target k_source^T / sqrt d) v_source    (Cao et al. 2023, Eq. 4)

    in both halves of guidance, each with the source of the same half. Layout and pose follow the target's own first
    steps and layers, what things look like follows the source.

    Attributes:
      start_step: S, sampling steps that are left alone; T or more is plain sampling.
      layer: L, first self-attention layer in order of execution; None = 10 of SD's 16, and as deep elsewhere.
    """

    start_step: StartStep = 4
    layer: Annotated[int, Field(ge=0)] | None = None

    def control(
        self, layers: Sequence[AttentionLayer], prompts: Prompts, tokenizer: Any, device: str
    ) -> Control:
        """Keys and values of the sources for the targets."""
        return MutualAttention(self.start_step, first_layer(self.layer, layers))


def first_layer(asked: int | None, layers: Sequence[AttentionLayer]) -> int:
    """The first self-attention layer that is controlled: as asked, or as deep as the published one."""
    return round(_DEPTH * sum(not layer.cross for layer in layers)) if asked is None else asked


@dataclass(frozen=True)
class MutualAttention(Control):
    """A control that gives targets their sources' keys and values, from a step and a layer of self-attention on."""

    start_step: int
    first_layer: int

    def active(self, call: Call) -> bool:
        """Whether the step is the first controlled one or a later one."""
        return call.step >= self.start_step

    def touches(self, call: Call, layer: AttentionLayer) -> bool:
        """Whether the layer attends to the image and is the first controlled one or a later one."""
        return not layer.cross and layer.index >= self.first_layer

    def attend(self, call: Call, layer: AttentionLayer, heads: Heads) -> Tensor:
        """The attention of each row's own queries to the keys and values of its source, (2 B, h, N, d)."""
        k, v = heads.k[: call.images], heads.v[: call.images]
        return Heads(heads.q, torch.cat([k, k]), torch.cat([v, v])).attention()
