"""How large the embedding of a prompt is, without a text encoder and without torch: what a plan needs to make room."""

from __future__ import annotations

import json
from pathlib import Path

from taba_core.models.cards import Card

NUM_TOKENS = 77  # CLIP's context, and what DeepFloyd IF was trained with
# Width of what the published networks read; a directory says its own.
_PUBLISHED = {"if": 4096, "sd": 768, "sdxl": 2048, "sd3": 4096, "flux": 4096}


def prompt_embedding_shape(card: Card, location: str) -> tuple[int, int]:
    """(tokens, width) of `prompt_embeds` of one prompt.

    Args:
      card: of a text-conditional model.
      location: the pipeline's directory; the published width where there is none.
    """
    folder = "transformer" if card.family in ("sd3", "flux") else "unet"
    config = Path(location) / folder / "config.json"
    if not location or not config.is_file():
        return _num_tokens(card), _PUBLISHED[card.family]
    stated = json.loads(config.read_text())
    names = ("joint_attention_dim", "encoder_hid_dim", "cross_attention_dim")
    return _num_tokens(card), int(next(stated[name] for name in names if stated.get(name)))


def _num_tokens(card: Card) -> int:
    """Tokens of CLIP, of T5, or of CLIP and then T5 (Stable Diffusion 3)."""
    if card.family == "sd3":
        return NUM_TOKENS + (card.max_tokens or NUM_TOKENS)
    return card.max_tokens or NUM_TOKENS
