"""From the pixels of one kind of file to 8-bit sRGB: depth, transparency, inks and colour profiles."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

    # A strip of the picture, as loaded, to (rows, columns, 3).
    Converter = Callable[[Image], NDArray[np.uint8]]

BACKGROUND = 255  # transparent pictures lie on white
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")
MODES = frozenset(
    {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr", "LAB", "HSV", *_DEEP}
)
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_SCREEN_GAMMA = 1 / 2.2  # what a PNG file states that is made for sRGB screens
_TIFF_PHOTOMETRIC, _TIFF_BITS, _TIFF_SAMPLE_FORMAT = 262, 258, 339


class Unreadable(Exception):
    """Why a picture is refused, as the end of the sentence "image 'x.png' ..."."""


def rgb_converter(image: Image) -> Converter:
    """The function that turns strips of a picture into sRGB, from what the opened file says of itself.

    Raises:
      Unreadable: what the file says has no certain meaning, or its colour profile cannot be converted.
    """
    _refuse_other_meanings(image)
    mode, transparent = image.mode, image.info.get("transparency")
    depth, inverted = _grey_depth(image)
    to_srgb = _profile_converter(image)

    def convert(strip: Image) -> NDArray[np.uint8]:
        alpha = None
        if mode in ("1", "L", *_DEEP):
            values = np.asarray(strip.convert("L") if mode == "1" else strip)
            if transparent is not None:
                # The file states the transparent grey in its own depth; Pillow has scaled depths of 2 and 4 bits.
                stated = transparent * 255 // (2**depth - 1) if 1 < depth < 8 else transparent
                alpha = np.where(values == stated, 0, 255)
            grey = (values >> (depth - 8)).astype(np.uint8) if mode in _DEEP else values
            strip = _grey_image(255 - grey if inverted else grey)
        elif mode in _WITH_ALPHA or transparent is not None:
            strip = (strip.convert("LA") if mode == "La" else strip).convert("RGBA")
            alpha = np.asarray(strip.getchannel("A"))
            strip = strip.convert("RGB")
        elif mode in ("P", "RGBX", "YCbCr", "HSV"):
            strip = strip.convert("RGB")
        rgb = np.asarray(to_srgb(strip))
        return rgb if alpha is None else _over_background(rgb, alpha)

    return convert


def _grey_image(values: NDArray[np.uint8]) -> Image:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(values))


def _over_background(rgb: NDArray[np.uint8], alpha: NDArray[Any]) -> NDArray[np.uint8]:
    """c a + white (1 - a), in sRGB values as viewers do it, rounded to the nearest."""
    weight = alpha.astype(np.uint32)[..., None]
    return ((rgb * weight + BACKGROUND * (255 - weight) + 127) // 255).astype(np.uint8)


def _refuse_other_meanings(image: Image) -> None:
    """Refuse files whose numbers mean something else than Pillow's mode of them says."""
    info, raw = image.info, _raw_mode(image)
    gamma = info.get("gamma")
    if gamma and not ("icc_profile" in info or "srgb" in info) and abs(gamma - _SCREEN_GAMMA) > 0.01:
        raise Unreadable(f"states a gamma of {gamma:g}, which viewers treat in different ways")
    if image.mode == "RGB" and "16" in raw and "transparency" in info:
        raise Unreadable(
            "marks one colour of 16 bits as transparent, which cannot be told from its neighbours"
        )
    if image.format == "JPEG" and image.mode == "CMYK" and "adobe" not in info:
        raise Unreadable("is a CMYK file that does not say whether its inks are inverted")
    if image.format == "TIFF":
        formats = _tiff_tag(image, _TIFF_SAMPLE_FORMAT, 1)
        if set(formats if isinstance(formats, tuple) else (formats,)) - {1, 4}:
            raise Unreadable("stores integers with a sign, which have no range as a picture")


def _grey_depth(image: Image) -> tuple[int, bool]:
    """Bits of a grey value as the file stores it, and whether 0 is white without Pillow having turned it."""
    raw = _raw_mode(image)
    if image.mode in _DEEP:
        if image.format != "TIFF":
            return 16, False
        bits = _tiff_tag(image, _TIFF_BITS, 16)
        return bits[0] if isinstance(bits, tuple) else bits, _tiff_tag(image, _TIFF_PHOTOMETRIC, 1) == 0
    return {"L;2": 2, "L;4": 4}.get(raw, 8), False


def _raw_mode(image: Image) -> str:
    """Pillow's name of the stored layout ("RGB;16B"); "" where a format has none."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else None
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _tiff_tag(image: Image, tag: int, default: int) -> Any:
    return image.tag_v2.get(tag, default)  # type: ignore[attr-defined]


def _profile_converter(image: Image) -> Callable[[Image], Image]:
    """Colours of the file to sRGB: by its profile, by the definition of CIE Lab, or as they are."""
    from PIL import ImageCms

    if not image.info.get("icc_profile") and image.mode != "LAB":
        return lambda strip: strip.convert("RGB")
    source = _profile_of(image)
    held = _space_of(source, image)
    try:
        transform: Any = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            held,
            "RGB",
            renderingIntent=ImageCms.Intent(ImageCms.getDefaultIntent(source)),
        )
    except (ValueError, ImageCms.PyCMSError) as error:
        raise Unreadable(f"has a colour profile that cannot be converted to sRGB ({error})") from None
    if held == "RGB" and _changes_nothing(transform):
        return lambda strip: strip.convert("RGB")
    # A grey strip that was widened to RGB for its transparency has three equal channels: the profile reads one.
    return lambda strip: transform.apply(strip if strip.mode == held else strip.convert(held))


def _profile_of(image: Image) -> Any:
    from PIL import ImageCms

    if not image.info.get("icc_profile"):
        return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
    except (OSError, ImageCms.PyCMSError):
        raise Unreadable("has a colour profile that is damaged") from None


def _space_of(source: Any, image: Image) -> str:
    """Pillow's mode of the colours that a profile is for; it has to be that of the file's colours."""
    space = source.profile.xcolor_space.strip()
    held = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}.get(space)
    # Grey with transparency of 16 bits is opened as RGBA.
    grey = image.mode in ("1", "L", "LA", "La", *_DEEP) or _raw_mode(image).startswith("LA")
    fits = {"L": grey, "CMYK": image.mode == "CMYK", "LAB": image.mode == "LAB"}
    if held is None or not fits.get(held, image.mode not in ("CMYK", "LAB")):
        raise Unreadable(f"has a colour profile for {space} that does not fit its pixels ({image.mode})")
    return held


def _changes_nothing(transform: Any) -> bool:
    """Whether a profile is sRGB itself: no colour of a lattice moves by more than one level, which is rounding."""
    from PIL import Image

    levels = np.linspace(0, 255, 18).round().astype(np.uint8)
    lattice = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 18, 3)
    moved = np.asarray(transform.apply(Image.fromarray(lattice)))
    return bool(np.abs(moved.astype(int) - lattice).max() <= 1)
