"""Training the classifier of crops: reproducible, right about what can be told apart, and put into the box whole."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from taba_core.errors import UsageError
from taba_core.models.photos import Photo, load_photos
from taba_core.models.weights import file_sha256
from taba_core.training.classifier import COARSE, ClassifierTrainee, measured
from taba_core.training.draws import StepDraws
from taba_core.training.loop import Loop, LoopSettings
from taba_core.training.networks import build_network
from taba_core.training.one import OneRun, train_one
from taba_core.training.recipe import recipe_named
from taba_core.training.ship import ship
from taba_core.training.sources.photographs import Photographs
from taba_core.training.trainee import ImageStream

RECIPE = recipe_named("crop-classifier")


def striped(name: str, period: int) -> Photo:
    """Vertical stripes, alike in colour: only their width tells two of them apart."""
    dark = (np.arange(400) // period) % 2
    return Photo(
        name, np.ascontiguousarray(np.broadcast_to(255 * dark[None, :, None], (100, 400, 3)), np.uint8)
    )


def source_of(photos) -> Photographs:
    """These photographs as what is trained on."""
    source = Photographs()
    source.photos, source.names = photos, tuple(photo.name for photo in photos)
    return source


def trainee(photos, batch_size=32):
    draws = StepDraws(0, batch_size, torch.device("cpu"))
    return ClassifierTrainee(RECIPE, draws, ImageStream(source_of(photos).part("training"), draws, 32))


def test_stripes_of_two_widths_are_told_apart_after_a_few_steps(tmp_path):
    photos = [striped("broad", 30), striped("narrow", 10)]
    module = build_network(RECIPE, 0)
    before = measured(module, source_of(photos), 40, seed=1)
    loop = Loop(
        trainee(photos),
        module,
        LoopSettings(0, 32, 2e-3, steps=40, warmup_steps=5),
        tmp_path / "c.pt",
        lambda text: None,
    )
    loop.run(lambda loop: None, 1e9)
    after = measured(loop.average, source_of(photos), 40, seed=1)
    assert before["training_accuracy"] < 0.9
    assert after["training_accuracy"] == after["held_out_accuracy"] == 1.0
    assert after["confusion"] == [[20, *[0] * 9], [0, 20, *[0] * 8]]  # of ten classes
    assert loop.progress.curve[-1][1] < 0.2 < loop.progress.curve[0][1]


def test_a_quarter_of_the_crops_is_coarse_and_all_keep_their_photographs():
    photos = load_photos()
    of = trainee(photos, 2000)
    crops, batch = of.data(3), of.batch(3)
    assert torch.equal(batch["photo"], crops.photo) and batch["image"].shape == (2000, 3, 32, 32)
    again = trainee(photos, 2000).batch(3)
    assert all(torch.equal(batch[key], again[key]) for key in batch)
    blocks = batch["image"].reshape(-1, 3, 16, 2, 16, 2)
    coarse = (blocks == blocks[:, :, :, :1, :, :1]).flatten(1).all(1)
    # Four standard deviations of a share of 2000.
    assert float(coarse.float().mean()) == pytest.approx(COARSE, abs=4 * (0.25 * 0.75 / 2000) ** 0.5)
    assert torch.equal(batch["image"][~coarse], crops.images[~coarse])
    means = crops.images.reshape(-1, 3, 16, 2, 16, 2).mean((3, 5))
    torch.testing.assert_close(blocks[coarse][:, :, :, 0, :, 0], means[coarse])


def test_the_same_seed_trains_the_same_bits_and_ships_them(tmp_path):
    torch.set_num_threads(1)
    states = []
    for place in ("one", "two"):
        run = OneRun("crop-classifier", tmp_path / place, steps=3, batch_size=16, held_out=20)
        states.append(load_file(train_one(run)))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    ship(tmp_path / "one", tmp_path / "box", ["crop-classifier"])
    told = json.loads((tmp_path / "box" / "crop-classifier.json").read_text())
    shipped = tmp_path / "box" / "crop-classifier" / "weights.safetensors"
    assert file_sha256(shipped) == told["content"] and told["steps"] == 3 and told["measured_crops"] == 20
    found = load_file(shipped)
    assert found.keys() == states[0].keys()
    assert all(torch.equal(found[name], states[0][name]) for name in found)
    assert 0 <= told["held_out_accuracy"] <= 1 and np.array(told["confusion"]).sum() == 20


@pytest.mark.parametrize("name", ["crop-classifier", "photo-dit"])
def test_more_photographs_than_classes_are_refused_before_training(name, tmp_path):
    from PIL import Image

    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(11):
        Image.new("RGB", (80, 80), (index, 0, 0)).save(folder / f"{index:02d}.png")
    run = OneRun(name, tmp_path / "out", steps=1, photos=str(folder), batch_size=4, held_out=10)
    with pytest.raises(UsageError, match=f"{name} tells 10 classes apart, and photographs has 11"):
        train_one(run)
    (folder / "10.png").unlink()
    if name == "crop-classifier":  # the way out; the other would need an autoencoder first
        assert train_one(run).is_file()
