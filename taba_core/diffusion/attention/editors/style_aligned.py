"""StyleAligned: attention shared with a reference image (Hertz et al., CVPR 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from taba_core import rng
from taba_core.diffusion.attention.control import Call, Control, Heads
from taba_core.diffusion.attention.editor import AttentionEditor, Prompts, StartStep
from taba_core.diffusion.attention.layers import AttentionLayer
from taba_core.diffusion.attention.registry import editor
from taba_core.diffusion.inversion.method import Method
from taba_core.errors import UsageError
from taba_core.rng import MAX_SEED

# Axes: B images, C channels, H rows, W columns; h heads, N tokens, d width of a head.

LOG_2 = math.log(2)
_EPSILON = 1e-5  # of the variance over tokens
Finite = Annotated[float, Field(allow_inf_nan=False)]


@editor("style-aligned")
@dataclass(frozen=True)
class StyleAligned(AttentionEditor):
    """Targets of their own layout in the style of the source, which is the reference of each.

    In every self-attention layer queries and keys of the target get mean and standard deviation, over tokens, of those
    of the reference (AdaIN), and the target attends to itself and to the reference (Hertz et al. 2024, Sec. 3.2):

        o = softmax([q k^T / sqrt d, c q k_ref^T / sqrt d + shift]) [v; v_ref].

    Group norms take their statistics over target and reference together. A target that is its own reference is plain
    sampling, whatever the shift.

    Attributes:
      start_step: sampling steps that are left alone; T or more is plain sampling.
      start: where targets start: "noise" of `seed`, as published, or the "latent" of the inversion.
      seed: of that noise.
      shift: added to the logits of the reference; log 2 as published for real images.
      key_scale: c, of the reference's keys.
      share_norms: whether group norms are shared.
    """

    start_step: StartStep = 0
    start: Literal["noise", "latent"] = "noise"
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    shift: Finite = LOG_2
    key_scale: Finite = 1.0
    share_norms: bool = True

    def check_method(self, method: Method) -> None:
        """Refuse (UsageError) targets from noise behind a method whose own sampler starts from more than a latent."""
        if self.start == "noise" and method.own_sampler and not method.keeps_path:
            raise UsageError(
                f"editor 'style-aligned' starts its targets from noise, and inversion method '{method.name}' has a "
                "sampler of its own, which starts from what the inversion kept; use editor option start=latent, or "
                "another method."
            )

    def target_start(self, latent: Tensor, sample_ids: Sequence[int]) -> Tensor:
        """Noise that belongs to (seed, sample id), or the latent, (B, C, H, W)."""
        if self.start == "latent":
            return latent
        drawn = rng.normal(list(sample_ids), tuple(latent.shape[1:]), seed=self.seed, stream="style-aligned")
        return torch.from_numpy(drawn).to(latent)

    def control(
        self, layers: Sequence[AttentionLayer], prompts: Prompts, tokenizer: Any, device: str
    ) -> Control:
        """Attention and group norms shared with the sources."""
        return _Shared(self.start_step, self.shift, self.key_scale, self.share_norms)


@dataclass(frozen=True)
class _Shared(Control):
    start_step: int
    shift: float
    key_scale: float
    share_norms: bool

    def active(self, call: Call) -> bool:
        return call.step >= self.start_step

    def touches(self, call: Call, layer: AttentionLayer) -> bool:
        return not layer.cross

    def attend(self, call: Call, layer: AttentionLayer, heads: Heads) -> Tensor:
        sources = Heads(*(part[: call.images] for part in heads))
        targets = Heads(*(part[call.images :] for part in heads))
        k, v = adain(targets.k, sources.k), targets.v
        shared = Heads(
            adain(targets.q, sources.q),
            torch.cat([k, self.key_scale * sources.k], dim=-2),
            torch.cat([v, sources.v], dim=-2),
        )
        mask = shared.q.new_zeros(shared.k.shape[-2])
        mask[k.shape[-2] :] = self.shift
        return torch.cat([sources.attention(), shared.attention(mask.expand(shared.q.shape[-2], -1))])

    def watched(self, unet: Any) -> Sequence[Any]:
        return [m for m in unet.modules() if isinstance(m, nn.GroupNorm)] if self.share_norms else ()

    def replaced(self, call: Call, module: Any, entering: Tensor, output: Tensor) -> Tensor:
        # The reference stands below the target, (.., 2 N) of tokens and (.., 2 H, W) of maps: only the mean and the
        # standard deviation of a group see both.
        sources, targets = entering[: call.images], entering[call.images :]
        axis = 2
        normed = module.forward(torch.cat([targets, sources], dim=axis))
        return torch.cat([output[: call.images], normed.narrow(axis, 0, targets.shape[axis])])


def adain(x: Tensor, reference: Tensor) -> Tensor:
    """x with mean and standard deviation of the reference, over tokens    (Huang & Belongie 2017, Eq. 8).

    Args:
      x, reference: (B, h, N, d), each with its own N.
    """

    def moments(part: Tensor) -> tuple[Tensor, Tensor]:
        variance, mean = torch.var_mean(part.float(), dim=-2, keepdim=True)
        return mean, (variance + _EPSILON).sqrt()

    mean, std = moments(x)
    other_mean, other_std = moments(reference)
    return ((x.float() - mean) / std * other_std + other_mean).to(x.dtype)
