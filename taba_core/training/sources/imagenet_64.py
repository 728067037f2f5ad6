"""ImageNet at 64x64 pixels (Chrabaszcz et al. 2017): 1,281,167 images in 1000 classes, as image-net.org publishes it.

Read: the ten batches as .npz files or as pickles, in a folder or one folder below it, or the zip archives of either
(Imagenet64_train_part1, part2 and val, with or without _npz). Images stay in files, 15.7 GB, and are not mirrored, as
improved-diffusion does not mirror them.

Held out are the 50,000 images of `val_data` where it is there; else the last 10,000 of the tenth batch, which are then
never trained on.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from taba_core.cache import cache_folder, read_json_table, write_json_table
from taba_core.errors import UsageError
from taba_core.images.stamp import stamp_of
from taba_core.training.data import data_source, dataset_folder
from taba_core.training.image_batches import ImageBatch, UnusableBatch, find_batches, read_batch
from taba_core.training.image_set import ImageSet, MappedPixels

NAME = "imagenet-64"
URL = "https://image-net.org/download-images"
TRAINING, HELD_OUT = [f"train_data_batch_{i}" for i in range(1, 11)], "val_data"
ARCHIVES = tuple(
    f"Imagenet64_{part}{kind}" for kind in ("_npz", "") for part in ("train_part1", "train_part2", "val")
)
NUM_TRAINING, NUM_VALIDATION = 1_281_167, 50_000
NUM_HELD_OUT = 10_000  # images of the training set, where there is no validation set
SIDE = 64
_HASHED_AT_ONCE = 4096  # images in memory


class ImageNet64:
    """The images of a folder.

    Args:
      folder: of the batches, or of the archives.
    Raises:
      UsageError: nothing there, or not the published files; the message says what to download and where to put it.
    """

    name, image_size = NAME, SIDE
    names = tuple(
        str(i) for i in range(1, 1001)
    )  # the labels of the batches, which are not in the usual order

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self._files = find_batches(folder, [*TRAINING, HELD_OUT], ARCHIVES)
        except UnusableBatch as error:
            raise _refused(folder, str(error)) from None
        if not self._files:
            raise _absent(folder)
        missing = [stem for stem in TRAINING if stem not in self._files]
        if missing:
            raise _refused(folder, f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
        self._training = [self._batch(stem) for stem in TRAINING]
        _check_count(folder, "training", self._training, NUM_TRAINING)
        self._validation = [self._batch(HELD_OUT)] if HELD_OUT in self._files else []
        if self._validation:
            _check_count(folder, "validation", self._validation, NUM_VALIDATION)
        self.num_training = NUM_TRAINING if self._validation else NUM_TRAINING - NUM_HELD_OUT

    @cached_property
    def fingerprint(self) -> str:
        """24 hex digits over all pixels and classes and the number that is trained on.

        What the files hold is hashed once and remembered by their names, sizes and times of change.
        """
        text = f"{NAME}/{self._content()}/{self.num_training}"
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    def part(
        self, region: Literal["training", "held-out"], *, device: str | torch.device = "cpu"
    ) -> ImageSet:
        """The images that are trained on, or those that are not, read from their files as they are asked for."""
        place = torch.device(device)
        if region == "training":
            return _set_of(self._training, 0, self.num_training, place)
        if self._validation:
            return _set_of(self._validation, 0, NUM_VALIDATION, place)
        return _set_of(self._training, self.num_training, NUM_HELD_OUT, place)

    def facts(self) -> dict[str, Any]:
        """Classes, numbers of images, which are held out, and fingerprint."""
        held_out = NUM_VALIDATION if self._validation else NUM_HELD_OUT
        return {
            "classes": list(self.names),
            "training_images": self.num_training,
            "held_out_images": held_out,
            "held_out": "validation set" if self._validation else "the last of the training set",
            "data_fingerprint": self.fingerprint,
        }

    def _batch(self, stem: str) -> ImageBatch:
        try:
            return read_batch(self._files[stem], SIDE, dataset_folder(NAME) / "converted", _say)
        except UnusableBatch as error:
            path = self._files[stem].path
            raise _refused(self.folder, f"{stem} cannot be used: {error}", remove=path) from None

    def _content(self) -> str:
        """32 hex digits over the images and classes of the training set and of the validation set."""
        paths = sorted({file.path for file in self._files.values()})
        table, key, stamp = (
            cache_folder() / "datasets.json",
            str(self.folder.resolve()),
            stamp_of(paths, what="file"),
        )
        held = read_json_table(table).get(key)
        if isinstance(held, dict) and held.get("stamp") == stamp:
            return str(held["content"])
        _say("reading all images once, for the fingerprint of a run")
        content = _hash([*self._training, *self._validation])
        with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
            write_json_table(table, read_json_table(table) | {key: {"stamp": stamp, "content": content}})
        return content


@data_source(NAME)
def open_imagenet_64(path: str | None) -> ImageNet64:
    """ImageNet-64 at a path, or at its default place. Raises UsageError as `ImageNet64`."""
    return ImageNet64(Path(path).expanduser() if path is not None else dataset_folder(NAME))


def _set_of(batches: Sequence[ImageBatch], start: int, count: int, device: torch.device) -> ImageSet:
    """Images start to start + count - 1 of batches that follow one another."""
    pixels, labels, before = [], [], 0
    for batch in batches:
        rows = slice(max(start - before, 0), max(start + count - before, 0))
        if len(batch.labels[rows]):
            pixels.append(batch.pixels[rows])
            labels.append(batch.labels[rows])
        before += len(batch.labels)
    return ImageSet(MappedPixels(pixels), np.concatenate(labels), ImageNet64.names, device)


def _hash(batches: Sequence[ImageBatch]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for batch in batches:
        for start in range(0, len(batch.labels), _HASHED_AT_ONCE):
            digest.update(np.ascontiguousarray(batch.pixels[start : start + _HASHED_AT_ONCE]).data)
        digest.update(f"/{batch.pixels.shape}/".encode())
        digest.update(batch.labels.data)
    return digest.hexdigest()


def _check_count(folder: Path, what: str, batches: Sequence[ImageBatch], count: int) -> None:
    found = sum(len(batch.labels) for batch in batches)
    if found != count:
        raise _refused(folder, f"it has {found:,} {what} images, and {NAME} has {count:,}")


def _say(text: str) -> None:
    print(f"{NAME}: {text}", flush=True)


def _absent(folder: Path) -> UsageError:
    return UsageError(
        f"{NAME} is not here: none of its batches ({TRAINING[0]}.npz to {TRAINING[-1]}.npz) and none of its archives "
        f"({ARCHIVES[0]}.zip, {ARCHIVES[1]}.zip) is in {folder}. Download the downsampled ImageNet 64x64 (npz format, "
        f"12 GB) from {URL}, where it asks for a free account, and put its archives or the files in them into "
        f"{dataset_folder(NAME)}, or say which folder they are in (taba train: "
        "--data-path FOLDER; study training: --set training.data_path=FOLDER)."
    )


def _refused(folder: Path, why: str, *, remove: Path | None = None) -> UsageError:
    first = f"Remove {remove}, then download it again" if remove is not None else "Download what it lacks"
    return UsageError(
        f"{folder} does not hold {NAME} as it is published: {why}. {first} from {URL} (train part 1 has batches 1 to "
        "5, part 2 has 6 to 10) and put it there."
    )
