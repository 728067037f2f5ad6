"""What an editor does inside one evaluation of the network: the vocabulary of calls, heads and controls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from taba_core.diffusion.attention.layers import AttentionLayer

# Axes: B images, whose rows in a call are [B sources, B targets]; h heads, N tokens of the image or of the text, d
# width of a head.


@dataclass(frozen=True)
class Call:
    """One evaluation of the network, of the states of the sources and of the targets side by side.

    Attributes:
      step: how many sampling steps have been taken, 0..T-1, from the time the network is asked at.
      num_steps: T.
      conditional: whether the rows read the prompts; else it is the half of guidance that reads the null condition.
      images: B; rows 0..B-1 are the sources.
    """

    step: int
    num_steps: int
    conditional: bool
    images: int

    def steps_in(self, share: float) -> int:
        """Sampling steps in a share of them, rounded down: .7 of 10 is 7, whatever it is in floating point."""
        return int(share * self.num_steps + 1e-9)


class Heads(NamedTuple):
    """Queries, keys and values of a layer, (2 B, h, N, d) each, sources first."""

    q: Tensor
    k: Tensor
    v: Tensor

    def attention(self, mask: Tensor | None = None) -> Tensor:
        """softmax(q k^T / sqrt d + mask) v, (2 B, h, N, d)."""
        return F.scaled_dot_product_attention(self.q, self.k, self.v, attn_mask=mask)

    def maps(self) -> Tensor:
        """softmax(q k^T / sqrt d), (2 B, h, N, N of the keys), the softmax in float32."""
        logits = self.q @ self.k.transpose(-1, -2) * self.q.shape[-1] ** -0.5
        return logits.float().softmax(-1).to(self.v.dtype)


class Control(ABC):
    """What an editor changes for given prompts. A subclass says where, and what stands there instead.

    Class attributes:
      source_keeps_prompt: the source reads its own prompt in the null half of guidance too, so that it is not guided.
      corrects_noise: `corrected` changes the noise that is predicted.
    """

    source_keeps_prompt: bool = False
    corrects_noise: bool = False

    @abstractmethod
    def active(self, call: Call) -> bool:
        """Whether anything is changed in a call."""

    @abstractmethod
    def touches(self, call: Call, layer: AttentionLayer) -> bool:
        """Whether a layer is changed in an active call."""

    @abstractmethod
    def attend(self, call: Call, layer: AttentionLayer, heads: Heads) -> Tensor:
        """What stands for the attention of a touched layer, (2 B, h, N, d)."""

    def watched(self, unet: Any) -> Sequence[Any]:
        """Modules of the U-Net whose outputs `replaced` sees in active calls."""
        return ()

    def replaced(self, call: Call, module: Any, entering: Tensor, output: Tensor) -> Tensor:
        """What stands for the output of a watched module."""
        return output

    def corrected(self, call: Call, eps: Tensor) -> Tensor:
        """What stands for the noise predicted in all rows after guidance, (2 B, C, H, W)."""
        return eps
