"""Group norms in a form that torch.compile turns into vector instructions where channels lie last in memory.

On a CPU inductor computes a group's mean and variance from the channels of one group at a time: two or four of
neighbouring numbers, where a vector instruction takes eight or more. Sums over pixels of every channel are made of
whole vectors, and the groups of channels are put together afterwards, from one number a channel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Axes: B samples in a batch, C channels, H rows, W columns, G groups of C / G channels.


class VectorisedGroupNorm(nn.GroupNorm):
    """GroupNorm (Wu & He 2018) of states, (B, C, H, W); in a compiled network its sums are taken in another order.

    Where it is not compiled, and for states that are not float32 or have other axes, it is torch's norm.
    The variance of a group is the mean over its channels of var_c + (mean_c - mean)^2. A channel's own mean and
    variance are of its differences from its first pixel, so that no digits cancel where a mean is far from 0.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The normalised state, in the shape of the input."""
        if not torch.compiler.is_compiling() or input.ndim != 4 or input.dtype != torch.float32:
            return super().forward(input)
        if torch.is_autocast_enabled(input.device.type):  # it would round the products below to 16 bits
            return super().forward(input)
        x = input.permute(0, 2, 3, 1)
        pixels = x.shape[1] * x.shape[2]
        first = x[:, 0, 0]
        differences = x - first[:, None, None]
        # Rows before columns: one sum over all pixels is compiled to a slower loop.
        shift = differences.sum(2).sum(1) / pixels
        variance = differences.square().sum(2).sum(1) / pixels - shift.square()
        mean = self._over_groups(first + shift)
        variance = self._over_groups(variance + (first + shift - mean).square())
        scale = (variance + self.eps).rsqrt() * self.weight
        y = (x - mean[:, None, None]) * scale[:, None, None] + self.bias
        return y.permute(0, 3, 1, 2)

    def _over_groups(self, of_channels: Tensor) -> Tensor:
        """The mean over the channels of a group, at each of its channels, (B, C)."""
        of_groups = of_channels.unflatten(1, (self.num_groups, -1)).mean(-1)
        # Products with 0 and 1 are exact, and a number that a product returns is not computed anew for every pixel.
        return of_groups @ self.members


def vectorise_norms(module: nn.Module) -> nn.Module:
    """Let the group norms of a network with float32 weights compile to vector instructions; changed in place.

    Calls that are not compiled go through torch's group norm, with the same numbers as before.
    """
    for part in module.modules():
        if type(part) is nn.GroupNorm and part.affine and part.weight.dtype == torch.float32:
            groups, channels = part.num_groups, part.num_channels
            # The same weights under the same names: only `forward` is another.
            part.__class__ = VectorisedGroupNorm
            members = torch.eye(groups).repeat_interleave(channels // groups, dim=1)
            part.register_buffer("members", members.to(part.weight), persistent=False)
    return module
