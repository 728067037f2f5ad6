"""The files of `taba edit`: a PNG of every picture, contact sheets, and edits.json with what each was made by."""

from __future__ import annotations

import hashlib
import io
import json
import textwrap
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taba_core.stats.similarity import WINDOW, structural_similarity
from workflows.analysis.picture_edits import LATENT, RECONSTRUCTION, SOURCE, Variant
from workflows.report.grids import image_tiles, tile_grid
from workflows.report.style import figure_png

EDITS = "edits.json"
Pictures = NDArray[np.uint8]
COLUMNS = 8  # images side by side on one sheet
_TILE, _LABELS = 1.15, 1.3  # inches: a tile, the labels of the rows
_NAME = 18  # characters of an image's name above its column
_TITLE = 14  # characters of the title above each column, and above the labels
_LEVELS = 127.5  # 8-bit levels in a unit of [-1, 1]


@dataclass(frozen=True)
class Edited:
    """What a run of `taba edit` made of n images.

    Attributes:
      files: the images, n. rows: what was made of each, the source first.
      pictures: by row, uint8 (n, 1 or 3, H, W), as the model sees them.
      facts: of all images, as edits.json says them; `to` and `model_title` are in the title of the sheets.
    """

    files: tuple[Path, ...]
    rows: tuple[Variant, ...]
    pictures: Mapping[str, Pictures]
    facts: Mapping[str, Any]

    @cached_property
    def names(self) -> list[str]:
        """What the files of each image begin with: its name without suffix, or with it where two would be alike.

        Images of several folders, or one that stands several times, may still be alike: then their number is added.
        """
        stems = Counter(file.stem for file in self.files)
        names = [file.stem if stems[file.stem] == 1 else file.name.replace(".", "-") for file in self.files]
        alike = Counter(names)
        return [name if alike[name] == 1 else f"{name}-{index}" for index, name in enumerate(names)]

    @cached_property
    def distances(self) -> dict[str, dict[str, list[float]]]:
        """By row but the source: mean |difference| from the source in units of [-1, 1], and SSIM, of each image."""
        source, found = self.pictures[SOURCE].astype(np.float64), {}
        for row in self.rows[1:]:
            other = self.pictures[row.name].astype(np.float64)
            found[row.name] = {
                "mean_difference": (np.abs(other - source).mean(axis=(1, 2, 3)) / _LEVELS).tolist()
            }
            if min(source.shape[2:]) >= WINDOW:
                found[row.name]["ssim"] = structural_similarity(source, other, 255.0).tolist()
        return found

    def title(self, columns: int) -> str:
        """Of a sheet: the model and what the edits are asked for, broken to the width of so many columns."""
        text = f"{self.facts['model_title']}, edited to: {self.facts['to']}"
        return textwrap.fill(text, _TITLE * (columns + 1))

    def lines(self) -> list[str]:
        """One line an image: how far from the source each start leads, as mean |difference|."""
        return [f"{file.name}: {self._line(index)}" for index, file in enumerate(self.files)]

    def _line(self, index: int) -> str:
        def of(row: str) -> float:
            return self.distances[row]["mean_difference"][index]

        edits = [row for row in self.rows if row.is_edit]
        parts = [f"reconstruction {of(RECONSTRUCTION):.3f}"] if RECONSTRUCTION in self.pictures else []
        for count in sorted({-1 if row.forward_steps is None else row.forward_steps for row in edits}):
            values = [of(row.name) for row in edits if row.forward_steps == (None if count < 0 else count)]
            spread = f"{min(values):.3f}" + (f" to {max(values):.3f}" if len(values) > 1 else "")
            if count < 0:
                parts.append(f"edits from noise on the image {spread}")
            elif count == 0:
                parts.append(f"edit from the latent {of(LATENT):.3f}")
            else:
                parts.append(f"edits repaired with K={count} {spread}")
        return "mean |difference| from the source: " + ", ".join(parts)


def write_edited(edited: Edited, folder: Path, started: float) -> list[Path]:
    """Write all files and return the sheets; those of an earlier run that this one does not write again are removed.

    Args:
      started: `time.monotonic()` when the command began, for the seconds in edits.json.
    """
    _remove_earlier(folder)
    images = [_write_image(edited, index, folder) for index in range(len(edited.files))]
    sheets = _write_sheets(edited, folder)
    content = {
        **edited.facts,
        "sheets": [sheet.name for sheet in sheets],
        "seconds": round(time.monotonic() - started, 2),
        "images_edited": images,
    }
    (folder / EDITS).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return sheets


def _remove_earlier(folder: Path) -> None:
    """Remove the pictures and sheets that the folder's own edits.json lists."""
    try:
        held = json.loads((folder / EDITS).read_text(encoding="utf-8"))
        names = [
            *held["sheets"],
            *(made["file"] for image in held["images_edited"] for made in image["pictures"]),
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name in names:
        if Path(name).name == name and name.endswith(".png"):
            (folder / name).unlink(missing_ok=True)


def _write_image(edited: Edited, index: int, folder: Path) -> dict[str, Any]:
    """The PNG files of one image, and what edits.json says of them."""
    made = []
    for row in edited.rows:
        name = f"{edited.names[index]}--{row.name}.png"
        content = _png(edited.pictures[row.name][index])
        (folder / name).write_bytes(content)
        distances = {
            key: round(values[index], 6) for key, values in edited.distances.get(row.name, {}).items()
        }
        made.append(
            {
                "file": name,
                "made": row.name,
                "sha256": hashlib.sha256(content).hexdigest(),
                "forward_steps": row.forward_steps,
                "forward_seed": row.seed,
                **distances,
            }
        )
    file = edited.files[index]
    return {"image": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "pictures": made}


def _png(picture: Pictures) -> bytes:
    """A PNG file of one picture (1 or 3, H, W)."""
    from PIL import Image

    buffer = io.BytesIO()
    pixels = picture[0] if len(picture) == 1 else np.ascontiguousarray(picture.transpose(1, 2, 0))
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _write_sheets(edited: Edited, folder: Path) -> list[Path]:
    """A sheet for every few images: rows as `edited.rows`, a column an image."""
    sheets = []
    for start in range(0, len(edited.files), COLUMNS):
        columns = slice(start, start + COLUMNS)
        names = [_short(name) for name in edited.names[columns]]
        figure = tile_grid(
            [image_tiles(edited.pictures[row.name][columns]) for row in edited.rows],
            [row.label for row in edited.rows],
            names,
            edited.title(len(names)),
            _LABELS + _TILE * len(names),
        )
        number = start // COLUMNS + 1
        sheet = folder / ("contact-sheet.png" if number == 1 else f"contact-sheet-{number}.png")
        sheet.write_bytes(figure_png(figure))
        sheets.append(sheet)
    return sheets


def _short(name: str) -> str:
    return name if len(name) <= _NAME else f"{name[: _NAME - 3]}..."
