"""How large the embedding of a prompt is, without loading a text encoder: what a plan needs to make room."""

from __future__ import annotations

import json
from pathlib import Path

from taba_core.models.cards import Card
from taba_core.models.prompt_tokens import NUM_TOKENS

# Width of what the published networks read; a directory says its own.
_PUBLISHED = {"if": 4096, "sd": 768, "sdxl": 2048}


def prompt_embedding_shape(card: Card, location: str) -> tuple[int, int]:
    """(tokens, width) of `prompt_embeds` of one prompt.

    Args:
      card: of a text-conditional model.
      location: the pipeline's directory; the published width where there is none.
    """
    config = Path(location) / "unet" / "config.json"
    if not location or not config.is_file():
        return NUM_TOKENS, _PUBLISHED[card.family]
    stated = json.loads(config.read_text())
    return NUM_TOKENS, int(stated.get("encoder_hid_dim") or stated["cross_attention_dim"])
