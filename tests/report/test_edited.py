"""The files of `taba edit` from pictures alone: names, sheets of eight, grey pictures, titles that fit."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
from PIL import Image

from workflows.analysis.picture_edits import variants
from workflows.report.edited import Edited, write_edited

FACTS = {"model_title": "Photo IF", "to": "a middle view of the tissue, bright, mostly white, busy"}


def edited(folder, names, channels=3, size=16):
    files = []
    for name in names:
        files.append(Path(folder / name))
        files[-1].write_bytes(name.encode())
    rows = tuple(variants(50, (0, 2), (42, 43)))
    rng = np.random.default_rng(0)
    shape = (len(names), channels, size, size)
    pictures = {row.name: rng.integers(0, 256, shape, dtype=np.uint8) for row in rows}
    return Edited(tuple(files), rows, pictures, FACTS)


def test_rows_are_source_reconstruction_and_edits_by_steps_and_seed(tmp_path):
    rows = edited(tmp_path, ["a.png"]).rows
    assert [(row.name, row.forward_steps, row.seed) for row in rows] == [
        ("source", None, None), ("reconstruction", 0, None), ("edit-latent", 0, None),
        ("edit-K2-seed42", 2, 42), ("edit-K2-seed43", 2, 43),
    ]  # fmt: skip
    assert [row.is_edit for row in rows] == [False, False, True, True, True]
    assert rows[3].label == "edit, repaired\n4 % (seed 42)"  # 2 of 50 steps


def test_images_with_one_stem_keep_their_suffix_and_others_do_not(tmp_path):
    assert edited(tmp_path, ["a.jpg", "a.png", "b.png"]).names == ["a-jpg", "a-png", "b"]
    # One image of a benchmark may be edited several times.
    assert edited(tmp_path, ["a.jpg", "a.jpg", "b.png"]).names == ["a-jpg-0", "a-jpg-1", "b"]


def test_nine_images_lie_on_two_sheets_and_a_later_run_with_fewer_removes_the_second(tmp_path):
    names = [f"{i}.png" for i in range(9)]
    (tmp_path / "in").mkdir()
    sheets = write_edited(edited(tmp_path / "in", names), tmp_path, time.monotonic())
    assert [sheet.name for sheet in sheets] == ["contact-sheet.png", "contact-sheet-2.png"]
    with Image.open(sheets[0]) as first, Image.open(sheets[1]) as second:
        assert first.width > 2 * second.width
    told = json.loads((tmp_path / "edits.json").read_text())
    assert told["sheets"] == [sheet.name for sheet in sheets] and len(told["images_edited"]) == 9
    write_edited(edited(tmp_path / "in", names[:1]), tmp_path, time.monotonic())
    assert sorted(file.name for file in tmp_path.glob("*.png")) == sorted(
        ["contact-sheet.png", *(f"0--{row.name}.png" for row in edited(tmp_path / "in", names[:1]).rows)]
    )


def test_distances_of_a_worked_example(tmp_path):
    made = edited(tmp_path, ["a.png"])
    level = {row.name: np.full((1, 3, 16, 16), 100, np.uint8) for row in made.rows}
    level["edit-latent"] = np.full((1, 3, 16, 16), 151, np.uint8)  # 51 levels of 127.5 a unit are 0.4
    found = Edited(made.files, made.rows, level, FACTS)
    assert found.distances["edit-latent"]["mean_difference"] == [0.4]
    assert found.distances["reconstruction"] == {"mean_difference": [0.0], "ssim": [1.0]}
    (line,) = found.lines()
    assert "reconstruction 0.000, edit from the latent 0.400, edits repaired with K=2 0.000 to 0.000" in line


def test_grey_pictures_are_grey_files_without_ssim_where_they_are_too_small(tmp_path):
    made = edited(tmp_path, ["a.png"], channels=1, size=4)
    write_edited(made, tmp_path, time.monotonic())
    with Image.open(tmp_path / "a--source.png") as image:
        assert image.mode == "L" and np.array_equal(np.asarray(image), made.pictures["source"][0, 0])
    assert list(made.distances["reconstruction"]) == ["mean_difference"]


def test_a_long_target_is_broken_into_lines_of_the_width_of_the_columns(tmp_path):
    lines = edited(tmp_path, ["a.png"]).title(1).split("\n")
    assert " ".join(lines) == "Photo IF, edited to: a middle view of the tissue, bright, mostly white, busy"
    assert max(map(len, lines)) <= 28
