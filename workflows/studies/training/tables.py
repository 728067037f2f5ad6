"""The numbers behind Figures 16 to 19, a row a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from taba_core.metrics.extractor import extractor_named
from workflows.analysis.findings import Shown, cell, item_context, item_id
from workflows.analysis.presentation import DASH, Cell, Column, Table

if TYPE_CHECKING:
    import xarray as xr

_SHOWN = 16  # checkpoints of a table; the stored result has all
_PERCENT = Shown(1, "%", 100.0)
# Column -> stored name, coordinates, and how it is shown.
_PATH = {
    "angle_image": ("angle", {"vertex": "image"}, Shown(1, "°"), "at x^0", "Mean angle"),
    "angle_noise": ("angle", {"vertex": "noise"}, Shown(1, "°"), "at x^T", "Mean angle"),
    "angle_latent": ("angle", {"vertex": "latent"}, Shown(1, "°"), "at x̂^T", "Mean angle"),
    "noise_latent": ("distance", {"distance_between": "noise_latent"}, Shown(2), "‖x^T - x̂^T‖", "Mean length"),
    "image_latent": ("distance", {"distance_between": "image_latent"}, Shown(2), "‖x^0 - x̂^T‖", "Mean length"),
    "image_noise": ("accuracy", {"direction": "image_noise"}, _PERCENT, "x^0 → x^T", "Smallest-distance mapping"),
    "noise_image": ("accuracy", {"direction": "noise_image"}, _PERCENT, "x^T → x^0", "Smallest-distance mapping"),
}  # fmt: skip
_ALIGNED = {
    "cka": "CKA",
    "cka_unbiased": "CKA, unbiased",
    "svcca": "SVCCA",
    "features": "Cosine of features",
    "ssim": "SSIM",
    "power_ratio": "High / low",
}


def tables_of(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> tuple[Table, ...]:
    """Where latents lie over the training, and how generations align with the final ones."""
    return (_path(label, result, index, results), _alignment(label, result, index, results))


def rows_of(result: xr.Dataset) -> list[tuple[int | None, int]]:
    """Rows of a table: training seed and checkpoint; of several trainings their means follow, without a seed."""
    steps = result["checkpoint"].values
    shown = np.unique(np.linspace(0, len(steps) - 1, min(_SHOWN, len(steps))).round().astype(int))
    seeds: list[int | None] = [int(seed) for seed in result["training_seed"].values]
    means: list[int | None] = [None] if len(seeds) > 1 else []
    return [(seed, int(steps[i])) for seed in [*seeds, *means] for i in shown]


def _path(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> Table:
    columns = tuple(Column(name, text, group=group) for name, (_, _, _, text, group) in _PATH.items())
    guess = float(result["guessing"])
    return _table(
        result,
        columns,
        {name: (stored, where, shown) for name, (stored, where, shown, _, _) in _PATH.items()},
        id=item_id("training-latents", index, results),
        title=f"Noise, image and latent over the training, {label}",
        caption="Images of the final network, inverted by every checkpoint: mean angles and lengths of the triangle of "
        "noise, image and latent. Beside it the images of every checkpoint from the same noise: the share whose "
        "nearest noise is their own, and the reverse, with exact binomial intervals.",
        notes=(f"A guess finds its own with probability {guess:.2%}.",),
    )


def _alignment(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> Table:
    extractor = extractor_named(str(result["extractor"].item()))
    columns = [
        Column(
            name, text, proxy="DINO" if name == "features" else "", group="Alignment with the final images"
        )
        for name, text in _ALIGNED.items()
        if name in result and name != "power_ratio"
    ]
    columns.append(Column("power_ratio", _ALIGNED["power_ratio"], group="Power of the difference"))
    shown = {column.name: (column.name, {}, Shown(3)) for column in columns}
    if "level" in result.coords:
        for level in result["level"].values.tolist():
            name = f"held_out_{level}"
            columns.append(Column(name, f"level {level}", group="Held-out error of the noise"))
            shown[name] = ("held_out", {"level": level}, Shown(3))
    return _table(
        result,
        tuple(columns),
        shown,
        id=item_id("training-alignment", index, results),
        title=f"Generations over the training beside the final ones, {label}",
        caption="Images of every checkpoint beside those of the final network from the same noise: linear CKA, SVCCA, "
        "cosine of features, structural similarity, and the power of their difference above half the Nyquist frequency "
        "over that below it (1 for white noise).",
        notes=(
            f"SVCCA of {int(result['svcca_dims'])} directions. CKA of few images is biased upwards; the unbiased form "
            f"is beside it. Features: {extractor.title}. For SSIM pixels are scaled to [0, 1] by the extremes of each "
            "whole set.",
            "Held-out error: mean squared error of predicted noise on crops that were never trained on, at the "
            "cleanest levels of 50 steps; 1 is no knowledge.",
        ),
    )


def _table(
    result: xr.Dataset,
    columns: tuple[Column, ...],
    shown: dict[str, tuple[str, dict[str, object], Shown]],
    **about: object,
) -> Table:
    rows = rows_of(result)
    several = len(result["training_seed"]) > 1
    groups = tuple(("mean, ± over seeds" if seed is None else f"training seed {seed}") for seed, _ in rows)
    return Table(
        rows=tuple(_row_text(result, step) for _, step in rows),
        row_groups=groups if several else (),
        row_header="Checkpoint",
        columns=columns,
        cells=tuple(tuple(_cell(result, *shown[column.name], row) for column in columns) for row in rows),
        seed=int(result.attrs["seed"]),
        **item_context(result),
        **about,  # type: ignore[arg-type]
    )


def _row_text(result: xr.Dataset, step: int) -> str:
    at = result.sel(checkpoint=step)
    return f"step {step:,}: {int(at['images']):,} images, {float(at['share']):.1%}"


def _cell(
    result: xr.Dataset,
    name: str,
    where: dict[str, object],
    shown: Shown,
    row: tuple[int | None, int],
) -> Cell:
    seed, step = row
    values = result[name].sel({**where, "checkpoint": step})
    if seed is not None:
        if not np.isfinite(float(values.sel(training_seed=seed))):
            return DASH
        return cell(result, name, shown, **where, checkpoint=step, training_seed=seed)
    if not np.isfinite(values).all():
        return DASH
    own = values.values * shown.scale
    return Cell(
        float(own.mean()),
        spread=float(own.std(ddof=1)),
        digits=shown.digits,
        unit=shown.unit,
        **item_context(result),
        seed=int(result.attrs["seed"]),
    )
