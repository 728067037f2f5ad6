"""A file gives the picture that a viewer shows, whatever way it is stored in, or is refused by name."""

from __future__ import annotations

import io
import re
import warnings
import zlib

import numpy as np
import pytest
import tifffile
from picture_files import HEIGHT, STORED, WIDTH, chunk, colours, exif, greys, orientation_chunk, write_png
from PIL import Image, ImageCms

from taba_core.errors import UsageError
from taba_core.images import decode, decode_image

# Pillow's modes that a file of each format holds; all of them have to be read.
HELD = {
    ".png": "1 L LA P RGB RGBA I;16",
    ".tif": "1 L LA P PA RGB RGBX RGBA CMYK YCbCr LAB I;16 I;16B",
    ".jpg": "L RGB CMYK YCbCr",
    ".webp": "RGB RGBX RGBA",
    ".bmp": "1 L P RGB RGBA",
}
GREY = ("1", "L", "LA", "I;16", "I;16B")
# Largest difference allowed: JPEG's loss, a palette's, the rounding of other colour spaces; else none.
JPEG, ALLOWED = 12, {"P": 40, "PA": 40, "LAB": 5, "YCbCr": 3}


def upright_picture(mode):
    """What a viewer shows, with colours that the mode can hold."""
    if mode == "1":
        return np.asarray(Image.fromarray(colours()).convert("1").convert("RGB"))
    if mode == "LAB":  # 8-bit Lab is coarse where colours are strong
        return (colours() // 3 + 90).astype(np.uint8)
    return greys() if mode in GREY else colours()


def save(path, picture, mode, orientation):
    """Save an upright RGB picture in a mode, stored in the order of an orientation that is stated by EXIF."""
    stored = np.ascontiguousarray(STORED[orientation](picture))
    image = Image.fromarray(stored)
    if mode.startswith("I;16"):
        deep = stored[..., 0].astype(">u2" if mode.endswith("B") else "<u2") * 257
        image = Image.frombytes(mode, image.size, deep.tobytes())
    elif mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB")
    elif mode in ("P", "PA"):
        image = image.quantize(256) if mode == "P" else image.quantize(256).convert("PA")
    else:
        image = image.convert(mode)
    options = {".jpg": {"quality": 98, "subsampling": 0}, ".webp": {"lossless": True}}.get(path.suffix, {})
    image.save(path, **options, **({"exif": exif(orientation)} if orientation != 1 else {}))


@pytest.mark.parametrize(("suffix", "mode"), [(s, m) for s, modes in HELD.items() for m in modes.split()])
def test_every_mode_in_every_orientation_is_the_clean_picture(tmp_path, mode, suffix):
    picture = upright_picture(mode)
    for orientation in STORED if suffix != ".bmp" else (1,):  # BMP files state no orientation
        path = tmp_path / f"picture{orientation}{suffix}"
        save(path, picture, mode, orientation)
        found = decode_image(path)
        assert found.dtype == np.uint8 and found.shape == (HEIGHT, WIDTH, 3)
        difference = np.abs(found.astype(int) - picture).max()
        assert difference <= (JPEG if suffix == ".jpg" else ALLOWED.get(mode, 0)), (orientation, difference)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_png_of_16_bits(tmp_path, kind, channels, orientation):
    """257 v of 65535 is v of 255; the lower byte is cut off, so 257 v + 100 is v as well."""
    picture = greys() if channels < 3 else colours()
    deep = picture.astype(np.uint16)[..., : min(channels, 3) if channels != 2 else 1] * 257
    if channels in (2, 4):
        deep = np.concatenate([deep, np.full((*deep.shape[:2], 1), 65535, np.uint16)], axis=-1)
    path = tmp_path / "deep.png"
    write_png(path, STORED[orientation](deep), kind=kind, depth=16, chunks=orientation_chunk(orientation))
    np.testing.assert_array_equal(decode_image(path), picture)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite", "rgb"])
def test_tiff_of_16_bits(tmp_path, photometric, order):
    path, picture = tmp_path / "deep.tif", colours() if photometric == "rgb" else greys()
    deep = (picture if photometric == "rgb" else picture[..., 0]).astype(np.uint16) * 257
    stored = 65535 - deep if photometric == "miniswhite" else deep
    tifffile.imwrite(path, stored, photometric=photometric, byteorder=order)
    if (order, photometric) == (">", "miniswhite"):  # Pillow knows no such kind
        with pytest.raises(UsageError, match="kind of pixels is not known"):
            decode_image(path)
    else:
        np.testing.assert_array_equal(decode_image(path), picture)


def test_signed_float_and_deeper_numbers_have_no_range_and_are_refused_by_name(tmp_path):
    for dtype in (np.int8, np.int16, np.int32, np.uint32, np.float32):
        path = tmp_path / f"{np.dtype(dtype).name}.tif"
        tifffile.imwrite(path, (greys()[..., 0] // 2).astype(dtype), photometric="minisblack")
        with pytest.raises(UsageError) as caught:
            decode_image(path, what="photo")
        assert str(caught.value).startswith(f"photo '{path}' ")
        assert str(caught.value).endswith("Save it as an 8-bit RGB PNG file, or remove it.")


def test_transparent_pictures_lie_on_white_and_hidden_colours_do_not_count(tmp_path):
    """Opaque 100 stays; at alpha 51 = 0.2: 100 * 0.2 + 255 * 0.8 = 224; at alpha 0 any colour is white."""
    for mode, suffix in (("RGBA", ".png"), ("RGBA", ".webp"), ("RGBA", ".tif"), ("LA", ".png")):
        values = np.full((HEIGHT, WIDTH, len(mode)), 100, np.uint8)
        values[..., -1] = 255
        values[:20, :, -1] = 51
        values[20:40, :, :-1], values[20:40, :, -1] = 13, 0
        path = tmp_path / f"x{suffix}"
        Image.fromarray(values, mode).save(path, **({"lossless": True} if suffix == ".webp" else {}))
        found = decode_image(path)
        assert (found[:20] == 224).all() and (found[20:40] == 255).all() and (found[40:] == 100).all()


def test_colours_that_are_stored_multiplied_by_their_alpha(tmp_path):
    """Stored 20 at alpha 51 = 0.2 is colour 100: 100 * 0.2 + 255 * 0.8 = 224."""
    values = np.full((HEIGHT, WIDTH, 4), (20, 20, 20, 51), np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb", extrasamples=["assocalpha"])
    assert (decode_image(tmp_path / "x.tif") == 224).all()
    tifffile.imwrite(
        tmp_path / "y.tif", values[..., 2:], photometric="minisblack", extrasamples=["assocalpha"]
    )
    assert (decode_image(tmp_path / "y.tif") == 224).all()


def test_transparency_stated_beside_the_pixels(tmp_path):
    """PNG's tRNS: one grey or colour, or an alpha for each entry of a palette, in the file's own depth."""
    grey, path = greys()[..., :1], tmp_path / "x.png"
    hidden = grey[..., 0] == 60
    assert hidden.any() and not hidden.all()
    expected = np.where(hidden[..., None], 255, greys())
    write_png(path, grey, kind=0, depth=8, chunks=chunk(b"tRNS", b"\0\x3c"))
    np.testing.assert_array_equal(decode_image(path), expected)
    write_png(path, grey.astype(np.uint16) * 257, kind=0, depth=16, chunks=chunk(b"tRNS", b"\x3c\x3c"))
    np.testing.assert_array_equal(decode_image(path), expected)
    write_png(path, colours(), kind=2, depth=8, chunks=chunk(b"tRNS", b"\0\xe6\0\x14\0\x3c"))
    found = decode_image(path)
    assert (found[:10, :20] == 255).all()
    np.testing.assert_array_equal(found[10:], colours()[10:])
    palette = chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60])) + chunk(b"tRNS", bytes([255, 0]))
    write_png(path, (grey > 100).astype(np.uint8), kind=3, depth=8, chunks=palette)
    expected = np.where(grey > 100, 255, np.array([10, 20, 30]))
    np.testing.assert_array_equal(decode_image(path), expected)
    write_png(path, colours().astype(np.uint16) * 257, kind=2, depth=16, chunks=chunk(b"tRNS", b"\0" * 6))
    with pytest.raises(UsageError, match="marks one colour of 16 bits as transparent"):
        decode_image(path)


def adobe_like_profile():
    """A matrix profile with other primaries than sRGB: Pillow's own sRGB profile, red and green exchanged."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = content.index(b"rXYZ"), content.index(b"gXYZ")
    content[red : red + 4], content[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(content)


def test_an_embedded_profile_is_converted_to_srgb(tmp_path):
    """A profile whose red primary is sRGB's green: the picture's first two channels change places."""
    path = tmp_path / "x.png"
    Image.fromarray(colours()).save(path, icc_profile=adobe_like_profile())
    found = decode_image(path).astype(int)
    assert np.abs(found - colours()[..., [1, 0, 2]]).max() <= 2
    transparent = np.dstack([colours(), np.zeros((HEIGHT, WIDTH), np.uint8)])
    Image.fromarray(transparent).save(path, icc_profile=adobe_like_profile())
    assert (decode_image(path) == 255).all()


def test_a_profile_that_is_srgb_changes_no_bit_and_a_damaged_one_is_refused(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(colours()).save(
        path, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    )
    np.testing.assert_array_equal(decode_image(path), colours())
    Image.fromarray(colours()).save(path, icc_profile=b"no profile")
    with pytest.raises(UsageError, match="has a colour profile that is damaged"):
        decode_image(path)
    Image.fromarray(colours()).convert("CMYK").save(tmp_path / "x.tif", icc_profile=adobe_like_profile())
    with pytest.raises(
        UsageError, match=r"has a colour profile for RGB that does not fit its pixels \(CMYK\)"
    ):
        decode_image(tmp_path / "x.tif")
    # Grey pictures that programs made of colour ones often keep the profile of these.
    Image.fromarray(greys()[..., 0]).save(path, icc_profile=adobe_like_profile())
    assert np.abs(decode_image(path).astype(int) - greys()).max() <= 2


def test_pictures_that_are_several_are_refused_and_the_first_of_a_phones_file_is_read(tmp_path):
    first, second = Image.fromarray(colours()), Image.fromarray(255 - colours())
    for name in ("x.png", "x.tif", "x.webp"):
        first.save(tmp_path / name, save_all=True, append_images=[second])
        with pytest.raises(UsageError, match=r"holds 2 pictures \(an animation or several pages\)"):
            decode_image(tmp_path / name)
    content = io.BytesIO()
    first.save(content, "MPO", save_all=True, append_images=[second], quality=98, subsampling=0)
    (tmp_path / "x.jpg").write_bytes(content.getvalue())
    assert np.abs(decode_image(tmp_path / "x.jpg").astype(int) - colours()).max() <= JPEG


def test_a_png_for_another_gamma_is_refused(tmp_path):
    write_png(
        tmp_path / "x.png", colours(), kind=2, depth=8, chunks=chunk(b"gAMA", (100000).to_bytes(4, "big"))
    )
    with pytest.raises(UsageError, match="states a gamma of 1, which viewers treat in different ways"):
        decode_image(tmp_path / "x.png")
    write_png(
        tmp_path / "x.png", colours(), kind=2, depth=8, chunks=chunk(b"gAMA", (45455).to_bytes(4, "big"))
    )
    np.testing.assert_array_equal(decode_image(tmp_path / "x.png"), colours())


def test_files_that_hold_no_whole_image_are_refused_by_name(tmp_path):
    whole = tmp_path / "whole.png"
    Image.fromarray(colours()).save(whole)
    for name, content in (
        ("text.png", b"no image"),
        ("empty.jpg", b""),
        ("cut.png", whole.read_bytes()[:-60]),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UsageError) as caught:
            decode_image(path, what="photo")
        assert str(caught.value).startswith(f"photo '{path}' ")
    Image.fromarray(colours()).save(tmp_path / "x.gif")
    (tmp_path / "x.png").write_bytes((tmp_path / "x.gif").read_bytes())
    with pytest.raises(UsageError, match="is no PNG, JPEG, BMP, TIFF or WebP image"):
        decode_image(tmp_path / "x.png")


def empty_png(path, width, height):
    """The head of a large picture and nothing behind it: what is refused by size is not decoded."""
    write_png(path, np.zeros((1, 1, 3)), kind=2, depth=8)
    content = bytearray(path.read_bytes())
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("width", "height", "words"),
    [
        (
            16000,
            10000,
            r"is 16000x10000 pixels \(160 megapixels\); decoding it would take 1\.1 GB of memory, and 1 GB",
        ),
        (
            20000,
            15000,
            r"has more than 179 megapixels, which is too large to decode\. Save a smaller version of it",
        ),
    ],
)
def test_pictures_too_large_for_the_memory_are_refused_without_a_librarys_warning(
    tmp_path, width, height, words
):
    path = tmp_path / "large.png"
    empty_png(path, width, height)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UsageError, match=f"photo '{re.escape(str(path))}' {words}"):
            decode_image(path, what="photo")


def test_strips_are_no_part_of_the_picture(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    for orientation in STORED:
        Image.fromarray(np.ascontiguousarray(STORED[orientation](colours()))).save(
            path, exif=exif(orientation)
        )
        for pixels in (1, 500, 1 << 20):
            monkeypatch.setattr(decode, "_STRIP_PIXELS", pixels)
            np.testing.assert_array_equal(decode_image(path), colours())
