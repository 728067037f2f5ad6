"""Real images as samples: the pictures of a folder in the order of their names, with captions or classes if given."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from taba_core.cache import cache_folder, read_json_table, write_json_table
from taba_core.errors import UsageError, WorkError
from taba_core.images.benchmarks import open_benchmark, table_of
from taba_core.images.decode import decode_image
from taba_core.images.folder import ImageFolder, list_images
from taba_core.images.metadata import METADATA, read_metadata
from taba_core.images.stamp import stamp_of


@dataclass(frozen=True)
class ImageCollection:
    """Images of a folder, or one image.

    Attributes:
      folder: that the files lie in.
      files: sorted by name.
      captions: one for each file, or empty.
      classes: one for each file, or empty.
      skipped: a sentence about what in the folder is no image; "" where everything is.
      alone: whether it is one file that was named, whatever else lies in its folder.
    """

    folder: Path
    files: tuple[Path, ...]
    captions: tuple[str, ...] = ()
    classes: tuple[int, ...] = ()
    skipped: str = ""
    alone: bool = False

    @property
    def location(self) -> Path:
        """What `open_images_at` opens again: the folder, or the file."""
        return self.files[0] if self.alone else self.folder

    def under(self, condition: str | int) -> ImageCollection:
        """The same images under one caption (a text) or one class (a number) in place of their own."""
        count = len(self.files)
        if isinstance(condition, str):
            return replace(self, captions=(condition,) * count, classes=())
        return replace(self, captions=(), classes=(condition,) * count)

    @property
    def stamp(self) -> str:
        """Changes where a file, a caption or a class may have changed; a faithful copy of the folder has the same."""
        return self._stamp(same_machine=False)

    def _stamp(self, *, same_machine: bool) -> str:
        files = stamp_of(self.files, same_machine=same_machine)
        return hashlib.blake2b(f"{files}/{self._conditions()}".encode(), digest_size=12).hexdigest()

    def _conditions(self) -> str:
        return json.dumps([self.captions, self.classes])

    def fingerprint(self) -> str:
        """24 hex digits of the decoded pixels in order, of captions and of classes, whatever files are called.

        That of a folder is remembered by the names, sizes and times of its files, so each picture is decoded once.

        Raises:
          UsageError: a file is no image.
        """
        return _fingerprint(self, self._stamp(same_machine=True))

    def check_unchanged(self, stamp: str) -> None:
        """Raise WorkError if a file was changed, added or removed since the stamp was taken."""
        if self.stamp != stamp:
            raise WorkError(
                f"the images in {self.folder} are others than the run was planned with: a file was changed, added or "
                "removed since, or this machine has another folder of that name. Start the run again, with the same "
                "files on every machine."
            )

    def squares(self, start: int, stop: int, size: int) -> NDArray[np.uint8]:
        """The centre squares of images [start, stop), resized: uint8 (B, 3, size, size).

        A square has the length of the shorter side; of an odd margin the larger part is cut at the right or below.
        Where it shrinks, a pixel is the mean of those whose centres lie in its area; where it grows, it is
        interpolated (bicubic).
        """
        return np.stack([centre_square(decode_image(file), size) for file in self.files[start:stop]])


def open_images_at(location: str | Path) -> ImageCollection:
    """The images of a folder, as `open_images`; or one image, the file itself, without a caption or class.

    Raises:
      UsageError: there is nothing of that name, or as `open_images`. A file is not decoded here.
    """
    path = Path(location)
    if path.is_file():
        return ImageCollection(path.parent, (path,), alone=True)
    if not path.is_dir():
        raise UsageError(
            f"'{location}': there is no such image or folder. Give an image, or a folder of images."
        )
    return open_images(path)


def open_images(folder: str | Path) -> ImageCollection:
    """The images of a folder, with the captions ("text") or classes ("class") of its `metadata.jsonl` if it has one.

    Of a benchmark of editing (`taba_core.images.benchmarks`) the images of its entries, in the order of its table, with
    what they show as captions; an image stands as often as it is edited.

    Raises:
      UsageError: no such folder, no image in it, metadata that `read_metadata` refuses, or a benchmark that
        `open_benchmark` refuses.
    """
    if table_of(Path(folder)) is not None:
        benchmark = open_benchmark(Path(folder))
        cases = benchmark.cases
        captions = tuple(case.source for case in cases)
        return ImageCollection(
            Path(folder), tuple(case.file for case in cases), captions, skipped=benchmark.skipped
        )
    listed = list_images(folder)
    skipped = tuple(name for name in listed.skipped if name != METADATA)
    captions, classes = read_metadata(listed.folder, [file.name for file in listed.images])
    line = ImageFolder(listed.folder, listed.images, skipped).skipped_line()
    return ImageCollection(listed.folder, listed.images, captions, classes, line)


@lru_cache(maxsize=8)
def _fingerprint(images: ImageCollection, stamp: str) -> str:
    """The fingerprint of images whose stamp is this: remembered, or computed."""
    table, key = cache_folder() / "images.json", str(images.location.resolve())
    held = read_json_table(table).get(key)
    if isinstance(held, dict) and held.get("stamp") == stamp:
        return str(held["fingerprint"])
    digest = hashlib.blake2b(images._conditions().encode(), digest_size=12)
    for file in images.files:
        pixels = decode_image(file)
        digest.update(f"{pixels.shape}".encode())
        digest.update(pixels.tobytes())
    entry = {"stamp": stamp, "fingerprint": digest.hexdigest()}
    with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
        write_json_table(table, read_json_table(table) | {key: entry})
    return digest.hexdigest()


def centre_square(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The centre square of a picture (H, W, 3) at another size: (3, size, size); how, is said in `squares`."""
    from PIL import Image

    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    method = Image.Resampling.BOX if side > size else Image.Resampling.BICUBIC
    resized = Image.fromarray(pixels).resize((size, size), method, box=(left, top, left + side, top + side))
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))
