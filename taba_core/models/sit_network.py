"""The network of SiT as a torch module; its parameters have the names of the published file."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from taba_core.models.sit_files import SiTSize

# Axes: B samples in a batch, N tokens, D numbers of a token, C channels, H rows, W columns.

_FREQUENCIES = 256  # numbers of the embedding of the time
_LONGEST_PERIOD = 10_000.0
_MLP_RATIO = 4
_EPS = 1e-6


class SiTNetwork(nn.Module):
    """Patches, blocks whose norms are steered by time and class, and patches again (Peebles & Xie 2023, Sec. 3.2)."""

    def __init__(self, size: SiTSize) -> None:
        super().__init__()
        self.size = size
        width, tokens = size.hidden_size, (size.side // size.patch_size) ** 2
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, width), requires_grad=False)
        self.x_embedder = _Patches(size.channels, width, size.patch_size)
        self.t_embedder = _Time(width)
        self.y_embedder = _Classes(size.num_classes + 1, width)
        self.blocks = nn.ModuleList(_Block(width, size.num_heads) for _ in range(size.depth))
        self.final_layer = _Final(width, size.patch_size**2 * size.channels * (2 if size.learn_sigma else 1))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """x_0 - eps of states at the publisher's times, (B, C, H, W); of 2 C channels under learn_sigma.

        Args:
          x: states, (B, C, H, W).
          t: times from 0 (noise) to 1 (image), (B,).
          labels: classes, int64 (B,); the number of classes is the null class.
        """
        tokens = self.x_embedder(x) + self.pos_embed
        steering = self.t_embedder(t) + self.y_embedder(labels)
        for block in self.blocks:
            tokens = block(tokens, steering)
        return self._unpatched(self.final_layer(tokens, steering))

    def _unpatched(self, tokens: Tensor) -> Tensor:
        """(B, N, p p C) to (B, C, H, W); the numbers of a token are in the order (row, column, channel)."""
        patch = self.size.patch_size
        side = self.size.side // patch
        patches = tokens.reshape(len(tokens), side, side, patch, patch, -1)
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(len(tokens), -1, side * patch, side * patch)


class _Patches(nn.Module):
    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return tokens


class _Time(nn.Module):
    """Cosines, then sines, of the time at frequencies from 1 to almost 1 / 10000, through two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        half = _FREQUENCIES // 2
        steps = torch.arange(half, dtype=torch.float32, device=t.device)
        angles = t[:, None].float() * torch.exp(-math.log(_LONGEST_PERIOD) * steps / half)[None]
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        out: Tensor = self.mlp(waves.to(next(self.mlp.parameters()).dtype))
        return out


class _Classes(nn.Module):
    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(count, width)

    def forward(self, labels: Tensor) -> Tensor:
        embedded: Tensor = self.embedding_table(labels)
        return embedded


class _Attention(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, count, 3, self.num_heads, width // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(seen.transpose(1, 2).reshape(batch, count, width))
        return out


class _MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, _MLP_RATIO * width)
        self.act = nn.GELU(approximate="tanh")
        self.fc2 = nn.Linear(_MLP_RATIO * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(tokens)))
        return out


class _Block(nn.Module):
    """Attention and a perceptron, each with a norm that the steering shifts and scales, and a gate."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=_EPS)
        self.attn = _Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=_EPS)
        self.mlp = _MLP(width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, tokens: Tensor, steering: Tensor) -> Tensor:
        parts = self.adaLN_modulation(steering)[:, None].chunk(6, dim=-1)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = parts
        tokens = tokens + gate_1 * self.attn(self.norm1(tokens) * (1 + scale_1) + shift_1)
        out: Tensor = tokens + gate_2 * self.mlp(self.norm2(tokens) * (1 + scale_2) + shift_2)
        return out


class _Final(nn.Module):
    def __init__(self, width: int, numbers: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, elementwise_affine=False, eps=_EPS)
        self.linear = nn.Linear(width, numbers)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, tokens: Tensor, steering: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(steering)[:, None].chunk(2, dim=-1)
        out: Tensor = self.linear(self.norm_final(tokens) * (1 + scale) + shift)
        return out
