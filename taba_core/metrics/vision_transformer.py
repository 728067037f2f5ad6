"""A vision transformer in plain torch, with the names of parameters that DINO's published files have.

Dosovitskiy et al. 2021 (ICLR): a picture is cut into patches, each patch and one class token become vectors, and blocks
of attention and of a two-layer network add to them. CLIP's transformers are written the same way: theirs normalise the
vectors before the first block, under the name `pos_drop`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Sizes:
    """Sizes of a transformer: width, blocks, heads of attention, pixels of a side of a patch and of a picture."""

    width: int
    depth: int
    heads: int
    patch: int = 16
    side: int = 224

    @property
    def tokens(self) -> int:
        """Vectors of a picture: one a patch, and the class token."""
        return (self.side // self.patch) ** 2 + 1


VIT_B16 = Sizes(width=768, depth=12, heads=12)


class QuickGelu(nn.Module):
    """x sigmoid(1.702 x), the activation that OpenAI's CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """softmax(q k^T / sqrt(width / heads)) v for every head, then a linear map of the heads side by side."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.qkv = nn.Linear(sizes.width, 3 * sizes.width)
        self.proj = nn.Linear(sizes.width, sizes.width)

    def forward(self, x: Tensor) -> Tensor:
        """Vectors (n, tokens, width) of the same shape."""
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).view(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(n, tokens, width))


class Mlp(nn.Module):
    """Two linear maps with an activation between them; the inner layer is four times as wide."""

    def __init__(self, width: int, activation: nn.Module) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(width, 4 * width), activation, nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Vectors (n, tokens, width) of the same shape."""
        x = self.fc2(self.act(self.fc1(x)))
        return x


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, sizes: Sizes, *, eps: float, activation: nn.Module) -> None:
        super().__init__()
        width = sizes.width
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(sizes)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, activation)

    def forward(self, x: Tensor) -> Tensor:
        """Vectors (n, tokens, width) of the same shape."""
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x


class Patches(nn.Module):
    """Every patch of a picture as a vector: a convolution whose stride is its width."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, sizes.width, sizes.patch, stride=sizes.patch)

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, side, side) to (n, patches, width), row by row of the picture."""
        vectors: Tensor = self.proj(images)
        return vectors.flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """Pictures of one size to vectors.

    Args:
      sizes: of the transformer.
      eps: added to the variance by every layer norm.
      quick_gelu: whether the activation is `QuickGelu`; else x Phi(x) with the normal distribution's Phi.
      norm_first: whether the vectors are normalised before the first block.
    """

    def __init__(
        self, sizes: Sizes, *, eps: float, quick_gelu: bool = False, norm_first: bool = False
    ) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, sizes.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, sizes.tokens, sizes.width))
        self.patch_embed = Patches(sizes)
        self.pos_drop = nn.LayerNorm(sizes.width, eps=eps) if norm_first else nn.Identity()
        self.blocks = nn.ModuleList(
            Block(sizes, eps=eps, activation=QuickGelu() if quick_gelu else nn.GELU())
            for _ in range(sizes.depth)
        )
        self.norm = nn.LayerNorm(sizes.width, eps=eps)

    def forward(self, images: Tensor, *, normed: bool) -> Tensor:
        """The class token after the last block, (n, width).

        Args:
          images: (n, 3, side, side), scaled as the network was trained.
          normed: whether after the last layer norm too, or before it.
        """
        patches = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1) + self.pos_embed
        x = self.pos_drop(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 0]) if normed else x[:, 0]
