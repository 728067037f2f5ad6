"""What is measured of an edit of a benchmark: whether it keeps the rest of the image, and shows what was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from taba_core.artifacts.base import Artifact
from taba_core.artifacts.distances import Distances
from taba_core.images.benchmarks import EditCase
from taba_core.metrics.arrays import clip_similarity, distance_of_pictures
from taba_core.metrics.extractor import extractor_named
from taba_core.metrics.image_distance import distance_named
from taba_core.stats.compressibility import to_bytes
from taba_core.stats.preservation import background_errors
from workflows.analysis.edits import pictures_of
from workflows.analysis.measured import distances_of
from workflows.configuration.context import Context
from workflows.studies.pie_bench.options import PieBenchOptions

if TYPE_CHECKING:
    from workflows.analysis.inputs import Inputs

Values = NDArray[np.float64]
_AT_ONCE = 32  # images in memory
STRUCTURE, BACKGROUND, ALIGNMENT = "Structure distance", "Unedited area", "CLIP similarity"


@dataclass(frozen=True)
class Measure:
    """One column.

    Attributes:
      name: in options and results. label: in tables. group: heading. scale: by which tables multiply, as published.
      digits: decimals.
    """

    name: str
    label: str
    group: str
    scale: float
    digits: int


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("structure", "DINO ViT-B/8 × 10³", STRUCTURE, 1e3, 2),
        Measure("psnr", "PSNR, dB", BACKGROUND, 1.0, 2),
        Measure("lpips", "LPIPS (AlexNet) × 10³", BACKGROUND, 1e3, 2),
        Measure("mse", "MSE × 10⁴", BACKGROUND, 1e4, 2),
        Measure("ssim", "SSIM × 10²", BACKGROUND, 1e2, 2),
        Measure("clip-whole", "whole image (B/32) × 10²", ALIGNMENT, 1e2, 2),
        Measure("clip-edited", "edited area (B/32) × 10²", ALIGNMENT, 1e2, 2),
    )
}
_DISTANCES = {"structure": "dino-structure", "lpips": "lpips"}
_EXTRACTORS = {"clip-whole": "clip-vit-b-32", "clip-edited": "clip-vit-b-32"}


def check_measures(options: PieBenchOptions) -> None:
    """Refuse (UsageError) a measure whose packages or weights are missing."""
    for name in options.measures:
        if name in _DISTANCES:
            distance_named(_DISTANCES[name]).check()
        if name in _EXTRACTORS:
            extractor_named(_EXTRACTORS[name]).check()


def structure_of(edit: Artifact, images: Artifact) -> Distances:
    """The structure distances of edits from their sources."""
    return distances_of(edit, images, distance_named(_DISTANCES["structure"]))


def measured(inputs: Inputs, context: Context, row: str, cases: Sequence[EditCase]) -> dict[str, Values]:
    """Every measure of every edit of a row, (n,) each; NaN where it is not defined.

    Args:
      row: name of the request of the edits; that of the sources is "images".
      cases: of the benchmark, one for each sample.
    """
    options, blocks = context.options(PieBenchOptions), []
    columns = {"image": pictures_of(context, "images", "image"), "edit": pictures_of(context, row, "edit")}
    read = inputs.reader(columns)
    for start in range(0, len(cases), _AT_ONCE):
        some = cases[start : start + _AT_ONCE]
        block = read(start, start + len(some), tuple(columns))
        source, edit = (to_bytes(block[name]) for name in columns)
        edited = np.stack([edited_area(case, source.shape[-1]) for case in some])
        blocks.append(_block(source, edit, edited, [case.target for case in some], options))
    found = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    if "structure" in options.measures:
        found["structure"] = inputs.head(f"structure/{row}", "distance", len(cases)).astype(np.float64)
    return found


def _block(
    source: NDArray[np.uint8],
    edit: NDArray[np.uint8],
    edited: NDArray[np.bool_],
    targets: Sequence[str],
    options: PieBenchOptions,
) -> Mapping[str, Any]:
    found: dict[str, Values] = dict(background_errors(source, edit, ~edited, options.preset))
    inside, outside = edited[:, None], ~edited[:, None]
    if "lpips" in options.measures:
        values = distance_of_pictures(distance_named("lpips"), source * outside, edit * outside)
        found["lpips"] = np.where((~edited).any(axis=(1, 2)), values, np.nan)
    if "clip-whole" in options.measures:
        found["clip-whole"] = clip_similarity(edit, targets)
    if "clip-edited" in options.measures:
        found["clip-edited"] = clip_similarity(edit * inside, targets)
    return found


def edited_area(case: EditCase, size: int) -> NDArray[np.bool_]:
    """What is to change, (size, size), as the model sees the image: its centre square, resized.

    A position counts as edited where any part of what it covers is.
    """
    from PIL import Image

    mask = case.mask()
    height, width = mask.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    box = (left, top, left + side, top + side)
    shares = Image.fromarray(mask.astype(np.float32)).resize((size, size), Image.Resampling.BOX, box=box)
    return np.asarray(shares) > 0
