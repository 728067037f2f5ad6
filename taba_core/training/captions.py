"""Captions made from facts of a crop in a fixed grammar, as words and as token ids.

    a close view of the temple, bright, mostly red, plain

A caption says the photograph, the closeness, the brightness, the main colour, and whether the crop is plain or busy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taba_core.models.crops import crop_sides, photos_of_crops, real_crops
from taba_core.models.photos import Photo
from taba_core.models.prompt_tokens import NUM_TOKENS
from taba_core.training.crops import Crops

# Axes: B crops, S pixels of a side, L = 77 token positions.

SPECIAL = ("<pad>", "</s>", "<unk>")
CLOSENESS, BRIGHTNESS = ("close", "middle", "wide"), ("dark", "medium", "bright")
TEXTURE = ("busy", "mixed", "plain")
COLOURS = ("black", "grey", "white", "red", "orange", "yellow", "green", "cyan", "blue", "purple")
CAPTION_SIZE = 32  # pixels of a side of the crops that captions describe
_CLOSE, _WIDE = 80.0, 160.0  # pixels of a crop's side below which a view is close, above which it is wide
_DARK, _BRIGHT = 0.3, 0.6  # mean luminance, 0 to 1
_GREY_CHROMA = 0.1  # largest minus smallest channel of the mean colour
_FLAT_STEP = 0.05  # mean absolute difference to the neighbours, images in [-1, 1]
_BUSY, _PLAIN = 0.25, 0.6  # share of flat pixels
# Upper ends of the sectors of hue in degrees.
_HUES = (
    (15, "red"), (42, "orange"), (70, "yellow"), (160, "green"), (200, "cyan"), (255, "blue"), (335, "purple"),
    (360, "red"),
)  # fmt: skip
_GRAMMAR = [
    "a",
    "{closeness}",
    "view",
    "of",
    "the",
    "{photo}",
    ",",
    "{brightness}",
    ",",
    "mostly",
    "{colour}",
    ",",
    "{texture}",
]


class Facts(NamedTuple):
    """Indices into the word lists above (`photo`: into the photographs), int64 (B,) each."""

    closeness: Tensor
    photo: Tensor
    brightness: Tensor
    colour: Tensor
    texture: Tensor


def facts_of(crops: Crops) -> Facts:
    """The facts of crops."""
    images = (crops.images + 1.0) / 2.0
    mean = images.mean((2, 3))
    luminance = mean @ _constant((0.299, 0.587, 0.114), mean.device)
    return Facts(
        closeness=(crops.side >= _CLOSE).long() + (crops.side >= _WIDE).long(),
        photo=crops.photo,
        brightness=(luminance >= _DARK).long() + (luminance >= _BRIGHT).long(),
        colour=_colour(mean, luminance),
        texture=_texture(crops.images),
    )


def captions_of_crops(photos: Sequence[Photo], crop_ids: NDArray[np.int64], *, seed: int) -> list[str]:
    """The captions of the crops that `models.crops.real_crops` makes, by their facts at 32x32 pixels."""
    chosen = photos_of_crops(len(photos), crop_ids, seed=seed)
    sides = np.empty(len(crop_ids))
    for index in np.unique(chosen):
        rows = chosen == index
        sides[rows] = crop_sides(photos[index], crop_ids[rows], seed=seed)
    images = real_crops(photos, crop_ids, seed=seed, size=CAPTION_SIZE)
    crops = Crops(torch.from_numpy(images), torch.from_numpy(chosen), torch.from_numpy(sides))
    return CaptionGrammar([photo.name for photo in photos]).texts(facts_of(crops))


class CaptionGrammar:
    """Words, token ids and tokenizer of the captions about some photographs.

    Args:
      photo_names: names of the photographs; each is one word of the vocabulary, without punctuation.
    """

    def __init__(self, photo_names: Sequence[str]) -> None:
        self.photos = _one_word_each(photo_names)
        words = [word for word in _GRAMMAR if not word.startswith("{")]
        lists = (CLOSENESS, self.photos, BRIGHTNESS, COLOURS, TEXTURE)
        self.vocabulary = tuple(dict.fromkeys((*SPECIAL, *words, *(word for part in lists for word in part))))
        self._slots = dict(zip(Facts._fields, lists, strict=True))
        self._id = {word: index for index, word in enumerate(self.vocabulary)}

    def texts(self, facts: Facts) -> list[str]:
        """The captions of B crops."""
        rows = torch.stack(list(facts), dim=1).tolist()
        return [self._text(dict(zip(Facts._fields, row, strict=True))) for row in rows]

    def ids(self, facts: Facts, empty: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Token ids and mask of B captions, int64 (B, L) each, as the tokenizer makes them of the texts.

        Args:
          empty: rows whose caption is left empty, bool (B,).
        """
        device = facts.photo.device
        ids = torch.zeros((len(facts.photo), NUM_TOKENS), dtype=torch.int64, device=device)
        for place, word in enumerate(_GRAMMAR):
            slot = word.strip("{}")
            if slot == word:
                ids[:, place] = self._id[word]
            else:
                table = _constant(tuple(self._id[w] for w in self._slots[slot]), device)
                ids[:, place] = table[getattr(facts, slot)]
        ids[:, len(_GRAMMAR)] = self._id["</s>"]
        if empty is not None:
            nothing = torch.zeros_like(ids[:1])
            nothing[:, 0] = self._id["</s>"]
            ids = torch.where(empty[:, None], nothing, ids)
        return ids, (ids != self._id["<pad>"]).long()

    def tokenizer(self) -> Any:
        """The `tokenizers.Tokenizer` of these captions: one token a word, the end token after the last."""
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

        backend = Tokenizer(models.WordLevel(dict(self._id), unk_token="<unk>"))
        backend.normalizer = normalizers.Lowercase()
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        backend.add_special_tokens(list(SPECIAL))
        backend.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", self._id["</s>"])]
        )
        return backend

    def _text(self, row: dict[str, int]) -> str:
        words = [w if w[0] != "{" else self._slots[w.strip("{}")][row[w.strip("{}")]] for w in _GRAMMAR]
        return " ".join(words).replace(" ,", ",")


@lru_cache(maxsize=64)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A small table, sent to its device once: sending it at every step would wait for a GPU each time."""
    return torch.tensor(values, device=device)


def _colour(mean: Tensor, luminance: Tensor) -> Tensor:
    """Index of the main colour of mean colours (B, 3) in [0, 1]: by hue, or by luminance where there is none."""
    red, green, blue = mean.unbind(1)
    chroma = mean.amax(1) - mean.amin(1)
    safe = chroma.clamp(min=1e-6)
    sector = torch.where(
        mean.argmax(1) == 0,
        ((green - blue) / safe) % 6.0,
        torch.where(mean.argmax(1) == 1, (blue - red) / safe + 2.0, (red - green) / safe + 4.0),
    )
    ends = _constant(tuple(end / 60.0 for end, _ in _HUES[:-1]), mean.device)
    names = _constant(tuple(COLOURS.index(name) for _, name in _HUES), mean.device)
    hue = names[torch.bucketize(sector.contiguous(), ends)]
    grey = (luminance >= 0.15).long() + (luminance >= 0.85).long()
    return torch.where(chroma < _GREY_CHROMA, grey, hue)


def _texture(images: Tensor) -> Tensor:
    """0 busy, 1 mixed, 2 plain: by the share of pixels that differ little from the next row and column."""
    down = (images[:, :, 1:, :-1] - images[:, :, :-1, :-1]).abs()
    right = (images[:, :, :-1, 1:] - images[:, :, :-1, :-1]).abs()
    flat = ((down + right) / 2.0 < _FLAT_STEP).all(dim=1).float().mean((1, 2))
    return (flat >= _BUSY).long() + (flat >= _PLAIN).long()


def _one_word_each(names: Sequence[str]) -> tuple[str, ...]:
    """Each name as one lower-case word of letters and digits, all different."""
    words: list[str] = []
    for name in names:
        stem = re.sub(r"[^a-z0-9]+", "", name.rsplit(".", 1)[0].lower()) or "photo"
        word, count = stem, 2
        while word in words:
            word, count = f"{stem}x{count}", count + 1
        words.append(word)
    return tuple(words)
