"""CIFAR-10 as it is published: read whole and safely, drawn by counted numbers, refused where it is something else."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from dataset_files import (
    CIFAR_BATCH,
    cifar_batch,
    cifar_files,
    expect_tiny_cifar,
    python2_pickle,
    write_cifar_archive,
    write_cifar_folder,
)

from taba_core.errors import UsageError
from taba_core.training.data import open_source
from taba_core.training.draws import StepDraws
from taba_core.training.plain_pickle import load_plain
from taba_core.training.sources import cifar_10

TRAINING = [name for name in cifar_10.BATCHES if name != "test_batch"]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TABA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "datasets" / "cifar-10"


@pytest.fixture
def archive(cache, monkeypatch):
    """The tiny archive at the default place."""
    path = write_cifar_archive(cache / cifar_10.ARCHIVE)
    expect_tiny_cifar(monkeypatch, path)
    return path


def pixels_of(names) -> np.ndarray:
    return np.concatenate([cifar_batch(name)["data"] for name in names]).reshape(-1, 3, 32, 32)


def labels_of(names) -> list[int]:
    return [label for name in names for label in cifar_batch(name)["labels"]]


def test_the_rules_are_those_of_the_published_files():
    assert (cifar_10.IMAGES_A_BATCH, len(TRAINING), cifar_10.SIDE) == (10_000, 5, 32)
    assert cifar_10.ARCHIVE_MD5 == "c58f30108f718f92721af3b95e74349a"


@pytest.mark.parametrize("held", ["archive", "folder", "the folder in it", "the archive itself"])
def test_archive_and_folder_give_the_same_images(held, archive, tmp_path):
    folder = write_cifar_folder(tmp_path / "other" / cifar_10.FOLDER)
    place = {
        "archive": None,
        "folder": str(folder.parent),
        "the folder in it": str(folder),
        "the archive itself": str(archive),
    }[held]
    source = open_source("cifar-10", place)
    part = source.part("training")
    everything = part.at(torch.arange(5 * CIFAR_BATCH), 32)
    assert torch.equal(everything.images, torch.from_numpy(pixels_of(TRAINING)).float() / 127.5 - 1.0)
    assert everything.photo.tolist() == labels_of(TRAINING)
    held_out = source.part("held-out")
    assert len(held_out) == CIFAR_BATCH
    assert torch.equal(
        held_out.at(torch.arange(CIFAR_BATCH), 32).images,
        torch.from_numpy(pixels_of(["test_batch"])).float() / 127.5 - 1.0,
    )
    assert source.fingerprint == open_source("cifar-10", str(archive)).fingerprint
    assert source.facts()["training_images"] == 50 and source.names[6] == "frog"


def test_row_b_of_step_k_is_the_image_that_its_number_says(archive):
    # The number of row 3 of step 7: the generator of step 7 of stream "image" of seed 11, its fourth uniform number,
    # times fifty images, rounded down. Drawn here by hand.
    digest = hashlib.blake2b(b"11/image/7", digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    u = torch.rand(6, generator=generator, dtype=torch.float64)
    number = int(float(u[3]) * 50)
    assert number == 22
    drawn = open_source("cifar-10").part("training").drawn(StepDraws(11, 6, CPU), 7, 32)
    expected = torch.from_numpy(pixels_of(TRAINING)[number]).float() / 127.5 - 1.0
    assert torch.equal(drawn.images[3], expected)  # as it is: no crop, not mirrored
    assert int(drawn.photo[3]) == labels_of(TRAINING)[number]


@pytest.mark.parametrize("workers", [2, 3])
def test_rows_do_not_depend_on_the_number_of_workers(workers, archive):
    part = open_source("cifar-10").part("training")
    for step in (0, 4):
        alone = part.drawn(StepDraws(1, 12, CPU), step, 32)
        parts = [part.drawn(StepDraws(1, 12, CPU, worker, workers), step, 32) for worker in range(workers)]
        assert torch.equal(torch.stack([p.images for p in parts], dim=1).flatten(0, 1), alone.images)
        assert torch.equal(torch.stack([p.photo for p in parts], dim=1).flatten(), alone.photo)


def test_every_image_is_drawn_and_none_of_the_test_batch(archive):
    part = open_source("cifar-10").part("training")
    rows = [part.drawn(StepDraws(0, 64, CPU), step, 32).images for step in range(8)]
    found = {row.numpy().tobytes() for batch in rows for row in batch}
    expected = {(torch.from_numpy(p).float() / 127.5 - 1.0).numpy().tobytes() for p in pixels_of(TRAINING)}
    assert found == expected


def test_a_counted_image_does_not_depend_on_its_company(archive):
    part = open_source("cifar-10").part("held-out")
    together = part.counted(range(20), 32, seed=5, stream="held-out")
    alone = part.counted([17], 32, seed=5, stream="held-out")
    assert torch.equal(together.images[17:18], alone.images)
    assert len({image.numpy().tobytes() for image in together.images}) > 5
    other = part.counted(range(20), 32, seed=6, stream="held-out")
    assert not torch.equal(together.photo, other.photo)


# Each fault, and what the message says of it; the way out is followed below.
FAULTS = {
    "no archive": (lambda path: path.write_bytes(b"<html>"), r"no whole gzip archive"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-3000]), r"no whole gzip archive \(EOFError"),
    "a batch is missing": (
        lambda path: write_cifar_archive(path, cifar_files(data_batch_3=None)), r"data_batch_3 is missing",
    ),
    "too few images": (
        lambda path: write_cifar_archive(
            path, cifar_files(data_batch_2=python2_pickle(cifar_batch("data_batch_2", 9)))
        ),
        r"data_batch_2 has 9 images of 3,072 values, and a batch has 10 of 3,072",
    ),
    "other shapes": (
        lambda path: write_cifar_archive(
            path, cifar_files(test_batch=python2_pickle({"data": np.zeros((10, 784), np.uint8), "labels": [0] * 10}))
        ),
        r"test_batch has 10 images of 784 values",
    ),
    "no bytes": (
        lambda path: write_cifar_archive(
            path, cifar_files(test_batch=python2_pickle({"data": np.zeros((10, 3072)), "labels": [0] * 10}))
        ),
        r"test_batch has no 'data' of bytes",
    ),
    "other classes": (
        lambda path: write_cifar_archive(
            path, cifar_files(test_batch=python2_pickle(cifar_batch("test_batch") | {"labels": [10] * 10}))
        ),
        r"test_batch has not one class from 0 to 9",
    ),
    "other images": (
        lambda path: write_cifar_archive(
            path, cifar_files(test_batch=python2_pickle(cifar_batch("data_batch_1")))
        ),
        r"the MD5 of cifar-10-python.tar.gz is not that of the published file",
    ),
}  # fmt: skip


@pytest.mark.follows(" again and put it there, or into ")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_archive_says_what_is_wrong_and_the_right_one_is_put_in_its_place(fault, archive, tmp_path):
    spoil, reason = FAULTS[fault]
    right = archive.read_bytes()
    spoil(archive)
    with pytest.raises(UsageError, match=reason) as error:
        open_source("cifar-10")
    assert str(error.value).startswith(f"{archive} is not cifar-10 as it is published: ")
    assert str(error.value).endswith(
        f". Download {cifar_10.URL} again and put it there, or into {archive.parent}, as it is."
    )
    archive.write_bytes(right)
    assert len(open_source("cifar-10").part("training")) == 50


def test_a_folder_with_another_file_is_refused_and_the_archive_put_there_is_read(archive, tmp_path):
    files = cifar_files(data_batch_4=python2_pickle(cifar_batch("another")))
    folder = write_cifar_folder(tmp_path / "mine" / cifar_10.FOLDER, files)
    with pytest.raises(UsageError, match="the MD5 of data_batch_4 is not that of the published file"):
        open_source("cifar-10", str(folder))
    shutil.copy(archive, folder)
    assert len(open_source("cifar-10", str(folder)).part("training")) == 50


@pytest.mark.follows(
    "(170 MB) on a machine with internet and put it into ",
    " as it is, or say where it lies (taba train: --data",
)
def test_where_it_is_not_the_message_says_where_from_and_where_to(cache, tmp_path, monkeypatch):
    with pytest.raises(UsageError) as error:
        open_source("cifar-10")
    assert str(error.value) == (
        f"cifar-10 is not here: neither cifar-10-python.tar.gz nor cifar-10-batches-py is at {cache}. Download "
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz (170 MB) on a machine with internet and put it into "
        f"{cache} as it is, or say where it lies (taba train: --data-path PATH; "
        "study training: --set training.data_path=PATH)."
    )
    elsewhere = write_cifar_archive(tmp_path / "elsewhere" / "renamed.tgz")
    expect_tiny_cifar(monkeypatch, elsewhere)
    assert len(open_source("cifar-10", str(elsewhere)).part("training")) == 50
    cache.mkdir(parents=True)
    shutil.copy(elsewhere, cache / cifar_10.ARCHIVE)
    assert len(open_source("cifar-10").part("training")) == 50


def test_without_the_tiny_rules_ten_images_are_too_few(cache):
    write_cifar_archive(cache / cifar_10.ARCHIVE)
    with pytest.raises(UsageError, match="has 10 images of 3,072 values, and a batch has 10,000 of 3,072"):
        open_source("cifar-10")


class Code:
    def __reduce__(self):
        return (os.system, ("echo ran > ran",))


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_would_run_code_is_refused_before_it_does(protocol, archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = cifar_files(data_batch_1=pickle.dumps({"data": Code()}, protocol=protocol))
    write_cifar_archive(archive, files)
    with pytest.raises(
        UsageError, match=r"data_batch_1 cannot be read: it names posix\.system, and data are arrays"
    ):
        open_source("cifar-10")
    assert not (tmp_path / "ran").exists()


def test_a_plain_pickle_holds_what_was_written():
    written = {"data": np.arange(6, dtype=np.uint8).reshape(2, 3), "labels": [1, 2], "batch_label": "x" * 300}
    for content in (python2_pickle(written), pickle.dumps(written, protocol=3)):
        found = load_plain(io.BytesIO(content))
        assert found["labels"] == [1, 2] and np.array_equal(found["data"], written["data"])
    with pytest.raises(ValueError, match="it holds no dict but a list"):
        load_plain(io.BytesIO(pickle.dumps([1])))
    with pytest.raises(ValueError, match=r"no whole pickle|truncated|ran out of input"):
        load_plain(io.BytesIO(python2_pickle(written)[:40]))
