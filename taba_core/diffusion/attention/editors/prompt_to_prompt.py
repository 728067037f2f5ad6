"""Prompt-to-prompt: the cross-attention maps of the source (Hertz et al., ICLR 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from taba_core.diffusion.attention.control import Call, Control, Heads
from taba_core.diffusion.attention.editor import AttentionEditor, Prompts, Share
from taba_core.diffusion.attention.layers import AttentionLayer
from taba_core.diffusion.attention.registry import editor
from taba_core.diffusion.attention.words import (
    check_equal_words,
    check_word,
    refined_words,
    replaced_words,
    word_weights,
)

# Axes: B images, h heads, N tokens of the image, L tokens of the text.


@editor("prompt-to-prompt")
@dataclass(frozen=True)
class PromptToPrompt(AttentionEditor):
    """Targets look at each word of their prompt where the source looks at its counterpart.

    For the first steps, in the half of guidance that reads the prompts, the cross-attention maps of the target are

    - replace: M'[p, n] = sum_w M_source[p, w] A[w, n], word for word, prompts of the same number of words;
    - refine: the same at the tokens that both prompts have, M_target at the new ones;

    and times c_n (reweight) at the tokens of a word, not normalised again. Self-attention maps are the source's. The
    published blending of states by the maps of words is not part of it.

    Attributes:
      mode: refine or replace.
      word, weight: c of this word of the target; "" weights none.
      cross_share: cross-attention is controlled for step < int(cross_share (T + 1)); published .8, PIE-Bench .4.
      self_share: self-attention for step < int(self_share T); published .4, PIE-Bench .6.
      self_tokens: largest number of positions N whose self-attention is controlled; 256 = 16 x 16 as published.
    """

    mode: Literal["refine", "replace"] = "refine"
    word: str = ""
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    cross_share: Share = 0.8
    self_share: Share = 0.4
    self_tokens: Annotated[int, Field(ge=0)] = 256

    @property
    def changes_under_the_same_prompt(self) -> bool:
        """Whether a word is weighted."""
        return bool(self.word) and self.weight != 1.0

    def check_prompts(self, source: str, target: str) -> None:
        """Refuse (UsageError) replacing between other numbers of words, or a word that the target does not have."""
        if self.mode == "replace":
            check_equal_words(source, target)
        if self.word:
            check_word(target, self.word)

    def control(
        self, layers: Sequence[AttentionLayer], prompts: Prompts, tokenizer: Any, device: str
    ) -> Control:
        """Maps of the sources for the targets, by the words of each pair of prompts."""
        align = replaced_words if self.mode == "replace" else refined_words
        pairs = list(zip(prompts.source, prompts.target, strict=True))
        aligned = [align(source, target, tokenizer) for source, target in pairs]
        weights = [
            word_weights(target, self.word, self.weight, tokenizer)
            if self.word
            else torch.ones_like(one.kept)
            for (_, target), one in zip(pairs, aligned, strict=True)
        ]
        return _Maps(
            self,
            torch.stack([one.A for one in aligned]).to(device),
            torch.stack([one.kept for one in aligned]).to(device),
            torch.stack(weights).to(device),
        )


@dataclass(frozen=True, eq=False)
class _Maps(Control):
    options: PromptToPrompt
    A: Tensor  # (B, L, L)
    kept: Tensor  # (B, L)
    weights: Tensor  # (B, L)

    def active(self, call: Call) -> bool:
        return call.conditional and (self._cross(call) or self._self(call))

    def touches(self, call: Call, layer: AttentionLayer) -> bool:
        return self._cross(call) if layer.cross else self._self(call)

    def attend(self, call: Call, layer: AttentionLayer, heads: Heads) -> Tensor:
        B = call.images
        if not layer.cross:
            if heads.q.shape[-2] > self.options.self_tokens:
                return heads.attention()
            q, k = heads.q[:B], heads.k[:B]
            return Heads(torch.cat([q, q]), torch.cat([k, k]), heads.v).attention()
        maps = heads.maps()
        A, kept, weights = (part.to(maps.dtype) for part in (self.A, self.kept, self.weights))
        kept, weights = kept[:, None, None], weights[:, None, None]
        moved = maps[:B] @ A[:, None]
        targets = (kept * moved + (1 - kept) * maps[B:]) * weights
        return torch.cat([maps[:B], targets]) @ heads.v

    def _cross(self, call: Call) -> bool:
        return call.step < int(self.options.cross_share * (call.num_steps + 1) + 1e-9)

    def _self(self, call: Call) -> bool:
        return call.step < int(self.options.self_share * call.num_steps + 1e-9)
