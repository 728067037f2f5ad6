"""Real images as samples: the pictures of a folder in the order of their names, with captions or classes if given."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from taba_core.cache import cache_folder, read_json_table, write_json_table
from taba_core.errors import UsageError, WorkError
from taba_core.images.decode import DECODER_VERSION, decode_image
from taba_core.images.folder import list_images

METADATA = "metadata.jsonl"
_WAY_OUT = (
    f"Write one line for each image in {METADATA}, for example " + '{"file_name": "a.png", "text": "a cat"}.'
)


@dataclass(frozen=True)
class ImageCollection:
    """Images of a folder.

    Attributes:
      files: sorted by name.
      captions: one for each file, or empty.
      classes: one for each file, or empty.
      skipped: a sentence about what in the folder is no image; "" where everything is.
    """

    folder: Path
    files: tuple[Path, ...]
    captions: tuple[str, ...] = ()
    classes: tuple[int, ...] = ()
    skipped: str = ""

    @property
    def stamp(self) -> str:
        """Hash of names, sizes, times of change, captions and classes: another one where a file may have changed."""
        facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in self.files]
        text = json.dumps([DECODER_VERSION, facts, self.captions, self.classes])
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    def fingerprint(self) -> str:
        """Hash of the decoded pixels in order, of captions and of classes; remembered by `stamp`.

        Raises:
          UsageError: a file is no image.
        """
        table, stamp = cache_folder() / "images.json", self.stamp
        if isinstance(held := read_json_table(table).get(stamp), str):
            return held
        digest = hashlib.blake2b(json.dumps([self.captions, self.classes]).encode(), digest_size=12)
        for file in self.files:
            pixels = decode_image(file)
            digest.update(f"{pixels.shape}".encode())
            digest.update(pixels.tobytes())
        with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
            write_json_table(table, read_json_table(table) | {stamp: digest.hexdigest()})
        return digest.hexdigest()

    def check_unchanged(self, stamp: str) -> None:
        """Raise WorkError if a file was changed, added or removed since the stamp was taken."""
        if self.stamp != stamp:
            raise WorkError(
                f"images in {self.folder} changed since the run was planned; start the run again."
            )

    def squares(self, start: int, stop: int, size: int) -> NDArray[np.uint8]:
        """The centre squares of images [start, stop), resized: uint8 (B, 3, size, size).

        A square has the length of the shorter side. It is averaged over areas where it shrinks, and interpolated
        (bicubic) where it grows.
        """
        return np.stack([_square(decode_image(file), size) for file in self.files[start:stop]])


def open_images(folder: str | Path) -> ImageCollection:
    """The images of a folder, with the captions ("text") or classes ("class") of its `metadata.jsonl` if it has one.

    Raises:
      UsageError: no such folder, no image in it, or metadata that does not name every image once, or gives some
        images a caption or class and others none.
    """
    listed = list_images(folder)
    images = ImageCollection(listed.folder, listed.images)
    skipped = tuple(name for name in listed.skipped if name != METADATA)
    line = type(listed)(listed.folder, listed.images, skipped).skipped_line()
    table = _metadata(listed.folder / METADATA, [file.name for file in listed.images])
    texts = tuple(entry.get("text") for entry in table)
    classes = tuple(entry.get("class") for entry in table)
    for name, column, kind in (("text", texts, str), ("class", classes, int)):
        given = [value for value in column if value is not None]
        if given and (len(given) < len(images.files) or not all(isinstance(value, kind) for value in given)):
            raise UsageError(
                f"{listed.folder / METADATA}: '{name}' must be a {'text' if kind is str else 'whole number'} for every "
                f"one of the {len(images.files)} images, or for none. {_WAY_OUT}"
            )
    return ImageCollection(
        images.folder,
        images.files,
        tuple(t for t in texts if isinstance(t, str)),
        tuple(c for c in classes if isinstance(c, int)),
        line,
    )


def _metadata(path: Path, names: list[str]) -> list[dict[str, object]]:
    """One entry for each name, in that order; empty entries where there is no file."""
    if not path.exists():
        return [{} for _ in names]
    entries: dict[str, dict[str, object]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name = entry["file_name"]
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"{path}, line {number}: no JSON object with a file_name. {_WAY_OUT}") from None
        if name in entries or name not in names:
            problem = "is named twice" if name in entries else "is no image of the folder"
            raise UsageError(f"{path}, line {number}: '{name}' {problem}. {_WAY_OUT}")
        entries[name] = entry
    missing = [name for name in names if name not in entries]
    if missing:
        raise UsageError(
            f"{path}: {len(missing)} images have no line, the first is '{missing[0]}'. {_WAY_OUT}"
        )
    return [entries[name] for name in names]


def _square(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The centre square of a picture (H, W, 3) at another size: (3, size, size)."""
    from PIL import Image

    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) / 2, (width - side) / 2
    method = Image.Resampling.BOX if side > size else Image.Resampling.BICUBIC
    resized = Image.fromarray(pixels).resize((size, size), method, box=(left, top, left + side, top + side))
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))
