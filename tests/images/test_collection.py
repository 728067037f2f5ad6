"""Folders of real images: squares, order, fingerprint, captions and classes, and what is refused in which words."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from picture_files import STORED, colours, exif, write_png
from PIL import Image

from taba_core.errors import UsageError, WorkError
from taba_core.images import collection as module
from taba_core.images.collection import open_images

EXAMPLE = (
    'Write one line for each image in metadata.jsonl, for example {"file_name": "a.png", "text": "a cat"}.'
)
NAMES = ("a.png", "b.png", "c.png")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TABA_CACHE", str(tmp_path / "cache"))
    module._fingerprint.cache_clear()
    return tmp_path / "cache"


def save(path, pixels, **options):
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "images"
    place.mkdir()
    for level, name in enumerate(NAMES):
        save(place / name, np.full((6, 6, 3), 10 * level))
    return place


def write(folder, *rows):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def rows(**columns):
    """One line for each image, with these fields."""
    return [
        {"file_name": name, **{field: values[i] for field, values in columns.items()}}
        for i, name in enumerate(NAMES)
    ]


def refusal(folder):
    with pytest.raises(UsageError) as refused:
        open_images(folder)
    return str(refused.value)


def test_a_square_is_the_centre_averaged_over_areas(tmp_path):
    # Columns 0 1 | 2..5 | 6 7 of 8, all 4 rows: the centre square holds columns 2 to 5. Blocks of 2x2 are averaged:
    # (10 + 20 + 30 + 40) / 4 = 25, (0 + 0 + 100 + 100) / 4 = 50, 7, and (1 + 3 + 3 + 5) / 4 = 3.
    centre = [[10, 20, 0, 0], [30, 40, 100, 100], [7, 7, 1, 3], [7, 7, 3, 5]]
    wide = np.full((4, 8), 255)
    wide[:, 2:6] = centre
    save(tmp_path / "a.png", wide)
    save(tmp_path / "b.png", wide.T)
    found = open_images(tmp_path).squares(0, 2, 2)
    assert found.shape == (2, 3, 2, 2) and found.dtype == np.uint8
    assert found[0].tolist() == [[[25, 50], [7, 3]]] * 3
    assert found[1].tolist() == [[[25, 7], [50, 3]]] * 3


def test_of_an_odd_margin_the_larger_part_is_cut_at_the_right_and_below(tmp_path):
    # Sides of 2 and 5: a margin of 3 is 1 before and 2 behind.
    line = [[0, 10, 20, 30, 40]] * 2
    save(tmp_path / "a.png", line)
    save(tmp_path / "b.png", np.transpose(line))
    assert open_images(tmp_path).squares(0, 2, 2)[:, 0].tolist() == [
        [[10, 20], [10, 20]],
        [[10, 10], [20, 20]],
    ]


def test_a_square_that_grows_is_interpolated_and_one_that_fits_is_left_alone(tmp_path):
    ramp = np.repeat(np.arange(0, 240, 30)[None], 8, axis=0)
    save(tmp_path / "a.png", ramp)
    images = open_images(tmp_path)
    assert (images.squares(0, 1, 8)[0] == ramp).all()
    grown = images.squares(0, 1, 16)[0, 0].astype(int)
    # A cubic reproduces a ramp away from the border: steps of 15, the pixel centres at a quarter and three quarters.
    assert (abs(np.diff(grown, axis=1)[:, 4:-4] - 15) <= 1).all()
    assert len(np.unique(grown[0])) == 16  # repeated pixels would give 8 values


def test_images_are_in_the_order_of_their_names(folder):
    shutil.move(folder / "a.png", folder / "d.png")
    images = open_images(folder)
    assert [file.name for file in images.files] == ["b.png", "c.png", "d.png"]
    assert images.squares(0, 3, 1)[:, 0, 0, 0].tolist() == [10, 20, 0]
    assert images.squares(1, 3, 1)[:, 0, 0, 0].tolist() == [20, 0]


def test_a_fingerprint_is_of_pixels_in_their_order_however_files_store_them(tmp_path):
    folders = {name: tmp_path / name for name in ("plain", "deep", "turned", "renamed", "swapped", "other")}
    for place in folders.values():
        place.mkdir()
    upright, dark = colours(), colours() // 2
    for name, place in folders.items():
        first, second = ("b.png", "a.png") if name == "swapped" else ("a.png", "b.png")
        if name == "renamed":
            first, second = "one.png", "two.png"
        save(place / second, dark)
        if name == "deep":
            write_png(place / first, upright.astype(np.uint16) * 256 + 200, kind=2, depth=16)
        elif name == "turned":
            save(place / first, STORED[6](upright), exif=exif(6))
        else:
            changed = upright.copy()
            changed[-1, -1, -1] += name == "other"
            save(place / first, changed)
    found = {name: open_images(place).fingerprint() for name, place in folders.items()}
    assert found["plain"] == found["deep"] == found["turned"] == found["renamed"]
    assert len({found[name] for name in ("plain", "swapped", "other")}) == 3


def test_captions_and_classes_are_part_of_the_fingerprint(folder):
    found = {open_images(folder).fingerprint()}
    for columns in ({"text": "xyz"}, {"text": "xyx"}, {"class": (1, 2, 3)}, {"class": (1, 2, 4)}):
        write(folder, *rows(**columns))
        found.add(open_images(folder).fingerprint())
    assert len(found) == 5


def test_captions_and_classes_go_by_the_name_of_the_image(folder):
    lines = rows(text=("first", "a \u2028 break".replace(" \u2028", ""), "日本 🏯"), **{"class": (7, 0, 2)})
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in reversed(lines))
        (folder / "metadata.jsonl").write_bytes(f"\n{text}\n\n".encode(encoding))
        images = open_images(folder)
        assert images.captions == ("first", "a break", "日本 🏯") and images.classes == (7, 0, 2)
        assert images.skipped == ""


def test_other_fields_and_null_are_left_alone(folder):
    write(folder, *rows(text=(None, None, None), width=(1, 2, 3)))
    images = open_images(folder)
    assert images.captions == images.classes == ()


A_LINE = {"file_name": "a.png", "text": "a cat"}
NO_OBJECT = "{path}, line 1: no JSON object with a file_name. " + EXAMPLE
RULE = "{path}, line 2: '%s' must be %s for every image or be left out for all, and 'b.png' "
TEXT_RULE = RULE % ("text", "a text that is not empty")
CLASS_RULE = RULE % ("class", "a whole number from 0")
REFUSED = {
    "no JSON": (["a.png a cat"], NO_OBJECT),
    "a list": ([["a.png", "a cat"]], NO_OBJECT),
    "no name": ([{"text": "a cat"}], NO_OBJECT),
    "a name that is a list": ([{"file_name": ["a.png"]}], NO_OBJECT),
    "twice": ([A_LINE, A_LINE], "{path}, line 2: 'a.png' is named twice. " + EXAMPLE),
    "a stranger": (
        [A_LINE, {"file_name": "z.png", "text": "z"}],
        "{path}, line 2: 'z.png' is no image of the folder. " + EXAMPLE,
    ),
    "one missing": (rows(text="xyz")[:2], "{path}: 1 image has no line, the first is 'c.png'. " + EXAMPLE),
    "two missing": ([A_LINE], "{path}: 2 images have no line, the first is 'b.png'. " + EXAMPLE),
    "some captions": (rows(text=("x", None, "z")), TEXT_RULE + "has none. " + EXAMPLE),
    "a number as a caption": (rows(text=("x", 3, "z")), TEXT_RULE + "has 3. " + EXAMPLE),
    "an empty caption": (rows(text=("x", " ", "z")), TEXT_RULE + 'has " ". ' + EXAMPLE),
    "some classes": (rows(**{"class": (1, None, 1)}), CLASS_RULE + "has none. " + EXAMPLE),
    "a text as a class": (rows(**{"class": (1, "2", 1)}), CLASS_RULE + 'has "2". ' + EXAMPLE),
    "a fraction": (rows(**{"class": (1, 2.0, 1)}), CLASS_RULE + "has 2.0. " + EXAMPLE),
    "true": (rows(**{"class": (1, True, 1)}), CLASS_RULE + "has true. " + EXAMPLE),
    "minus one, which is no class": (rows(**{"class": (1, -1, 1)}), CLASS_RULE + "has -1. " + EXAMPLE),
    "too large": (rows(**{"class": (1, 2**31, 1)}), CLASS_RULE + "has 2147483648. " + EXAMPLE),
    "invisible": (
        rows(text=("x", "a\u200bcat", "z")),
        "prompts {path}:2: character 2 is U+200B (ZERO WIDTH SPACE), which is not seen and would change what the text "
        "encoder reads. Delete it, or write the line anew.",
    ),
    "half a character": (
        rows(text=("x", "\ud800", "z")),
        "prompts {path}:2: character 1 is U+D800 (a control character), which is not seen and would change what the "
        "text encoder reads. Delete it, or write the line anew.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_metadata_that_cannot_be_right_is_refused(folder, case):
    lines, said = REFUSED[case]
    write(folder, *lines)
    assert refusal(folder) == said.replace("{path}", str(folder / "metadata.jsonl"))


def test_metadata_that_is_no_text_or_no_file_is_refused(folder):
    path = folder / "metadata.jsonl"
    path.write_bytes(b'{"file_name": "a.png", "text": "caf\xe9"}\n')
    assert refusal(folder) == (
        f"metadata {path}: line 1 is no UTF-8 text (byte 0xe9 at position 35 of the file). Save the file as UTF-8; "
        "from another encoding: iconv -f LATIN1 -t UTF-8 OLD.txt > NEW.txt."
    )
    path.write_bytes(b"\0\1")
    assert refusal(folder) == (
        f"metadata {path}: line 1 holds a zero byte, so it is no UTF-8 text: it is a binary file, or UTF-16 without "
        f"its mark (BOM). {EXAMPLE}"
    )
    path.unlink()
    for make in (path.mkdir, lambda: path.symlink_to(folder / "nowhere")):
        make()
        assert refusal(folder) == f"{path} is no file that can be read. {EXAMPLE}"
        path.rmdir() if path.is_dir() else path.unlink()


def test_what_is_no_image_is_named_but_the_metadata_is_not(folder):
    write(folder, *rows(text="xyz"))
    (folder / "notes.txt").touch()
    (folder / "metadata.csv").touch()
    assert open_images(folder).skipped == (
        f"{folder}: 2 entries are skipped, being no visible file with an image suffix: metadata.csv, notes.txt."
    )


def test_a_stamp_tells_of_changes_and_not_of_copies(folder, tmp_path):
    images = open_images(folder)
    copy = tmp_path / "elsewhere" / "images"
    shutil.copytree(folder, copy)
    assert open_images(copy).stamp == images.stamp
    images.check_unchanged(images.stamp)

    def other_size():
        save(folder / "b.png", np.arange(108).reshape(6, 6, 3))

    def other_time():
        os.utime(folder / "b.png", (1, 1))

    for change in (
        other_size,
        other_time,
        lambda: (folder / "b.png").unlink(),
        lambda: write(folder, {"file_name": "a.png", "text": "x"}, {"file_name": "c.png", "text": "y"}),
        lambda: (folder / "metadata.jsonl").unlink() or shutil.copy(folder / "a.png", folder / "d.png"),
    ):
        before = open_images(folder).stamp
        change()
        with pytest.raises(WorkError) as refused:
            open_images(folder).check_unchanged(before)
        assert str(refused.value) == (
            f"the images in {folder} are others than the run was planned with: a file was changed, added or removed "
            "since, or this machine has another folder of that name. Start the run again, with the same files on every "
            "machine."
        )


def test_a_link_to_nothing_is_one_clear_error(folder):
    (folder / "d.png").symlink_to(folder / "gone.png")
    with pytest.raises(UsageError) as refused:
        open_images(folder).fingerprint()
    assert (
        str(refused.value)
        == f"image '{folder / 'd.png'}' cannot be read (No such file or directory). Remove it."
    )


def test_pictures_are_decoded_once_until_a_file_changes(folder, monkeypatch):
    decoded, decode = [], module.decode_image
    monkeypatch.setattr(module, "decode_image", lambda path: decoded.append(path.name) or decode(path))
    first = open_images(folder).fingerprint()
    module._fingerprint.cache_clear()  # another process
    assert open_images(folder).fingerprint() == first and decoded == list(NAMES)
    # Another picture of the same size and time of modification, as unpacked archives and copies have them.
    stat = (folder / "b.png").stat()
    save(folder / "b.png", np.full((6, 6, 3), 11))
    os.utime(folder / "b.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (folder / "b.png").stat().st_size == stat.st_size
    assert open_images(folder).fingerprint() != first and len(decoded) == 6


def test_two_folders_whose_files_look_alike_are_told_apart(tmp_path):
    folders = [tmp_path / "one", tmp_path / "other"]
    for level, folder in enumerate(folders):
        folder.mkdir()
        save(folder / "a.bmp", np.full((6, 6, 3), level))
        os.utime(folder / "a.bmp", (10**9, 10**9))
    one, other = map(open_images, folders)
    assert one.stamp == other.stamp and one.fingerprint() != other.fingerprint()


def test_a_cache_that_cannot_be_written_only_costs_time(folder, own_cache):
    own_cache.write_text("a file where the folder should be")
    first = open_images(folder).fingerprint()
    module._fingerprint.cache_clear()
    assert open_images(folder).fingerprint() == first
