"""The attention layers of a diffusers U-Net in the order in which one evaluation runs them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from taba_core.errors import UsageError

Part = Literal["down", "mid", "up"]


@dataclass(frozen=True, eq=False)
class AttentionLayer:
    """One attention layer.

    Attributes:
      module: diffusers' `Attention`.
      cross: whether it attends to the text; else to the image itself.
      index: its place among the layers of its kind, from 0, in order of execution.
      part, block: the block it is in: the `block`-th of its part.
      transformer: which of the block's transformers it is in, from 0.
    """

    module: Any
    cross: bool
    index: int
    part: Part
    block: int
    transformer: int


def no_attention_control(reason: str) -> str:
    """The message for a model whose attention no editor can control, for a reason, a clause."""
    return (
        f"editors control layers that attend to the image or to the text alone, and {reason}; use a Stable Diffusion "
        "or SDXL model, or the editor sdedit, which needs no such layers."
    )


def attention_layers(unet: Any) -> tuple[AttentionLayer, ...]:
    """All attention layers of a `UNet2DConditionModel` with transformer blocks, in order of execution.

    `unet.attn_processors` lists the middle block last; here it stands between the way down and the way up. SD 1.x has
    16 layers of each kind: down 0-5, middle 6, up 7-15; SDXL 70: down 0-23, middle 24-33, up 34-69.

    Raises:
      UsageError: a block whose attention is not one layer to the image and one to the text.
    """
    layers: list[AttentionLayer] = []
    for part, index, transformer, block in _transformer_blocks(unet):
        here = len(layers) // 2
        if block.attn2 is None or getattr(block, "only_cross_attention", False):
            raise UsageError(no_attention_control("this U-Net has blocks without one of the two"))
        for cross, module in ((False, block.attn1), (True, block.attn2)):
            layers.append(AttentionLayer(module, cross, here, part, index, transformer))
    return tuple(layers)


def _transformer_blocks(unet: Any) -> Iterator[tuple[Part, int, int, Any]]:
    """(part, index of the block in it, index of the transformer in the block, its transformer block)."""
    parts: tuple[tuple[Part, Any], ...] = (
        ("down", unet.down_blocks),
        ("mid", [unet.mid_block] if unet.mid_block is not None else []),
        ("up", unet.up_blocks),
    )
    for part, blocks in parts:
        for index, block in enumerate(blocks):
            for number, transformer in enumerate(getattr(block, "attentions", None) or ()):
                for inner in transformer.transformer_blocks:
                    yield part, index, number, inner
