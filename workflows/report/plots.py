"""The plotting functions a study may call; all return an off-screen matplotlib figure in taba's style.

Each is imported when it is first used: matplotlib takes longer to import than a run takes that finds all it asks for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workflows.report.attractors import (
        Accuracy,
        PictureRow,
        accuracy_curves,
        degree_against_norm,
        picture_rows,
    )
    from workflows.report.comparison import curve_grid, trade_off
    from workflows.report.curves import Curve, bars_with_ci, heat_map, step_curves, sweep_curves
    from workflows.report.grids import (
        difference_maps,
        heat_tiles,
        image_grid,
        image_tiles,
        latent_grid,
        latent_tiles,
        mask_overlay_grid,
        mask_tiles,
        principal_channels,
        symmetric_limit,
        three_channels,
        tile_grid,
    )
    from workflows.report.law_curves import step_law_panels
    from workflows.report.progress import progress_curves
    from workflows.report.schematic import inversion_step_schematic
    from workflows.report.triangles import AngleCounts, Drawn, angle_histograms, triangle_panels

__all__ = [
    "Accuracy",
    "AngleCounts",
    "Curve",
    "Drawn",
    "PictureRow",
    "accuracy_curves",
    "angle_histograms",
    "bars_with_ci",
    "curve_grid",
    "degree_against_norm",
    "difference_maps",
    "heat_map",
    "heat_tiles",
    "image_grid",
    "image_tiles",
    "inversion_step_schematic",
    "latent_grid",
    "latent_tiles",
    "mask_overlay_grid",
    "mask_tiles",
    "picture_rows",
    "principal_channels",
    "progress_curves",
    "step_curves",
    "step_law_panels",
    "sweep_curves",
    "symmetric_limit",
    "three_channels",
    "tile_grid",
    "trade_off",
    "triangle_panels",
]

_NAMES_OF = {
    "attractors": ("Accuracy", "PictureRow", "accuracy_curves", "degree_against_norm", "picture_rows"),
    "triangles": ("AngleCounts", "Drawn", "angle_histograms", "triangle_panels"),
    "comparison": ("curve_grid", "trade_off"),
    "curves": ("Curve", "bars_with_ci", "heat_map", "step_curves", "sweep_curves"),
    "grids": (
        "difference_maps",
        "heat_tiles",
        "image_grid",
        "image_tiles",
        "latent_grid",
        "latent_tiles",
        "mask_overlay_grid",
        "mask_tiles",
        "principal_channels",
        "symmetric_limit",
        "three_channels",
        "tile_grid",
    ),
    "law_curves": ("step_law_panels",),
    "progress": ("progress_curves",),
    "schematic": ("inversion_step_schematic",),
}
_HOME = {name: f"workflows.report.{module}" for module, names in _NAMES_OF.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'; it has: {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
