"""Benchmarks of editing as they are published: PIE-Bench (Ju et al. 2024) and ImageNet-R-TI2I (Tumanyan et al. 2023).

A folder is a benchmark where its table lies in it: `mapping_file.json` of PIE-Bench (the same fields also in
`mapping_file_ti2i_benchmark.json`), `imnetr-ti2i.yaml` of ImageNet-R-TI2I. Every entry is one edit: an image, what it
shows, what it is to show, and in PIE-Bench the area that is to change. No torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taba_core.errors import UsageError
from taba_core.images.folder import IMAGE_SUFFIXES

PIE_TABLES = ("mapping_file.json", "mapping_file_ti2i_benchmark.json")
TI2I_TABLE = "imnetr-ti2i.yaml"
_PIE_IMAGES = "annotation_images"
_PIE_FIELDS = ("image_path", "original_prompt", "editing_prompt")


@dataclass(frozen=True)
class EditCase:
    """One edit of a benchmark.

    Attributes:
      name: of the entry.
      file: the image.
      source, target: what it shows ("" where nobody says), and what it is to show.
      kind: editing_type_id of PIE-Bench, "" elsewhere.
      runs: start and length of the runs of the area that is to change, over rows; None where there is no area.
    """

    name: str
    file: Path
    source: str
    target: str
    kind: str = ""
    runs: tuple[int, ...] | None = None

    def mask(self) -> NDArray[np.bool_]:
        """What is to change, (H, W) of the image; its border of one pixel always is. All where there is no area.

        Raises:
          UsageError: runs that do not lie in the image: the mask is of another size.
        """
        from PIL import Image

        with Image.open(self.file) as image:
            width, height = image.size
        if self.runs is None:
            return np.ones((height, width), dtype=bool)
        starts, lengths = self.runs[::2], self.runs[1::2]
        if len(starts) != len(lengths) or any(not 0 <= start < height * width for start in starts):
            raise UsageError(
                f"the mask of '{self.name}' is of another size than its image '{self.file}' ({width} x {height}): its "
                f"runs are pairs of start and length over {height * width} pixels. Put the image back as it was "
                "published."
            )
        flat = np.zeros(height * width, dtype=bool)
        for start, length in zip(starts, lengths, strict=True):
            flat[start : start + max(length, 0)] = True
        mask = flat.reshape(height, width)
        mask[[0, -1]] = True
        mask[:, [0, -1]] = True
        return mask


@dataclass(frozen=True)
class EditBenchmark:
    """A benchmark of editing.

    Attributes:
      title: PIE-Bench or ImageNet-R-TI2I.
      table: the file that lists the edits.
      cases: the edits, in the order of the table.
      skipped: a sentence about entries that name no image; "" where all do.
    """

    title: str
    table: Path
    cases: tuple[EditCase, ...]
    skipped: str = ""

    @property
    def fingerprint(self) -> str:
        """Hash of targets, kinds and areas, 24 hex digits."""
        told = [[case.name, case.source, case.target, case.kind, case.runs] for case in self.cases]
        return hashlib.blake2b(json.dumps(told).encode(), digest_size=12).hexdigest()


def table_of(folder: Path) -> Path | None:
    """The table of a benchmark in a folder; None where it is no benchmark."""
    tables = (folder / name for name in (*PIE_TABLES, TI2I_TABLE))
    return next((table for table in tables if table.is_file()), None)


def is_table(path: Path) -> bool:
    """Whether a file is called as the table of a benchmark is."""
    return path.name in (*PIE_TABLES, TI2I_TABLE)


def open_benchmark(place: Path) -> EditBenchmark:
    """The benchmark of a folder, or of its table.

    Raises:
      UsageError: a folder without a table, a table that cannot be read or lacks a field, an entry whose image is not
        there, or images that no entry names.
    """
    table = place if is_table(place) else table_of(place)
    if table is None:
        raise UsageError(
            f"{place} is no benchmark of editing: it holds neither {PIE_TABLES[0]} (PIE-Bench) nor {TI2I_TABLE} "
            "(ImageNet-R-TI2I). Give the folder that holds this file beside the images."
        )
    if not table.is_file():
        raise UsageError(
            f"{table}: there is no such file. Give the folder of a benchmark as it was published."
        )
    return _opened(table, table.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _opened(table: Path, changed: int) -> EditBenchmark:
    del changed  # it only tells the cache that the file is another
    return _ti2i(table) if table.name == TI2I_TABLE else _pie_bench(table)


def _pie_bench(table: Path) -> EditBenchmark:
    images = table.parent / _PIE_IMAGES
    cases = []
    for name, entry in _entries(table).items():
        for field in _PIE_FIELDS:
            if not isinstance(entry, dict) or not isinstance(entry.get(field), str):
                raise UsageError(
                    f"{table}, entry '{name}': '{field}' is missing or no text. Give the file as it was published."
                )
        cases.append(
            EditCase(
                name,
                _image(images / entry["image_path"], table, name),
                _plain(entry["original_prompt"]),
                _target(_plain(entry["editing_prompt"]), table, name),
                str(entry.get("editing_type_id", "")),
                _runs(entry.get("mask"), table, name),
            )
        )
    _refuse_unnamed([images], cases, table)
    return EditBenchmark("PIE-Bench", table, tuple(cases))


def _entries(table: Path) -> Mapping[str, Any]:
    try:
        read = json.loads(table.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{table} cannot be read ({type(error).__name__}). Give the file as it was published."
        ) from None
    if not isinstance(read, dict) or not read:
        raise UsageError(f"{table} holds no entries by name. Give the file as it was published.")
    return read


def _ti2i(table: Path) -> EditBenchmark:
    import yaml

    try:
        read = yaml.safe_load(table.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(
            f"{table} cannot be read ({type(error).__name__}). Give the file as it was published."
        ) from None
    if not isinstance(read, list) or not all(isinstance(entry, dict) for entry in read):
        raise UsageError(f"{table} holds no list of entries. Give the file as it was published.")
    cases, without = [], 0
    for number, entry in enumerate(read):
        if not entry.get("init_img"):
            without += 1
            continue
        name = str(entry["init_img"])
        file = _image(_whatever_case(table.parent, name), table, name)
        sources = entry.get("source_prompts") or [""]
        for index, target in enumerate(entry.get("target_prompts") or ()):
            source = str(sources[min(index, len(sources) - 1)] or "")
            cases.append(EditCase(f"{number}-{index}", file, source, _target(str(target), table, name)))
    if not cases:
        raise UsageError(
            f"{table} holds no entry with an image and a target. Give the file as it was published."
        )
    _refuse_unnamed({case.file.parent for case in cases}, cases, table)
    skipped = f"{table}: {without} entries name no image and are left out." if without else ""
    return EditBenchmark("ImageNet-R-TI2I", table, tuple(cases), skipped)


def _whatever_case(folder: Path, name: str) -> Path:
    """The file that a path names below a folder, in whatever case the folders are written."""
    parts, place = [part for part in Path(name).parts if part not in (".", "/")], folder
    if parts and parts[0].lower() == folder.name.lower() and not (folder / parts[0]).exists():
        parts = parts[1:]
    for part in parts:
        held = {entry.name.lower(): entry for entry in place.iterdir()} if place.is_dir() else {}
        place = held.get(part.lower(), place / part)
    return place


def _image(file: Path, table: Path, name: str) -> Path:
    if not file.is_file():
        raise UsageError(
            f"{table}, entry '{name}': its image '{file}' is not there. Put it there, or take the entry out."
        )
    return file


def _refuse_unnamed(folders: Iterable[Path], cases: Iterable[EditCase], table: Path) -> None:
    """Refuse (UsageError) images beside those of the entries that no entry names."""
    named = {case.file for case in cases}
    found = sorted(
        file
        for folder in folders
        for file in folder.rglob("*")
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and file not in named
    )
    if found:
        count = "1 image has" if len(found) == 1 else f"{len(found)} images have"
        raise UsageError(
            f"{table}: {count} no entry, the first is '{found[0]}'. Add an entry for each, or take the images away."
        )


def _plain(prompt: str) -> str:
    """A prompt without the brackets that mark what changes."""
    return " ".join(prompt.replace("[", " ").replace("]", " ").split())


def _target(prompt: str, table: Path, name: str) -> str:
    if not prompt.strip():
        raise UsageError(f"{table}, entry '{name}': its target is empty. Say there what the edit is to show.")
    return prompt


def _runs(value: Any, table: Path, name: str) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(number, int) for number in value):
        raise UsageError(
            f"{table}, entry '{name}': 'mask' is no list of whole numbers. Give the file as it was published."
        )
    return tuple(value)
