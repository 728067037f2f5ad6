"""Photographs: the colour pictures that ship with scikit-image and scikit-learn, or a folder of one's own.

A photograph of a folder is decoded whenever its pixels are asked for and held by whoever asked, so a folder takes
the memory of its largest picture.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taba_core.cache import cache_folder, read_json_table, write_json_table
from taba_core.errors import UsageError
from taba_core.images import decode_image, list_images
from taba_core.images.collection import centre_square
from taba_core.images.stamp import stamp_of

MIN_SIDE = 64  # pixels of the shorter side

# Name -> loader in skimage.data. All of these files are inside the wheel; nothing is downloaded.
_SKIMAGE_PHOTOS = {
    "astronaut": "astronaut",
    "cat": "chelsea",
    "coffee": "coffee",
    "galaxies": "hubble_deep_field",
    "motorcycle": "stereo_motorcycle",
    "retina": "retina",
    "rocket": "rocket",
    "tissue": "immunohistochemistry",
}
_SKLEARN_PHOTOS = {"flower": "flower.jpg", "temple": "china.jpg"}


@dataclass(frozen=True)
class Photo:
    """A photograph by name; its pixels are in memory or in a file."""

    name: str
    source: NDArray[np.uint8] | Path

    def pixels(self) -> NDArray[np.uint8]:
        """The picture as a viewer shows it, uint8 (H, W, 3); a file is decoded anew each time.

        Raises:
          UsageError: the file cannot be read as a picture, or is smaller than 64 pixels a side.
        """
        if not isinstance(self.source, Path):
            return self.source
        pixels = decode_image(self.source, what="photo")
        height, width = pixels.shape[:2]
        if min(height, width) < MIN_SIDE:
            raise UsageError(
                f"photo '{self.source}' is {width}x{height} pixels; the shorter side must have at least {MIN_SIDE}. "
                "Remove it or use a larger version."
            )
        return pixels


def load_photos(source: str = "builtin") -> tuple[Photo, ...]:
    """Photographs sorted by name.

    Args:
      source: "builtin" (10 photographs), or a folder whose image files are one photograph each.
    Raises:
      UsageError: the folder is missing or holds no image.
    """
    return _builtin_photos() if source == "builtin" else _folder_photos(Path(source))


@lru_cache(maxsize=1)
def _builtin_photos() -> tuple[Photo, ...]:
    from skimage import data

    photos: dict[str, Any] = {}
    for name, loader in _SKIMAGE_PHOTOS.items():
        loaded = getattr(data, loader)()
        photos[name] = loaded[0] if isinstance(loaded, tuple) else loaded  # stereo pair: the left view
    photos |= {name: _sklearn_photo(file) for name, file in _SKLEARN_PHOTOS.items()}
    return tuple(Photo(name, np.ascontiguousarray(photos[name])) for name in sorted(photos))


def _sklearn_photo(file: str) -> NDArray[np.uint8]:
    """One of the two photographs that come with scikit-learn, uint8 (H, W, 3).

    The file is read without importing scikit-learn, because the import takes more than a second of every command.
    """
    from PIL import Image

    found = importlib.util.find_spec("sklearn")
    folder = Path(found.origin).parent / "datasets" / "images" if found and found.origin else Path()
    if not (folder / file).is_file():  # a version of scikit-learn that keeps it elsewhere
        from sklearn.datasets import load_sample_image

        return load_sample_image(file)
    with Image.open(folder / file) as image:
        return np.asarray(image)


def _folder_photos(folder: Path) -> tuple[Photo, ...]:
    return tuple(Photo(path.name, path) for path in list_images(folder, what="photos").images)


def square_photos(source: str | Path = "builtin", *, size: int) -> NDArray[np.float32]:
    """The centre squares of photographs as a model takes them: (n, 3, size, size), float32 in [-1, 1], by name.

    A square has the length of the photograph's shorter side; a pixel is the mean of the area it covers.

    Args:
      source: as `load_photos`.
    Raises:
      UsageError: as `load_photos`, and a file that cannot be read as a photograph.

    >>> import taba_core
    >>> photos = taba_core.square_photos(size=32)
    >>> photos.shape, photos.dtype, bool(abs(photos).max() <= 1)
    ((10, 3, 32, 32), dtype('float32'), True)
    """
    squares = [centre_square(photo.pixels(), size) for photo in load_photos(str(source))]
    return (np.stack(squares) / 127.5 - 1.0).astype(np.float32)


@dataclass(frozen=True)
class Content:
    """What photographs show: `fingerprint` hashes all names, shapes and pixels; `same` groups equal pictures."""

    fingerprint: str
    same: tuple[tuple[str, ...], ...]


def photo_content(source: str = "builtin") -> Content:
    """The content of photographs, by their decoded pixels.

    That of a folder is remembered by the files' names, sizes and times of change in the cache folder, so each
    picture is decoded once.

    Raises:
      UsageError: as `load_photos`, and a file that cannot be read as a photograph.
    """
    if source == "builtin":
        return content_of(load_photos())
    photos = load_photos(source)
    table, key = cache_folder() / "photographs.json", str(Path(source).resolve())
    stamp = stamp_of((Path(source) / photo.name for photo in photos), what="photo")
    with _one_at_a_time:  # threads of one process would decode the same pictures side by side
        held = read_json_table(table).get(key)
        if isinstance(held, dict) and held.get("stamp") == stamp:
            return Content(held["fingerprint"], tuple(map(tuple, held["same"])))
        content = content_of(photos)
        entry = {"stamp": stamp, "fingerprint": content.fingerprint, "same": content.same}
        with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
            write_json_table(table, read_json_table(table) | {key: entry})
        return content


_one_at_a_time = threading.Lock()


def content_of(photos: Sequence[Photo]) -> Content:
    """The content of photographs, 24 hex digits and groups of equal pictures; one is in memory at a time."""
    whole = hashlib.blake2b(digest_size=12)
    names: dict[tuple[tuple[int, ...], bytes], list[str]] = {}
    for photo in photos:
        pixels = np.ascontiguousarray(photo.pixels())
        whole.update(f"{photo.name}/{pixels.shape}/".encode())
        whole.update(pixels.data)
        own = hashlib.blake2b(pixels.data, digest_size=16).digest()
        names.setdefault((pixels.shape, own), []).append(photo.name)
    return Content(whole.hexdigest(), tuple(tuple(group) for group in names.values() if len(group) > 1))


def photo_notes(source: str) -> tuple[str, ...]:
    """What a user should know of a folder of photographs: files that are not read, and pictures that are equal.

    Raises:
      UsageError: as `photo_content`.
    """
    if source == "builtin":
        return ()
    notes = [list_images(source, what="photos").skipped_line()]
    notes += [
        f"{source}: {', '.join(group)} hold the same picture; each counts as a photograph of its own."
        for group in photo_content(source).same
    ]
    return tuple(filter(None, notes))
