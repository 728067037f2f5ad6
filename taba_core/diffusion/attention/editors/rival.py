"""RIVAL: a sampling chain aligned with an inversion chain (Zhang et al., NeurIPS 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from taba_core.diffusion.attention.control import Call, Control, Heads
from taba_core.diffusion.attention.editor import AttentionEditor, Prompts, Share
from taba_core.diffusion.attention.editors.style_aligned import adain
from taba_core.diffusion.attention.layers import AttentionLayer
from taba_core.diffusion.attention.registry import editor


@editor("rival")
@dataclass(frozen=True)
class RIVAL(AttentionEditor):
    """Targets look at the source's image and at their own, and their noise has the source's statistics.

    In every self-attention layer the target attends first to the source alone, later to source and target:

        o = softmax(q k_source^T / sqrt d) v_source, then softmax(q [k_source k]^T / sqrt d) [v_source; v],

    and in early steps each channel of the predicted noise is given, after guidance, the mean and the standard deviation
    over pixels of the source's noise. The authors state times of 1000: both alignments end at 600, and the attention of
    edits is left alone above 900; their code switches the attention one step earlier than these times say. The source
    is not guided. The authors invert images under the empty prompt, which is a source prompt of "" here. Their
    variations, which start from a latent whose pixels are put in another order, are not part of this editor.

    Attributes:
      alone_share: share of the T sampling steps whose attention is left alone, rounded down.
      replace_share: share of the steps in which the target attends to the source alone, counted from the first.
      noise_share: share of the steps whose noise is aligned; with 0 and alone_share 1 it is plain sampling.
    """

    alone_share: Share = 0.1
    replace_share: Share = 0.4
    noise_share: Share = 0.4

    def control(
        self, layers: Sequence[AttentionLayer], prompts: Prompts, tokenizer: Any, device: str
    ) -> Control:
        """Attention to the sources, and noise of their statistics."""
        return _Aligned(self.alone_share, self.replace_share, self.noise_share)


@dataclass(frozen=True)
class _Aligned(Control):
    alone_share: float
    replace_share: float
    noise_share: float

    source_keeps_prompt = True
    corrects_noise = True

    def active(self, call: Call) -> bool:
        return call.step >= call.steps_in(self.alone_share)

    def touches(self, call: Call, layer: AttentionLayer) -> bool:
        return not layer.cross

    def attend(self, call: Call, layer: AttentionLayer, heads: Heads) -> Tensor:
        sources = Heads(*(part[: call.images] for part in heads))
        q, k, v = (part[call.images :] for part in heads)
        if call.step < call.steps_in(self.replace_share):
            targets = Heads(q, sources.k, sources.v)
        else:
            targets = Heads(q, torch.cat([sources.k, k], dim=-2), torch.cat([sources.v, v], dim=-2))
        return torch.cat([sources.attention(), targets.attention()])

    def corrected(self, call: Call, eps: Tensor) -> Tensor:
        if call.step >= call.steps_in(self.noise_share):
            return eps
        sources, targets = (
            part.flatten(2).unsqueeze(-1) for part in (eps[: call.images], eps[call.images :])
        )
        return torch.cat([eps[: call.images], adain(targets, sources).view_as(eps[call.images :])])
