"""Photographs as a source give the crops that training and measuring have always had, and the errors on record."""

from __future__ import annotations

import json

import pytest
import torch

from taba_core.errors import UsageError
from taba_core.models.base import load_model
from taba_core.models.catalog import load_card
from taba_core.models.photos import content_of, load_photos
from taba_core.models.weights import BOX
from taba_core.training.data import PHOTOGRAPHS, list_sources, open_source
from taba_core.training.draws import StepDraws
from taba_core.training.heldout import epsilon_errors, examples
from taba_core.training.pictures import real

CPU = torch.device("cpu")


def means(images: torch.Tensor) -> list[float]:
    return [float(mean) for mean in images.mean((1, 2, 3))]


def test_the_crops_of_a_step_are_those_that_were_drawn_before_there_were_sources():
    crops = open_source(PHOTOGRAPHS).part("training").drawn(StepDraws(3, 8, CPU), 5, 16)
    assert crops.photo.tolist() == [6, 5, 2, 8, 9, 6, 5, 7]
    sides = [68.19, 88.578, 241.07, 290.665, 65.984, 101.432, 70.106, 74.485]
    assert crops.side.tolist() == pytest.approx(sides, abs=1e-3)
    expected = [-0.089091, -0.157945, -0.400714, -0.032741, 0.674539, -0.146873, -0.521288, -0.525346]
    assert means(crops.images) == pytest.approx(expected, abs=2e-6)


def test_held_out_crops_and_those_of_pictures_are_those_from_before():
    source, card = open_source(PHOTOGRAPHS), load_card("photo-adm")
    given = examples(object(), card, source, 6, region="held-out", seed=7)
    expected = [-0.208049, -0.168361, -0.173499, -0.60049, -0.852489, -0.247277]
    assert means(given.x_0) == pytest.approx(expected, abs=2e-6)
    assert given.crops.photo.tolist() == [0, 1, 2, 3, 4, 5]
    expected = [-0.084108, 0.030811, -0.367915, -0.766868]
    assert means(real(card, source, 4, seed=3)) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("name", ["photo-adm", "photo-dit"])
def test_the_networks_of_the_box_have_the_held_out_errors_on_record(name):
    facts = json.loads((BOX / f"{name}.json").read_text())
    recorded = dict(zip(facts["held_out_levels"], facts["held_out_errors"], strict=True))
    model, card = load_model(name), load_card(name)
    given = examples(model, card, open_source(PHOTOGRAPHS), 256, region="held-out", seed=7)
    found = epsilon_errors(model, card, given, seed=7, levels=(0, 7, 28))
    assert found == pytest.approx([recorded[level] for level in (0, 7, 28)], abs=5e-5)


def test_the_fingerprint_is_that_of_the_pictures_and_not_of_their_place(tmp_path):
    from PIL import Image

    assert open_source(PHOTOGRAPHS).fingerprint == content_of(load_photos()).fingerprint
    for place, colour in (("a", 10), ("b", 10), ("c", 11)):
        (tmp_path / place).mkdir()
        Image.new("RGB", (200, 100), (colour, 0, 0)).save(tmp_path / place / "x.png")
    a, b, c = (open_source(PHOTOGRAPHS, str(tmp_path / place)) for place in "abc")
    assert a.fingerprint == b.fingerprint != c.fingerprint
    assert a.facts() == {"photos": ["x.png"], "photos_fingerprint": a.fingerprint}


def test_sources_are_found_by_being_there_and_an_unknown_one_is_named():
    assert list_sources() == ["cifar-10", "imagenet-64", "photographs"]
    with pytest.raises(UsageError, match=r"unknown data source 'cifar10': did you mean cifar-10\?"):
        open_source("cifar10")
