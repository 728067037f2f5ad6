"""Photographs by name, and their content: a hash of what they show, whatever their files are."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from taba_core.errors import UsageError
from taba_core.images import stamp
from taba_core.models import photos as module
from taba_core.models.mixture_fit import fit_key
from taba_core.models.options import PhotoMixtureOptions
from taba_core.models.photos import Photo, content_of, load_photos, photo_content, photo_notes


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TABA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "photos"
    path.mkdir()
    for seed, name in enumerate(("a.png", "b.png")):
        values = np.random.default_rng(seed).integers(0, 256, (70, 80), np.uint8)
        Image.fromarray(values).save(path / name)
    return path


def test_ten_photographs_ship_with_the_libraries():
    photos = load_photos()
    names = "astronaut cat coffee flower galaxies motorcycle retina rocket temple tissue"
    assert " ".join(photo.name for photo in photos) == names
    assert all(p.pixels().dtype == np.uint8 and p.pixels().shape[2] == 3 for p in photos)


def test_those_of_scikit_learn_are_its_own_and_are_read_without_importing_it():
    photos = {photo.name: photo.pixels() for photo in load_photos()}
    assert np.array_equal(photos["temple"], load_sample_image("china.jpg"))
    assert np.array_equal(photos["flower"], load_sample_image("flower.jpg"))
    code = "import sys; from taba_core.models.photos import load_photos; load_photos(); print('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_the_fingerprint_of_the_photographs_in_the_box_has_not_moved():
    """It is part of every key of the default model: computed before pictures were decoded one by one."""
    assert photo_content().fingerprint == "d09165f1b19dcefb9eab6531"
    assert fit_key(PhotoMixtureOptions()) == "a0890b37a6e24ff5296680c7"


def test_the_fingerprint_sees_one_grey_level():
    photo = load_photos()[0]
    changed = photo.pixels().copy()
    changed[0, 0, 0] ^= 1
    same = content_of([photo]).fingerprint
    assert content_of([Photo(photo.name, photo.pixels().copy())]).fingerprint == same
    assert content_of([Photo(photo.name, changed)]).fingerprint != same


def test_the_same_pictures_in_other_files_have_the_same_fingerprint(folder, tmp_path):
    """8 and 16 bits, turned with the orientation stated, transparent nowhere: one content, so one key."""
    deep, turned, opaque = (tmp_path / name for name in ("deep", "turned", "opaque"))
    tag = Image.Exif()
    tag[274] = 6
    for path in (deep, turned, opaque):
        path.mkdir()
        for file in folder.iterdir():
            image = Image.open(file)
            if path == deep:
                Image.fromarray(np.asarray(image).astype(np.uint16) * 257).save(path / file.name)
            elif path == turned:
                image.transpose(Image.Transpose.ROTATE_90).save(path / file.name, exif=tag)
            else:
                image.convert("RGBA").save(path / file.name)
    expected = photo_content(str(folder)).fingerprint
    for path in (deep, turned, opaque):
        assert photo_content(str(path)).fingerprint == expected
        assert fit_key(PhotoMixtureOptions(photos=str(path))) == fit_key(
            PhotoMixtureOptions(photos=str(folder))
        )


def test_a_folder_is_decoded_once_until_a_file_changes(folder, monkeypatch):
    decoded = []
    decode = module.decode_image
    monkeypatch.setattr(
        module, "decode_image", lambda path, what: decoded.append(path.name) or decode(path, what=what)
    )
    first = photo_content(str(folder))
    assert decoded == ["a.png", "b.png"]
    assert photo_content(str(folder)) == first and len(decoded) == 2
    Image.fromarray(np.zeros((70, 80), np.uint8)).save(folder / "b.png")
    assert photo_content(str(folder)).fingerprint != first.fingerprint and len(decoded) == 4
    monkeypatch.setattr(stamp, "DECODER_VERSION", stamp.DECODER_VERSION + 1)
    photo_content(str(folder))
    assert len(decoded) == 6


def test_a_cache_that_cannot_be_written_only_costs_decoding(folder, own_cache):
    expected = content_of(load_photos(str(folder)))
    own_cache.write_text("a file where the folder should be")
    assert photo_content(str(folder)) == expected


def test_skipped_files_and_equal_pictures_are_named(folder):
    assert photo_notes("builtin") == photo_notes(str(folder)) == ()
    shutil.copy(folder / "a.png", folder / "copy of a.png")
    (folder / "._a.png").write_bytes(b"made by macOS")
    for _ in range(2):  # decoded, and remembered
        assert photo_notes(str(folder)) == (
            f"{folder}: 1 entry is skipped, being no visible file with an image suffix: ._a.png.",
            f"{folder}: a.png, copy of a.png hold the same picture; each counts as a photograph of its own.",
        )


def test_small_photographs_and_files_that_are_none_are_refused_by_name(folder):
    Image.fromarray(np.zeros((63, 80), np.uint8)).save(folder / "c.png")
    with pytest.raises(
        UsageError, match=r"photo '.*c\.png' is 80x63 pixels; the shorter side must have at least 64"
    ):
        photo_content(str(folder))
    Path(folder / "c.png").write_text("no image")
    with pytest.raises(UsageError, match=r"photo '.*c\.png' is no PNG, JPEG, BMP, TIFF or WebP image"):
        photo_content(str(folder))
    with pytest.raises(UsageError, match=r"photos='.*nowhere': no such folder"):
        load_photos(str(folder / "nowhere"))
