"""The plotting functions a study may call; all return an off-screen matplotlib figure in taba's style."""

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

__all__ = [
    "Curve",
    "bars_with_ci",
    "curve_grid",
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
    "principal_channels",
    "progress_curves",
    "step_curves",
    "step_law_panels",
    "sweep_curves",
    "symmetric_limit",
    "three_channels",
    "tile_grid",
    "trade_off",
]
