"""Norms that compute in float32 inside a network of 16-bit weights.

A norm divides by the standard deviation of a group: rounded to 16 bits, that one number scales the whole group. Its
few weights stay in float32 as well.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Axes: B samples in a batch, C channels, H rows, W columns.


class Float32GroupNorm(nn.GroupNorm):
    """GroupNorm (Wu & He 2018) of a 16-bit state, (B, C, ...), computed in float32 and rounded once."""

    def forward(self, input: Tensor) -> Tensor:
        """The normalised state, in the shape and the type of the input."""
        normed = F.group_norm(input.float(), self.num_groups, self.weight, self.bias, self.eps)
        return normed.to(input.dtype)


class Float32LayerNorm(nn.LayerNorm):
    """LayerNorm (Ba et al. 2016) of a 16-bit state, (..., C), computed in float32 and rounded once."""

    def forward(self, input: Tensor) -> Tensor:
        """The normalised state, in the shape and the type of the input."""
        normed = F.layer_norm(input.float(), self.normalized_shape, self.weight, self.bias, self.eps)
        return normed.to(input.dtype)


_KINDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.GroupNorm: Float32GroupNorm,
    nn.LayerNorm: Float32LayerNorm,
}


def cast_but_norms(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Cast a network in place to a 16-bit type; its group and layer norms compute in float32, with float32 weights."""
    for part in module.modules():
        kind = _KINDS.get(type(part))
        if kind is not None:
            # The same weights under the same names: only `forward` is another.
            part.__class__ = kind
    # `module.to(dtype)` would round the weights of the norms too.
    for part in module.modules():
        norm = isinstance(part, Float32GroupNorm | Float32LayerNorm)
        wanted = torch.float32 if norm else dtype
        for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
            if tensor.is_floating_point() and tensor.dtype != wanted:
                tensor.data = tensor.data.to(wanted)
    return module
