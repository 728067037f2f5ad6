"""Photographs: the colour pictures that ship with scikit-image and scikit-learn, or a folder of one's own.

Random square crops of a photograph, area-averaged to a small square, are the data the photo mixture is fitted
to. A crop is a function of (photo, seed, crop id) only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from taba_core import rng
from taba_core.errors import UsageError

Photo = tuple[str, NDArray[np.uint8]]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
MIN_CROP, MAX_CROP = 64, 384  # pixels of a crop's side before averaging

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


def load_photos(source: str = "builtin") -> tuple[Photo, ...]:
    """Photographs by name, sorted by name; (name, uint8 array (H, W, 3)) each.

    Args:
      source: "builtin" (10 photographs), or a folder whose image files are one photograph each.
    Raises:
      UsageError: the folder is missing or holds no image, or an image cannot be read or is too small.
    """
    return _builtin_photos() if source == "builtin" else _folder_photos(Path(source))


@lru_cache(maxsize=1)
def _builtin_photos() -> tuple[Photo, ...]:
    from skimage import data
    from sklearn.datasets import load_sample_image

    photos: list[Photo] = []
    for name, loader in _SKIMAGE_PHOTOS.items():
        loaded = getattr(data, loader)()
        photos.append(
            (name, loaded[0] if isinstance(loaded, tuple) else loaded)
        )  # stereo pair: the left view
    photos += [(name, load_sample_image(file)) for name, file in _SKLEARN_PHOTOS.items()]
    return tuple(sorted((name, np.ascontiguousarray(pixels)) for name, pixels in photos))


def _folder_photos(folder: Path) -> tuple[Photo, ...]:
    accepted = ", ".join(IMAGE_SUFFIXES)
    if not folder.is_dir():
        raise UsageError(
            f"photos='{folder}': no such folder. Give a folder of images ({accepted}) or 'builtin'."
        )
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise UsageError(f"photos='{folder}': the folder holds no image. Accepted suffixes: {accepted}.")
    return tuple((path.name, _read_image(path)) for path in paths)


def _read_image(path: Path) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, ValueError) as error:
        raise UsageError(f"photo '{path}' cannot be read ({error}); remove it or save it anew.") from None
    if min(pixels.shape[:2]) < MIN_CROP:
        height, width = pixels.shape[:2]
        raise UsageError(
            f"photo '{path}' is {width}x{height} pixels; the shorter side must have at least {MIN_CROP}. "
            "Remove it or use a larger version."
        )
    return pixels


def fingerprint(photos: Sequence[Photo]) -> str:
    """Hash of names, shapes and decoded pixels: 24 hex digits."""
    digest = hashlib.blake2b(digest_size=12)
    for name, pixels in photos:
        digest.update(f"{name}/{pixels.shape}/".encode())
        digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()


def random_crops(
    photo: Photo, crop_ids: Sequence[int] | NDArray[np.integer], *, seed: int, size: int = 32
) -> NDArray[np.float32]:
    """Random crops of one photograph, area-averaged: (len(crop_ids), 3, size, size), float32 in [-1, 1].

    The side runs from 64 to 384 pixels (or to the shorter side of the photograph), the position is uniform
    and every other crop on average is mirrored left to right. Half of the sides lie below 1.25 times the
    smallest: close views have the plain areas that few Gaussians can express. Row i depends on
    (photo, seed, crop_ids[i]) only.
    """
    name, pixels = photo
    height, width = pixels.shape[:2]
    u = rng.uniform(crop_ids, (4,), seed=seed, stream=f"crops/{name}")
    largest = min(height, width, MAX_CROP)
    side = MIN_CROP * (largest / MIN_CROP) ** (u[:, 0] ** 3)
    top, left = u[:, 1] * (height - side), u[:, 2] * (width - side)
    lines = side[:, None] * np.arange(size + 1) / size
    crops = _box_means(pixels, top[:, None] + lines, left[:, None] + lines)
    mirrored = u[:, 3] < 0.5
    crops[mirrored] = crops[mirrored, :, :, ::-1]
    return (crops / 127.5 - 1.0).astype(np.float32)


def real_crops(
    photos: Sequence[Photo], crop_ids: Sequence[int] | NDArray[np.integer], *, seed: int, size: int = 32
) -> NDArray[np.float32]:
    """Crops of photographs drawn at random, to hold beside samples: (len(crop_ids), 3, size, size) in [-1, 1].

    Row i depends on (photos, seed, crop_ids[i]) only.
    """
    ids = np.asarray(crop_ids, dtype=np.int64)
    chosen = rng.integers(ids, len(photos), seed=seed, stream="real-crops/photo")
    crops = np.empty((len(ids), 3, size, size), dtype=np.float32)
    for index in np.unique(chosen):
        rows = chosen == index
        crops[rows] = random_crops(photos[index], ids[rows], seed=seed, size=size)
    return crops


def _box_means(
    pixels: NDArray[np.uint8], ys: NDArray[np.float64], xs: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Means over the boxes between neighbouring grid lines: ys, xs (n, size + 1) -> (n, 3, size, size).

    The integral image interpolated bilinearly is the exact integral of a piecewise constant picture.
    """
    height, width = pixels.shape[:2]
    integral = np.zeros((height + 1, width + 1, 3))
    integral[1:, 1:] = pixels.astype(np.float64).cumsum(0).cumsum(1)
    y0, x0 = np.minimum(ys.astype(np.int64), height - 1), np.minimum(xs.astype(np.int64), width - 1)
    fy, fx = (ys - y0)[:, :, None, None], (xs - x0)[:, :, None]
    out = np.empty((len(ys), 3, ys.shape[1] - 1, xs.shape[1] - 1))
    for i in range(len(ys)):  # crop by crop: the working set stays in the processor's cache
        rows, columns = integral[y0[i]], integral[y0[i] + 1]
        rows = rows + fy[i] * (columns - rows)
        corners = rows[:, x0[i]] + fx[i] * (rows[:, x0[i] + 1] - rows[:, x0[i]])
        area = np.diff(ys[i])[:, None, None] * np.diff(xs[i])[None, :, None]
        boxes = np.diff(np.diff(corners, axis=0), axis=1) / area
        out[i] = boxes.transpose(2, 0, 1)
    return out
