"""Which entries of a folder are images: one rule, and nothing left out in silence."""

from __future__ import annotations

import pytest

from taba_core.errors import UsageError
from taba_core.images import list_images

SKIPPED = (
    "._a.png",
    ".DS_Store",
    ".hidden.png",
    "Thumbs.db",
    "desktop.ini",
    "notes.txt",
    "x.gif",
    "x.heic",
    "x.avif",
)
IMAGES = ("a.png", "b.JPG", "c.jpeg", "d.jpe", "e.jfif", "f.bmp", "g.tif", "h.TIFF", "i.webp")


def test_images_are_sorted_and_everything_else_is_counted_and_named(tmp_path):
    for name in (*SKIPPED, *reversed(IMAGES)):
        (tmp_path / name).touch()
    (tmp_path / "sub.png").mkdir()
    found = list_images(tmp_path)
    assert [path.name for path in found.images] == list(IMAGES)
    assert found.skipped == tuple(sorted((*SKIPPED, "sub.png/")))
    assert found.skipped_line() == (
        f"{tmp_path}: 10 entries are skipped, being no visible file with an image suffix: .DS_Store, ._a.png, "
        ".hidden.png, Thumbs.db, desktop.ini and 5 more."
    )


def test_one_entry_and_none(tmp_path):
    (tmp_path / "a.png").touch()
    assert list_images(tmp_path).skipped_line() == ""
    (tmp_path / "._a.png").touch()
    assert list_images(tmp_path).skipped_line() == (
        f"{tmp_path}: 1 entry is skipped, being no visible file with an image suffix: ._a.png."
    )


def test_no_folder_and_no_image_are_refused(tmp_path):
    with pytest.raises(
        UsageError, match=r"photos='.*nowhere': no such folder\. Give a folder of images \(\.png,"
    ):
        list_images(tmp_path / "nowhere", what="photos")
    (tmp_path / "x.heic").touch()
    with pytest.raises(
        UsageError, match=r"the folder holds no image; it holds 1 other entries\. Accepted suffixes: \.png, "
    ):
        list_images(tmp_path)
