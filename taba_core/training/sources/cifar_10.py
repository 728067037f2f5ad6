"""CIFAR-10 (Krizhevsky 2009): 50,000 images of 32x32 pixels in ten classes; the 10,000 of its test batch are held out.

Read from the archive as published (`cifar-10-python.tar.gz`) or from the folder in it, and held in memory (184 MB).
Images are not mirrored, as improved-diffusion does not mirror them.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from taba_core.errors import UsageError
from taba_core.training.data import data_source, dataset_folder
from taba_core.training.image_set import HeldPixels, ImageSet
from taba_core.training.plain_pickle import load_plain

NAME = "cifar-10"
ARCHIVE, FOLDER = "cifar-10-python.tar.gz", "cifar-10-batches-py"
URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
BATCHES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}  # MD5 of each file
IMAGES_A_BATCH = 10_000
SIDE = 32
CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


class _Images(NamedTuple):
    """Pixels uint8 (n, 3, 32, 32) and classes int64 (n,)."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


class Cifar10:
    """The images of an archive or folder.

    Args:
      path: either of them, or the folder they lie in.
    Raises:
      UsageError: nothing there, or not the published files; the message says what to download and where to put it.
    """

    name, names, image_size = NAME, CLASSES, SIDE

    def __init__(self, path: Path) -> None:
        place = _place(path)
        files = _unpacked(place) if place.is_file() else _in_folder(place)
        read = {name: _images(place, name, content) for name, content in files.items()}
        _check_sums(place, files)
        parts = [read[name] for name in BATCHES if name != "test_batch"]
        self._training = _Images(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
        self._held_out = read["test_batch"]

    @cached_property
    def fingerprint(self) -> str:
        """24 hex digits over all pixels and classes."""
        digest = hashlib.blake2b(NAME.encode(), digest_size=12)
        for array in (*self._training, *self._held_out):
            digest.update(f"/{array.shape}/".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def part(
        self, region: Literal["training", "held-out"], *, device: str | torch.device = "cpu"
    ) -> ImageSet:
        """The five training batches, or the test batch, in the memory of a device."""
        place = torch.device(device)
        images = self._training if region == "training" else self._held_out
        return ImageSet(HeldPixels(images.pixels, place), images.labels, CLASSES, place)

    def facts(self) -> dict[str, Any]:
        """Classes, numbers of images and fingerprint."""
        return {
            "classes": list(CLASSES),
            "training_images": len(self._training.labels),
            "held_out_images": len(self._held_out.labels),
            "data_fingerprint": self.fingerprint,
        }


@data_source(NAME)
def open_cifar_10(path: str | None) -> Cifar10:
    """CIFAR-10 at a path, or at its default place. Raises UsageError as `Cifar10`."""
    return Cifar10(Path(path).expanduser() if path is not None else dataset_folder(NAME))


def _place(path: Path) -> Path:
    """The archive or the folder of the batches."""
    for place in (path / ARCHIVE, path / FOLDER, path):
        if place.is_file() or any((place / name).is_file() for name in BATCHES):
            return place
    raise UsageError(
        f"{NAME} is not here: neither {ARCHIVE} nor {FOLDER} is at {path}. Download {URL} (170 MB) on a machine with "
        f"internet and put it into {dataset_folder(NAME)} as it is, or say where it lies (taba train: "
        "--data-path PATH; study training: --set training.data_path=PATH)."
    )


def _unpacked(archive: Path) -> dict[str, bytes]:
    """The contents of the batches of an archive, by name; nothing is written to the disk."""
    found = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = Path(member.name).name
                stream = tar.extractfile(member) if name in BATCHES else None
                if stream is not None:
                    found[name] = stream.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise _refused(archive, f"it is no whole gzip archive ({type(error).__name__}: {error})") from None
    return _all_there(archive, found)


def _in_folder(folder: Path) -> dict[str, bytes]:
    return _all_there(
        folder, {name: (folder / name).read_bytes() for name in BATCHES if (folder / name).is_file()}
    )


def _all_there(place: Path, found: dict[str, bytes]) -> dict[str, bytes]:
    missing = [name for name in BATCHES if name not in found]
    if missing:
        raise _refused(place, f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    return found


def _images(place: Path, name: str, content: bytes) -> _Images:
    """The images of a batch, checked: pixels (n, 3072) by channel, row and column, and a class of each."""
    try:
        batch = load_plain(io.BytesIO(content))
    except ValueError as error:
        raise _refused(place, f"{name} cannot be read: {error}") from None
    pixels, labels = batch.get("data"), batch.get("labels")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 2:
        raise _refused(place, f"{name} has no 'data' of bytes, a row an image")
    if pixels.shape != (IMAGES_A_BATCH, 3 * SIDE**2):
        raise _refused(
            place,
            f"{name} has {pixels.shape[0]:,} images of {pixels.shape[1]:,} values, and a batch has {IMAGES_A_BATCH:,} "
            f"of {3 * SIDE**2:,}",
        )
    if not isinstance(labels, list) or len(labels) != len(pixels) or not {*labels} <= {*range(len(CLASSES))}:
        raise _refused(place, f"{name} has not one class from 0 to {len(CLASSES) - 1} for each image")
    return _Images(pixels.reshape(-1, 3, SIDE, SIDE), np.array(labels, dtype=np.int64))


def _check_sums(place: Path, files: dict[str, bytes]) -> None:
    if place.is_file():
        with place.open("rb") as archive:
            wrong = [place.name] if _md5(archive) != ARCHIVE_MD5 else []
    else:
        wrong = [name for name, content in files.items() if _md5(io.BytesIO(content)) != BATCHES[name]]
    if wrong:
        raise _refused(place, f"the MD5 of {', '.join(wrong)} is not that of the published file")


def _md5(file: io.BytesIO | io.BufferedReader) -> str:
    return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _refused(place: Path, why: str) -> UsageError:
    return UsageError(
        f"{place} is not {NAME} as it is published: {why}. Download {URL} again and put it there, or into "
        f"{dataset_folder(NAME)}, as it is."
    )
