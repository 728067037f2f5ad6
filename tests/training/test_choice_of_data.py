"""Which images a network is trained on: the recipe's or the user's, refused before work starts, kept on resuming."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from dataset_files import (
    cifar_batch,
    expect_tiny_cifar,
    expect_tiny_imagenet,
    write_cifar_archive,
    write_imagenet,
)
from PIL import Image

from taba_core.errors import UsageError
from taba_core.models.base import load_model
from taba_core.models.catalog import load_card
from taba_core.training.__main__ import main
from taba_core.training.box import BoxRun, check_data, train_box
from taba_core.training.data import source_for
from taba_core.training.draws import StepDraws
from taba_core.training.one import OneRun, train_one
from taba_core.training.recipe import Recipe, recipe_named, recipes
from taba_core.training.sources import cifar_10
from taba_core.training.trainee import DenoiserTrainee, ImageStream

TINY = Recipe(
    name="tiny",
    family="adm",
    data="cifar-10",
    image_size=32,
    network={
        "image_size": 32, "num_channels": 32, "num_res_blocks": 1, "channel_mult": [1], "attention_resolutions": [],
        "num_heads": 4, "use_scale_shift_norm": True, "learn_sigma": True, "class_cond": False, "dropout": 0.3,
    },
    schedule={"kind": "cosine", "N": 4000, "max_beta": 0.999},
    timestep_scale=0.25,
    objective="hybrid",
    batch_size=4,
    cpu_batch_size=4,
    learning_rate=1e-3,
    steps=2,
)  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The tiny CIFAR-10 at its default place, and a tiny recipe for it."""
    monkeypatch.setenv("TABA_CACHE", str(tmp_path / "cache"))
    archive = write_cifar_archive(tmp_path / "cache" / "datasets" / "cifar-10" / cifar_10.ARCHIVE)
    expect_tiny_cifar(monkeypatch, archive)
    monkeypatch.setitem(recipes(), "tiny", TINY)
    return tmp_path / "cache"


@pytest.fixture
def pictures(tmp_path):
    def folder(count):
        place = tmp_path / f"{count} pictures"
        place.mkdir()
        for i in range(count):
            Image.new("RGB", (200, 100), (20 * i, 0, 0)).save(place / f"{i:02}.png")
        return str(place)

    return folder


def test_the_recipe_says_the_images_and_the_user_may_say_others(pictures):
    assert source_for(TINY).name == "cifar-10"
    assert source_for(recipe_named("photo-adm")).name == "photographs"
    assert source_for(recipe_named("photo-adm"), "cifar-10").names[0] == "airplane"
    place = pictures(2)
    assert source_for(TINY, "photographs").facts()["photos"][0] == "astronaut"
    for given in ({"photos": place}, {"path": place}, {"data": "photographs", "photos": place}):
        assert source_for(recipe_named("photo-adm"), **given).names == ("00.png", "01.png")


@pytest.mark.follows(" name two sources of images. Leave out --photos, or give it alone with --data ")
def test_two_sources_are_one_too_many(pictures):
    place = pictures(2)
    with pytest.raises(UsageError, match=r"photos=.* and data=cifar-10 name two sources of images"):
        source_for(TINY, photos=place)
    with pytest.raises(UsageError, match=r"photos=.* and data_path=.* name two sources of images"):
        source_for(recipe_named("photo-adm"), path=place, photos=place)
    assert source_for(TINY).name == "cifar-10"
    assert source_for(TINY, "photographs", photos=place).names == ("00.png", "01.png")


@pytest.mark.follows(", whose crops have any size, or a network of the images' size.")
def test_images_of_another_size_are_refused():
    with pytest.raises(UsageError) as error:
        source_for(recipe_named("photo-tiny"), "cifar-10")
    assert str(error.value) == (
        "photo-tiny is trained on images of 16x16 pixels, and those of cifar-10 have 32x32. Use --data photographs, "
        "whose crops have any size, or a network of the images' size."
    )
    assert source_for(recipe_named("photo-tiny"), "photographs").image_size is None
    assert source_for(recipe_named("adm-32"), "cifar-10").image_size == 32


@pytest.mark.follows(" classes apart, and ")
def test_more_classes_than_a_network_tells_apart_are_refused(pictures):
    with pytest.raises(
        UsageError, match=r"photo-dit tells 10 classes apart, and photographs has 11\. Use data of at mo"
    ):
        source_for(recipe_named("photo-dit"), photos=pictures(11))
    assert len(source_for(recipe_named("photo-dit"), photos=pictures(10)).names) == 10


def test_the_batch_of_a_step_is_the_same_however_many_workers_share_it():
    device = torch.device("cpu")

    def batch(worker=0, workers=1):
        draws = StepDraws(5, 6, device, worker, workers)
        stream = ImageStream(source_for(TINY).part("training"), draws, 32)
        return DenoiserTrainee(TINY, draws, stream).batch(3)

    whole = batch()
    for key, value in whole.items():
        parts = torch.stack([batch(worker, 3)[key] for worker in range(3)], dim=1)
        assert torch.equal(parts.flatten(0, 1), value), key
    assert {*whole} == {"x_0", "eps", "t"} and len(whole["x_0"]) == 6


def run(out, **fields) -> OneRun:
    return OneRun("tiny", out, **{"held_out": 4, "picture_rows": 1} | fields)


def test_a_network_is_trained_on_a_data_set_for_its_recipes_length_measured_and_loaded(tmp_path, pictures):
    file = train_one(run(tmp_path / "out"))
    facts = json.loads(file.with_suffix(".json").read_text())
    assert (facts["steps"], facts["images"], facts["data"]) == (2, 8, "cifar-10")
    assert facts["data_fingerprint"] == source_for(TINY).fingerprint
    assert len(facts["held_out_errors"]) == 10 and "photos" not in facts
    place = str(tmp_path / "out" / "trained-tiny" / "card.yaml")
    card, model = load_card(place), load_model(place)
    assert (card.train_set, card.image_size) == ("cifar-10", 32)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.eps(x, 5.0, {}), model.eps(x, 5.0, {}))  # without the dropout of its training
    picture = np.asarray(Image.open(file.with_suffix(".png")))
    real = np.concatenate([cifar_batch(name)["data"] for name in cifar_10.BATCHES if name != "test_batch"])
    # Below the samples two rows of ten training images, twice as large; the first of them is one of the fifty.
    corner = picture[-132:-68:2, :64:2].transpose(2, 0, 1)
    assert (np.abs(real.reshape(-1, 3, 32, 32).astype(int) - corner).max((1, 2, 3)) <= 1).sum() == 1

    # And does not go on with other images.
    with pytest.raises(
        UsageError, match=r"of another run: settings\.data is '\w{24}' there and '\w{24}' now"
    ):
        train_one(run(tmp_path / "out", data="photographs", photos=pictures(2)))
    with pytest.raises(UsageError, match=r"of another run: settings\.data"):
        train_one(run(tmp_path / "out", data="photographs"))


@pytest.mark.follows("give either a time budget (seconds) or a number of steps, not both or neither.")
def test_a_network_without_a_length_of_its_own_is_given_one_and_only_one(tmp_path, monkeypatch):
    monkeypatch.setitem(recipes(), "tiny", TINY.model_copy(update={"steps": None}))
    for both in ({}, {"seconds": 5.0, "steps": 1}):
        with pytest.raises(UsageError, match="not both or neither"):
            train_one(run(tmp_path / "out", **both))
    assert train_one(run(tmp_path / "out", steps=1)).is_file()


@pytest.mark.follows("give either --minutes or --steps, not both or neither.")
def test_the_box_is_given_a_length_and_only_one(tmp_path):
    out = tmp_path / "out"
    for names, lengths in (
        ((), {}),
        (("photo-tiny", "photo-adm"), {}),
        (("photo-tiny",), {"minutes": 1.0, "steps": 1}),
    ):
        with pytest.raises(UsageError, match="give either --minutes or --steps"):
            train_box(BoxRun(out, names=names, **lengths))
    options = ("--held-out", "2", "--picture-rows", "1", "--batch-size", "2")
    assert train_box(BoxRun(out, steps=1, names=("photo-tiny",), options=options)) == {
        "photo-tiny": "trained"
    }
    assert json.loads((out / "photo-tiny.json").read_text())["steps"] == 1


def test_one_command_says_that_images_are_not_here_before_it_trains(cache, tmp_path, capsys):
    (cache / "datasets" / "cifar-10" / cifar_10.ARCHIVE).unlink()
    assert main(["adm-32", "--out", str(tmp_path / "out")]) == 2
    assert "cifar-10 is not here: neither" in capsys.readouterr().err
    assert main(["box", "--out", str(tmp_path / "out"), "--minutes", "1", "--data", "cifar-10"]) == 2
    assert not (tmp_path / "out").exists()


def test_no_network_of_several_is_begun_where_one_cannot_take_the_images(tmp_path, monkeypatch):
    with pytest.raises(
        UsageError, match="photo-autoencoder is trained on images of 64x64 pixels, and those of cifar-10"
    ):
        check_data(BoxRun(tmp_path, steps=1), data="cifar-10")
    expect_tiny_imagenet(monkeypatch)
    place = str(write_imagenet(tmp_path / "imagenet"))
    # Thirty images of a thousand classes: the autoencoder takes them, the transformer of ten classes does not.
    check_data(BoxRun(tmp_path, steps=1, names=("photo-ldm",)), data="imagenet-64", data_path=place)
    with pytest.raises(UsageError, match="photo-dit tells 10 classes apart, and imagenet-64 has 1000"):
        check_data(BoxRun(tmp_path, steps=1, names=("photo-dit",)), data="imagenet-64", data_path=place)


def test_taba_train_passes_the_images_on(tmp_path):
    """The command and its process, which have the published rules: ten images a batch are too few."""
    command = [sys.executable, "-m", "workflows", "train", "adm-32", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (
        done.returncode == 2
        and "has 10 images of 3,072 values, and a batch has 10,000" in done.stdout + done.stderr
    )
    done = subprocess.run(
        [*command, "--data", "photographs", "--data-path", str(tmp_path / "none")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "none" in done.stdout + done.stderr
    assert not (tmp_path / "out").exists()
