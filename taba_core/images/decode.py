"""The one decoder of images that a user gives: from a file to the 8-bit sRGB picture that a viewer shows.

The rules:
  orientation: the orientation that the file states (EXIF, 1 to 8) is applied.
  depth: values are scaled by the range of the file's own depth; of 16 bits the higher 8 are kept, for grey and colour
    alike. Numbers without such a range (float, 32-bit and signed integers) are refused.
  transparency: the picture lies on white; colours hidden where it is fully transparent do not count.
  colour: an embedded colour profile is converted to sRGB; a file without one is taken as sRGB. CMYK without a
    profile is converted by the plain formula of inks (R = 255 - min(255, C + K)).
  several pictures: animations and files of several pages are refused; of a JPEG file that carries further pictures
    behind the first (previews, depth, gain maps of phones) the first is read.
  size: a picture whose decoding would take more than MAX_DECODE_BYTES of memory is refused.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from taba_core.errors import UsageError
from taba_core.images.colour import MODES, Unreadable, rgb_converter

if TYPE_CHECKING:
    from PIL.Image import Image

# Raised whenever the pixels of any readable file change: pixels that were hashed by another version are hashed again.
DECODER_VERSION = 1
MAX_DECODE_BYTES = 10**9  # memory above what the program holds anyway, at the worst moment of decoding
# Pillow's names. No other format is tried whatever the file says it is: some of them start other programs.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
WAY_OUT = "Save it as an 8-bit RGB PNG file, or remove it."

_STORED_BYTES = {
    "1": 1,
    "L": 1,
    "P": 1,
    "I;16": 2,
    "I;16B": 2,
    "I;16L": 2,
    "I;16N": 2,
}  # of a pixel; others: 4
_STRIP_PIXELS = 1 << 20  # pixels converted at a time
_UNCHANGED, _ORIENTATION = 1, 274  # the EXIF tag and its value for an upright picture


def decode_image(path: str | Path, *, what: str = "image") -> NDArray[np.uint8]:
    """The picture in a file as a viewer shows it: uint8, (H, W, 3), sRGB, upright. The module states the rules.

    Args:
      what: how messages call the file ("photo").
    Raises:
      UsageError: the file is no image of a known format, is damaged or too large, or its content has no certain
        meaning as a picture; the message names the file, the reason and the way out.
    """
    from PIL import Image, UnidentifiedImageError

    path = Path(path)
    try:
        # A library's warnings (unusual metadata, large pictures) do not reach the user: what matters is refused.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A file object and no path: by a path Pillow maps uncompressed TIFF files, and scrambles turned ones.
            with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
                return _pixels(image)
    except Unreadable as reason:
        raise UsageError(f"{what} '{path}' {reason}. {WAY_OUT}") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise UsageError(
            f"{what} '{path}' has more than {limit:.0f} megapixels, which is too large to decode. "
            "Save a smaller version of it, or remove it."
        ) from None
    except UnidentifiedImageError:
        raise UsageError(
            f"{what} '{path}' is no PNG, JPEG, BMP, TIFF or WebP image, or its kind of pixels is not known. {WAY_OUT}"
        ) from None
    except Exception as error:  # each format's reader raises errors of its own on damaged files
        raise UsageError(f"{what} '{path}' cannot be read ({error}). {WAY_OUT}") from None


def _pixels(image: Image) -> NDArray[np.uint8]:
    _refuse_unknown(image)
    to_rgb = rgb_converter(image)
    image.load()
    width, height = image.size
    # Read after loading: some formats store it behind the pixels, and Pillow turns TIFF files while loading.
    orientation = image.getexif().get(_ORIENTATION, _UNCHANGED)
    upright, stored = _oriented(height, width, orientation)
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        stored[top:bottom] = to_rgb(image.crop((0, top, width, bottom)))
    return upright


def _oriented(height: int, width: int, orientation: Any) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An empty upright picture, and a view of it in the order in which the file stores its rows."""
    turned = orientation in (5, 6, 7, 8)
    upright = np.empty((width, height, 3) if turned else (height, width, 3), dtype=np.uint8)
    stored = upright.transpose(1, 0, 2) if turned else upright
    if orientation in (3, 4, 6, 7):
        stored = stored[::-1]
    if orientation in (2, 3, 7, 8):
        stored = stored[:, ::-1]
    return upright, stored


def _refuse_unknown(image: Image) -> None:
    """Refuse, before any pixel is decoded, what has no certain meaning as one picture or is too large."""
    if image.mode not in MODES:
        raise Unreadable(f"has pixels of a kind that is not read here ({_kind(image.mode)})")
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise Unreadable(f"holds {image.n_frames} pictures (an animation or several pages)")  # type: ignore[attr-defined]
    width, height = image.size
    stored = 4 if image.format == "WEBP" else _STORED_BYTES.get(image.mode, 4)
    # While they decode, progressive JPEG files hold all coefficients, WebP files two more copies.
    working = 6 if "progressive" in image.info else 8 if image.format == "WEBP" else 0
    needed = width * height * (stored + max(3, working))
    if needed > MAX_DECODE_BYTES:
        most = MAX_DECODE_BYTES / (stored + max(3, working)) / 1e6
        raise Unreadable(
            f"is {width}x{height} pixels ({width * height / 1e6:.0f} megapixels); decoding it would take "
            f"{needed / 1e9:.1f} GB of memory, and {MAX_DECODE_BYTES / 1e9:.0f} GB is the limit ({most:.0f} megapixels "
            "of this kind)"
        )


def _kind(mode: str) -> str:
    kinds = {"F": "floating-point numbers", "I": "integers of 32 bits or with a sign"}
    return kinds.get(mode, f"Pillow's mode {mode}")
