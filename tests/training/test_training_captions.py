"""Captions say what can be seen on a crop, and their token ids are the tokenizer's."""

from __future__ import annotations

import torch

from taba_core.models.photos import load_photos
from taba_core.models.prompt_tokens import PromptTokenizer
from taba_core.training.captions import CaptionGrammar, facts_of
from taba_core.training.crops import Crops, CropSource


def crop_of(pixels: torch.Tensor, side: float = 64.0) -> Crops:
    return Crops(pixels[None], torch.tensor([1]), torch.tensor([side], dtype=torch.float64))


def colour(red: float, green: float, blue: float) -> torch.Tensor:
    return (torch.tensor([red, green, blue]) * 2 - 1)[:, None, None].expand(3, 8, 8)


def text(crops: Crops) -> str:
    return CaptionGrammar(["cat", "temple"]).texts(facts_of(crops))[0]


def test_a_flat_bright_orange_close_view():
    assert text(crop_of(colour(1.0, 0.6, 0.2))) == "a close view of the temple, bright, mostly orange, plain"


def test_a_dark_wide_view_of_noise():
    noise = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.5 - 1.0
    assert text(crop_of(noise, 300.0)) == "a wide view of the temple, dark, mostly black, busy"


def test_hues_go_round_the_circle():
    found = [text(crop_of(colour(*rgb))).split("mostly ")[1].split(",")[0] for rgb in (
        (1, 0, 0), (1, 0.5, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (0.8, 0, 1), (1, 0, 0.1), (0.5, 0.5, 0.5),
    )]  # fmt: skip
    assert found == ["red", "orange", "yellow", "green", "cyan", "blue", "purple", "red", "grey"]


def test_ids_are_what_the_tokenizer_makes_of_the_texts():
    source = CropSource(load_photos(), "training")
    facts = facts_of(source.counted(range(200), 32, seed=0, stream="captions"))
    grammar = CaptionGrammar(source.names)
    empty = torch.arange(200) % 7 == 0
    ids, mask = grammar.ids(facts, empty)
    texts = ["" if nothing else caption for caption, nothing in zip(grammar.texts(facts), empty, strict=True)]
    tokens = PromptTokenizer(grammar.tokenizer(), "<pad>")(texts)
    assert torch.equal(ids, tokens.ids)
    assert torch.equal(mask, tokens.mask)
    assert len(set(texts)) > 60  # the facts vary


def test_names_of_photographs_become_words():
    assert CaptionGrammar(["My cat.png", "my-cat.jpg", "é.png"]).photos == ("mycat", "mycatx2", "photo")
