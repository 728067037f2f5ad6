"""Tiny data sets in the formats of the published ones, and the rules of the sources set to their sizes."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import zipfile
from typing import ClassVar

import numpy as np

from taba_core.training.sources import cifar_10, imagenet_64

CIFAR_BATCH = 10  # images of a batch
IMAGENET_BATCH, IMAGENET_VALIDATION, IMAGENET_HELD_OUT = 3, 5, 4


class Python2Pickler(pickle._Pickler):
    """Writes texts as Python 2 wrote them, which is how CIFAR-10 is published: plain strings of bytes."""

    dispatch: ClassVar[dict] = dict(pickle._Pickler.dispatch)

    def save_string(self, text):
        data = text.encode("latin-1") if isinstance(text, str) else bytes(text)
        short = len(data) < 256
        self.write(b"U" + bytes([len(data)]) if short else b"T" + len(data).to_bytes(4, "little"))
        self.write(data)
        self.memoize(text)

    dispatch[bytes] = dispatch[str] = save_string


def python2_pickle(value) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def cifar_batch(name: str, count: int = CIFAR_BATCH) -> dict:
    """A batch whose pixels and classes follow from its name."""
    drawn = np.random.default_rng(list(name.encode()))
    return {
        "batch_label": f"tiny {name}",
        "labels": drawn.integers(0, 10, count).tolist(),
        "data": drawn.integers(0, 256, (count, 3072), dtype=np.uint8),
        "filenames": [f"{i}.png" for i in range(count)],
    }


def cifar_files(**changed) -> dict[str, bytes]:
    """The six files by name, with others in their place."""
    batches = {name: cifar_batch(name) for name in cifar_10.BATCHES}
    files = {name: python2_pickle(batch) for name, batch in batches.items()}
    return {name: content for name, content in {**files, **changed}.items() if content is not None}


def write_cifar_archive(path, files=None):
    """The archive as it is published: a folder of the six files and two others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in {
            "batches.meta": b"x",
            "readme.html": b"<p>",
            **(files or cifar_files()),
        }.items():
            entry = tarfile.TarInfo(f"{cifar_10.FOLDER}/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def write_cifar_folder(path, files=None):
    path.mkdir(parents=True, exist_ok=True)
    for name, content in (files or cifar_files()).items():
        (path / name).write_bytes(content)
    return path


def expect_tiny_cifar(monkeypatch, archive=None, files=None):
    """Ten images a batch, and the sums of these files, in place of the published ones."""
    monkeypatch.setattr(cifar_10, "IMAGES_A_BATCH", CIFAR_BATCH)
    sums = {name: hashlib.md5(content).hexdigest() for name, content in (files or cifar_files()).items()}
    monkeypatch.setattr(cifar_10, "BATCHES", {name: sums.get(name, "") for name in cifar_10.BATCHES})
    if archive is not None:
        monkeypatch.setattr(cifar_10, "ARCHIVE_MD5", hashlib.md5(archive.read_bytes()).hexdigest())


def imagenet_batch(stem: str, count: int | None = None) -> dict[str, np.ndarray]:
    """A batch whose pixels and labels follow from its name."""
    count = count or (IMAGENET_VALIDATION if stem == imagenet_64.HELD_OUT else IMAGENET_BATCH)
    drawn = np.random.default_rng(list(stem.encode()))
    data = drawn.integers(0, 256, (count, 12288), dtype=np.uint8)
    return {"data": data, "labels": drawn.integers(1, 1001, count), "mean": data.mean(0)}


def imagenet_bytes(stem: str, kind: str) -> bytes:
    """A batch as a file: "stored" or "compressed" .npz, or a "pickle" of Python 3."""
    batch, file = imagenet_batch(stem), io.BytesIO()
    if kind == "pickle":
        return pickle.dumps(batch, protocol=3)
    {"stored": np.savez, "compressed": np.savez_compressed}[kind](file, **batch)
    return file.getvalue()


def write_imagenet(folder, kind: str = "stored", *, validation: bool = True):
    folder.mkdir(parents=True, exist_ok=True)
    suffix = "" if kind == "pickle" else ".npz"
    for stem in [*imagenet_64.TRAINING, *[imagenet_64.HELD_OUT] * validation]:
        (folder / f"{stem}{suffix}").write_bytes(imagenet_bytes(stem, kind))
    return folder


def write_imagenet_archives(folder, kind: str):
    """The three zip archives, as the site names them: batches 1 to 5, 6 to 10, and the validation set."""
    folder.mkdir(parents=True, exist_ok=True)
    named, suffix = ("", "") if kind == "pickle" else ("_npz", ".npz")
    parts = {"train_part1": imagenet_64.TRAINING[:5], "train_part2": imagenet_64.TRAINING[5:]}
    for part, stems in (parts | {"val": [imagenet_64.HELD_OUT]}).items():
        with zipfile.ZipFile(folder / f"Imagenet64_{part}{named}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for stem in stems:
                archive.writestr(f"Imagenet64_{part}{named}/{stem}{suffix}", imagenet_bytes(stem, kind))
    return folder


def expect_tiny_imagenet(monkeypatch):
    """Thirty training images, five for validation, in place of the published numbers."""
    monkeypatch.setattr(imagenet_64, "NUM_TRAINING", 10 * IMAGENET_BATCH)
    monkeypatch.setattr(imagenet_64, "NUM_VALIDATION", IMAGENET_VALIDATION)
    monkeypatch.setattr(imagenet_64, "NUM_HELD_OUT", IMAGENET_HELD_OUT)
