"""What a text encoder reads of a prompt, told by its tokenizer alone: what a plan checks prompts against."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from taba_core.errors import UsageError
from taba_core.models.cards import Card
from taba_core.models.config_fields import tokenizer_folders

if TYPE_CHECKING:
    from taba_core.models.prompt_tokens import PromptTokenizer


def check_prompt_length(card: Card, location: str, prompt: str, what: str) -> None:
    """Refuse a prompt of which an encoder would read only the beginning.

    Args:
      card: of a text-conditional model.
      location: the pipeline's directory, which holds the tokenizers.
      what: what gave the prompt, as the message begins.
    Raises:
      UsageError: more tokens than an encoder reads (77 of CLIP), start and end marks counted; or a directory without
        a tokenizer.
    """
    for tokenizer in _tokenizers(card, location):
        count, limit = tokenizer.count(prompt), tokenizer.num_tokens
        if count > limit:
            raise UsageError(
                f"{what}: the prompt has {count} tokens, and the text encoder of {card.title} reads {limit}, its "
                f"start and end marks among them. Shorten it by {count - limit} or more."
            )


def unknown_words(card: Card, location: str, prompt: str) -> list[str]:
    """Words of a prompt that no encoder of the model knows, in their order; small vocabularies lack most words."""
    known = list(_tokenizers(card, location))
    words = dict.fromkeys(word.strip(",.;:!?\"'()") for word in prompt.lower().split())
    return [word for word in words if word and all(tokenizer.is_unknown(word) for tokenizer in known)]


def _tokenizers(card: Card, location: str) -> Iterator[PromptTokenizer]:
    """The tokenizer of every text encoder in a pipeline's directory."""
    from taba_core.models.prompt_tokens import NUM_TOKENS, load_clip_tokenizer, load_t5_tokenizer

    directory = Path(location)
    for folder, kind in tokenizer_folders(card.family, directory).items():
        if kind == "T5Tokenizer":
            yield load_t5_tokenizer(directory / folder, card.max_tokens or NUM_TOKENS)
        else:
            yield load_clip_tokenizer(directory / folder)
