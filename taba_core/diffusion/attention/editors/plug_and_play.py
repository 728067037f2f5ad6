"""Plug-and-play diffusion features (Tumanyan et al., CVPR 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from taba_core.diffusion.attention.control import Call, Control, Heads
from taba_core.diffusion.attention.editor import AttentionEditor, Prompts, Share
from taba_core.diffusion.attention.layers import AttentionLayer
from taba_core.diffusion.attention.registry import editor


@editor("plug-and-play")
@dataclass(frozen=True)
class PlugAndPlay(AttentionEditor):
    """Targets of the source's layout: its queries and keys, and one of its feature maps, on the way up.

    For the first steps the target's self-attention maps are the source's, softmax(q_source k_source^T / sqrt d), and
    the output of the second convolution of the second residual block is the source's (Tumanyan et al. 2023, Sec. 4).
    Both are taken on the way up in the first block that has attention: of SD 1.x up_blocks[1].resnets[1], and the
    self-attention from up_blocks[1].attentions[1] on. The source reads its own prompt in both halves of guidance.

    Attributes:
      feature_share: share of the T sampling steps whose features are the source's, rounded down; published .8.
      attention_share: the same of queries and keys; published .5. With both 0 it is plain sampling.
    """

    feature_share: Share = 0.8
    attention_share: Share = 0.5

    def control(
        self, layers: Sequence[AttentionLayer], prompts: Prompts, tokenizer: Any, device: str
    ) -> Control:
        """Features, queries and keys of the sources for the targets."""
        block = min(layer.block for layer in layers if layer.part == "up")
        return _Features(self.feature_share, self.attention_share, block)


@dataclass(frozen=True)
class _Features(Control):
    feature_share: float
    attention_share: float
    block: int  # the first on the way up that has attention

    source_keeps_prompt = True

    def active(self, call: Call) -> bool:
        return call.step < max(call.steps_in(self.feature_share), call.steps_in(self.attention_share))

    def touches(self, call: Call, layer: AttentionLayer) -> bool:
        if layer.cross or layer.part != "up" or call.step >= call.steps_in(self.attention_share):
            return False
        return layer.block > self.block or layer.transformer > 0

    def attend(self, call: Call, layer: AttentionLayer, heads: Heads) -> Tensor:
        q, k = heads.q[: call.images], heads.k[: call.images]
        return Heads(torch.cat([q, q]), torch.cat([k, k]), heads.v).attention()

    def watched(self, unet: Any) -> Sequence[Any]:
        return (unet.up_blocks[self.block].resnets[1].conv2,)

    def replaced(self, call: Call, module: Any, entering: Tensor, output: Tensor) -> Tensor:
        if call.step >= call.steps_in(self.feature_share):
            return output
        return torch.cat([output[: call.images], output[: call.images]])
