"""ImageNet-64 as it is published: mapped or converted once, never held whole, with images that are never trained on."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import zipfile
from collections import namedtuple

import numpy as np
import pytest
import torch
from dataset_files import (
    IMAGENET_BATCH,
    expect_tiny_imagenet,
    imagenet_batch,
    imagenet_bytes,
    write_imagenet,
    write_imagenet_archives,
)

from taba_core.errors import UsageError, WorkError
from taba_core.training import image_batches
from taba_core.training.data import open_source
from taba_core.training.draws import StepDraws
from taba_core.training.sources import imagenet_64

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The default place of a data set of thirty images."""
    monkeypatch.setenv("TABA_CACHE", str(tmp_path / "cache"))
    expect_tiny_imagenet(monkeypatch)
    return tmp_path / "cache" / "datasets" / "imagenet-64"


def scaled(data: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(data.reshape(-1, 3, 64, 64)).float() / 127.5 - 1.0


def training_images() -> torch.Tensor:
    return scaled(np.concatenate([imagenet_batch(stem)["data"] for stem in imagenet_64.TRAINING]))


def everything(part) -> torch.Tensor:
    return part.at(torch.arange(len(part)), 64).images


WRITTEN = {
    "stored .npz files": lambda folder: write_imagenet(folder, "stored"),
    "compressed .npz files": lambda folder: write_imagenet(folder, "compressed"),
    "pickles": lambda folder: write_imagenet(folder, "pickle"),
    "archives of .npz files": lambda folder: write_imagenet_archives(folder, "stored"),
    "archives of pickles": lambda folder: write_imagenet_archives(folder, "pickle"),
    "unpacked archives": lambda folder: [
        shutil.unpack_archive(file, folder)
        for file in write_imagenet_archives(folder, "stored").glob("*.zip")
    ],
}


@pytest.mark.parametrize("written", WRITTEN)
def test_every_published_form_gives_the_same_images(written, cache, tmp_path):
    WRITTEN[written](cache)
    source = open_source("imagenet-64")
    part = source.part("training")
    assert torch.equal(everything(part), training_images())
    labels = np.concatenate([imagenet_batch(stem)["labels"] for stem in imagenet_64.TRAINING])
    assert part.at(torch.arange(30), 64).photo.tolist() == (labels - 1).tolist()
    assert torch.equal(everything(source.part("held-out")), scaled(imagenet_batch("val_data")["data"]))
    assert (
        source.fingerprint == open_source("imagenet-64", str(write_imagenet(tmp_path / "other"))).fingerprint
    )
    # Only what is compressed or pickled is converted, and its images are mapped from files in any case.
    converted = list((cache / "converted").glob("*-data.npy"))
    assert len(converted) == (0 if written in ("stored .npz files", "unpacked archives") else 11)
    for array in part.pixels._parts:
        while isinstance(array.base, np.ndarray) and not isinstance(array, np.memmap):
            array = array.base
        assert isinstance(array, np.memmap) and array.mode == "r"


def test_a_conversion_is_said_and_is_made_once(cache, capsys, monkeypatch):
    write_imagenet(cache, "compressed")
    first = open_source("imagenet-64")
    said = capsys.readouterr().out
    assert said.count("converting") == 11
    assert (
        f"imagenet-64: converting train_data_batch_1.npz once (0.00 GB) into {cache / 'converted'}, from"
        in said
    )
    monkeypatch.setattr(image_batches, "_whole", lambda file: pytest.fail("read again"))
    again = open_source("imagenet-64")
    assert "converting" not in capsys.readouterr().out
    assert torch.equal(everything(again.part("training")), everything(first.part("training")))


def test_a_file_that_changed_is_converted_anew(cache):
    write_imagenet(cache, "compressed")
    before = open_source("imagenet-64").fingerprint
    other = imagenet_batch("train_data_batch_4") | {"data": imagenet_batch("another", IMAGENET_BATCH)["data"]}
    np.savez_compressed(cache / "train_data_batch_4.npz", **other)
    source = open_source("imagenet-64")
    assert torch.equal(everything(source.part("training"))[9:12], scaled(other["data"]))
    assert source.fingerprint != before


def test_the_fingerprint_reads_the_images_once(cache, monkeypatch):
    write_imagenet(cache)
    found = open_source("imagenet-64").fingerprint
    monkeypatch.setattr(imagenet_64, "_hash", lambda batches: pytest.fail("read again"))
    assert open_source("imagenet-64").fingerprint == found


def test_without_a_validation_set_the_last_images_are_held_out_and_never_drawn(cache, tmp_path):
    write_imagenet(cache, validation=False)
    source = open_source("imagenet-64")
    training, held_out = source.part("training"), source.part("held-out")
    assert torch.equal(everything(training), training_images()[:26])
    assert torch.equal(everything(held_out), training_images()[26:])
    drawn = {
        row.numpy().tobytes()
        for step in range(12)
        for row in training.drawn(StepDraws(0, 32, CPU), step, 64).images
    }
    assert drawn == {row.numpy().tobytes() for row in training_images()[:26]}
    assert source.facts()["held_out"] == "the last of the training set"
    whole = open_source("imagenet-64", str(write_imagenet(tmp_path / "whole")))
    assert whole.fingerprint != source.fingerprint  # the numbers of a step mean other images


def test_row_b_of_step_k_is_the_image_that_its_number_says_however_many_workers(cache):
    write_imagenet(cache)
    part = open_source("imagenet-64").part("training")
    digest = hashlib.blake2b(b"2/image/9", digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    numbers = (torch.rand(6, generator=generator, dtype=torch.float64) * 30).long()
    assert torch.equal(part.drawn(StepDraws(2, 6, CPU), 9, 64).images, training_images()[numbers])
    for worker in range(3):
        own = part.drawn(StepDraws(2, 6, CPU, worker, 3), 9, 64).images
        assert torch.equal(own, training_images()[numbers[worker::3]])


def test_images_read_ahead_are_those_of_their_step(cache):
    write_imagenet(cache)
    draws, part = StepDraws(0, 5, CPU), open_source("imagenet-64").part("training")
    in_turn = [part.drawn(draws, step, 64).images for step in range(4)]
    for step in (3, 0, 2, 1):  # of which none was expected next
        assert torch.equal(part.drawn(draws, step, 64).images, in_turn[step])


def spoil_labels(cache):
    batch = imagenet_batch("train_data_batch_5")
    np.savez(cache / "train_data_batch_5.npz", **batch | {"labels": batch["labels"] * 0})


def spoil_shape(cache):
    batch = imagenet_batch("train_data_batch_5")
    np.savez(cache / "train_data_batch_5.npz", **batch | {"data": batch["data"][:, :3072]})


FAULTS = {
    "a batch is missing": (lambda c: (c / "train_data_batch_7.npz").unlink(), "train_data_batch_7 is missing. Downl"),
    "truncated": (
        lambda c: (c / "train_data_batch_5.npz").write_bytes(imagenet_bytes("train_data_batch_5", "stored")[:9000]),
        "train_data_batch_5 cannot be used: it is damaged or something else (BadZipFile",
    ),
    "another file": (
        lambda c: (c / "train_data_batch_5.npz").write_bytes(b"<html>"),
        "train_data_batch_5 cannot be used: it is damaged or something else (BadZipFile",
    ),
    "without data": (
        lambda c: np.savez(c / "train_data_batch_5.npz", images=np.zeros(3)),
        "train_data_batch_5 cannot be used: it is damaged or something else (KeyError",
    ),
    "other shapes": (spoil_shape, "its 'data' is uint8 (3, 3072), and images of 64x64 pixels are uint8 (n, 12288)"),
    "other labels": (spoil_labels, "its labels run from 0 to 0, and classes from 1 to 1000"),
}  # fmt: skip


@pytest.mark.follows(" does not hold ", "5, part 2 has 6 to 10) and put it there.")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_file_is_named_and_the_right_one_is_put_in_its_place(fault, cache):
    spoil, reason = FAULTS[fault]
    spoil(write_imagenet(cache))
    with pytest.raises(UsageError) as error:
        open_source("imagenet-64")
    message = str(error.value)
    assert message.startswith(f"{cache} does not hold imagenet-64 as it is published: ") and reason in message
    stem = "train_data_batch_7" if fault == "a batch is missing" else "train_data_batch_5"
    if fault != "a batch is missing":
        assert (
            f"Remove {cache / 'train_data_batch_5.npz'}, then download it again from {imagenet_64.URL}"
            in message
        )
        (cache / "train_data_batch_5.npz").unlink()
    (cache / f"{stem}.npz").write_bytes(imagenet_bytes(stem, "stored"))
    assert torch.equal(everything(open_source("imagenet-64").part("training")), training_images())


@pytest.mark.follows(", then download it again")
def test_a_damaged_archive_and_a_damaged_member_of_one_are_refused(cache):
    write_imagenet_archives(cache, "pickle")
    bad = cache / "Imagenet64_train_part2.zip"
    right = bad.read_bytes()
    bad.write_bytes(right[:5000])
    with pytest.raises(UsageError, match=r"Imagenet64_train_part2\.zip is no whole zip archive"):
        open_source("imagenet-64")
    with zipfile.ZipFile(bad, "w") as archive:
        for stem in imagenet_64.TRAINING[5:]:
            archive.writestr(stem, pickle.dumps({"data": 1})[:-1])
    with pytest.raises(
        UsageError, match=r"train_data_batch_6 cannot be used: .* Remove .*part2\.zip, then download it"
    ):
        open_source("imagenet-64")
    bad.unlink()
    bad.write_bytes(right)
    assert len(open_source("imagenet-64").part("training")) == 30


class Code:
    def __reduce__(self):
        return (os.system, ("echo ran > ran",))


def test_a_pickle_that_would_run_code_is_refused_before_it_does(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_imagenet(cache, "pickle")
    (cache / "train_data_batch_1").write_bytes(pickle.dumps({"data": Code(), "labels": [1]}))
    with pytest.raises(UsageError, match=r"it names posix\.system, and data are arrays alone"):
        open_source("imagenet-64")
    assert not (tmp_path / "ran").exists()


def test_another_number_of_images_is_refused(cache, monkeypatch):
    write_imagenet(cache)
    monkeypatch.undo()
    monkeypatch.setenv("TABA_CACHE", str(cache.parents[1]))
    assert (imagenet_64.NUM_TRAINING, imagenet_64.NUM_VALIDATION) == (1_281_167, 50_000)
    with pytest.raises(UsageError, match="it has 30 training images, and imagenet-64 has 1,281,167"):
        open_source("imagenet-64")
    monkeypatch.setattr(imagenet_64, "NUM_TRAINING", 30)
    with pytest.raises(UsageError, match="it has 5 validation images, and imagenet-64 has 50,000"):
        open_source("imagenet-64")


@pytest.mark.follows(
    "put its archives or the files in them into ", "or say which folder they are in (taba train: --data-path "
)
def test_where_it_is_not_the_message_says_where_from_and_where_to(cache, tmp_path):
    with pytest.raises(UsageError) as error:
        open_source("imagenet-64")
    assert str(error.value) == (
        "imagenet-64 is not here: none of its batches (train_data_batch_1.npz to train_data_batch_10.npz) and none of "
        f"its archives (Imagenet64_train_part1_npz.zip, Imagenet64_train_part2_npz.zip) is in {cache}. Download the "
        "downsampled ImageNet 64x64 (npz format, 12 GB) from https://image-net.org/download-images, where it asks for "
        f"a free account, and put its archives or the files in them into {cache}, or say which folder they are in "
        "(taba train: --data-path FOLDER; study training: --set training.data_path=FOLDER)."
    )
    elsewhere = write_imagenet_archives(tmp_path / "elsewhere", "stored")
    assert len(open_source("imagenet-64", str(elsewhere)).part("training")) == 30
    shutil.copytree(elsewhere, cache, dirs_exist_ok=True)
    assert len(open_source("imagenet-64").part("training")) == 30


@pytest.mark.follows(" GB as it is read. Set TABA_CACHE to a folder with more room, or save the batches with")
def test_a_full_disk_is_told_before_it_is_full(cache, tmp_path, monkeypatch):
    write_imagenet(cache, "compressed")
    usage = namedtuple("usage", "total used free")
    small = {cache / "converted": 1000}
    monkeypatch.setattr(image_batches.shutil, "disk_usage", lambda path: usage(0, 0, small.get(path, 10**9)))
    with pytest.raises(UsageError, match=r"has room for 0\.00 GB, and a batch takes 0\.00 GB as it is read"):
        open_source("imagenet-64")
    # One way: another cache; the other: no compression.
    with monkeypatch.context() as patch:
        patch.setenv("TABA_CACHE", str(tmp_path / "large"))
        assert len(open_source("imagenet-64", str(cache)).part("training")) == 30
    write_imagenet(cache, "stored")
    assert len(open_source("imagenet-64").part("training")) == 30


@pytest.mark.follows("). Set TABA_CACHE to a folder that can be.")
def test_a_cache_that_cannot_be_written_is_set_elsewhere(cache, tmp_path, monkeypatch):
    folder = write_imagenet(tmp_path / "data", "compressed")
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("TABA_CACHE", str(tmp_path / "file"))
    with pytest.raises(WorkError, match="cannot be written"):
        open_source("imagenet-64", str(folder))
    monkeypatch.setenv("TABA_CACHE", str(tmp_path / "elsewhere"))
    assert len(open_source("imagenet-64", str(folder)).part("training")) == 30
