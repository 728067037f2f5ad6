"""How the mapping is shown: Table 13, accuracy over T, and the pictures of Figure 14 (images below 64 pixels: 15)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from workflows.analysis.findings import Shown, cell, item_context, item_id
from workflows.analysis.presentation import Cell, Column, Figure, Row, Table
from workflows.analysis.published import LARGE_SIDE, paper_value
from workflows.report import plots
from workflows.studies.mapping.measures import DIRECTIONS, SHOWN

if TYPE_CHECKING:
    import xarray as xr

_ARROWS = {
    "image_noise": "x^0 → x^T",
    "noise_image": "x^T → x^0",
    "image_latent": "x^0 → x̂^T",
    "latent_image": "x̂^T → x^0",
}
_CURVES = {
    "image_noise": r"$x^0 \to x^T$",
    "noise_image": r"$x^T \to x^0$",
    "image_latent": r"$x^0 \to \hat{x}^T$",
    "latent_image": r"$\hat{x}^T \to x^0$",
}
_PAIRS = {"noise": "(a) image and noise", "latent": "(b) image and latent"}
_METRICS = {"l2": "l2", "cosine": "cosine"}


def _columns() -> tuple[tuple[Column, str, str], ...]:
    return tuple(
        (
            Column(f"{direction}_{metric}", _ARROWS[direction], group=f"{text}, {_METRICS[metric]}"),
            direction,
            metric,
        )
        for metric in _METRICS
        for pair, text in _PAIRS.items()
        for direction in DIRECTIONS
        if pair in direction
    )


def table13(labels: list[str], results: Sequence[xr.Dataset]) -> Table:
    """Accuracies in percent, a row per T, by distance (the paper's) and by cosine."""
    columns = _columns()
    rows, groups, cells = [], [], []
    for label, result in zip(labels, results, strict=True):
        title = str(result.attrs["model_title"])
        for T in result["steps"].values.tolist():
            rows.append(f"T = {T}")
            groups.append(label)
            cells.append(
                tuple(
                    _accuracy(result, T, direction, metric, paper=(title, column.name))
                    for column, direction, metric in columns
                )
            )
    first = results[0]
    context = {**item_context(first), "T": None}
    return Table(
        id="table13",
        title="Smallest-distance mapping",
        caption="Share of images whose nearest noise (latent) is their own, and the reverse, with exact binomial "
        "intervals. By cosine the norm of a candidate does not count.",
        rows=tuple(rows),
        row_groups=tuple(groups),
        columns=tuple(column for column, _, _ in columns),
        cells=tuple(cells),
        row_header="Steps",
        seed=int(first.attrs["seed"]),
        **context,
        notes=tuple(_note(label, r) for label, r in zip(labels, results, strict=True)),
    )


def _accuracy(result: xr.Dataset, T: int, direction: str, metric: str, paper: tuple[str, str]) -> Cell:
    where = {"steps": T, "direction": direction, "metric": metric}
    spread = 100 * float(result["accuracy_spread"].sel(where))
    found = cell(
        result,
        "accuracy",
        Shown(1, "%", 100.0, floor=100 * float(result["guessing"])),
        spread=spread if np.isfinite(spread) else None,
        paper=paper_value("13", f"{paper[0]} / T={T}", paper[1]),
        **where,
    )
    return Cell(**{**found.__dict__, "T": T})


def _note(label: str, result: xr.Dataset) -> str:
    sizes = result["division_size"].values
    among = (
        f"all {sizes[0]} of the set"
        if len(sizes) == 1
        else f"the {sizes.min()} to {sizes.max()} of a division ({len(sizes)} divisions; ± is their spread)"
    )
    return (
        f"{label}: the nearest is sought among {among}; fewer candidates make it easier, and the floor is a "
        "guess. The paper: 1024 candidates, DiT by class. Equal distances go to the smallest id."
    )


def figures_of(
    label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]
) -> tuple[Figure, ...]:
    """Accuracy over T, pictures of wrong assignments and attractors, and in-degree against norm."""
    base = "fig14" if result["attractor_noise_image"].shape[-1] >= LARGE_SIDE else "fig15"
    own = int(result.attrs["T"])
    return (
        _curves(label, result, index, results),
        Figure(
            item_id(base, index, results),
            f"Where noise goes wrong, {label}",
            f"Top: images, and the images that distance assigns to their noises instead. Middle: the {SHOWN} images "
            "nearest to most noises and to most latents, with the number of each. Bottom: the images of least variance "
            "and of smallest norm. T = " + f"{own}, l2.",
            lambda: _draw_pictures(result),  # type: ignore[arg-type, return-value]
            **item_context(result),
            values=_attractor_rows(label, result),
        ),
        Figure(
            item_id(f"{base}-norm", index, results),
            f"Small norms attract, {label}",
            "Number of noises and of latents an image is nearest to, against its norm; rings are the images of least "
            f"variance. T = {own}, l2.",
            lambda: plots.degree_against_norm(  # type: ignore[arg-type, return-value]
                result["image_norm"].values,
                {"Noise": result["attraction_noise"].values, "Latent": result["attraction_latent"].values},
                result["least_variance_id"].values.tolist(),
            ),
            **item_context(result),
            values=_norm_rows(label, result),
        ),
    )


def _curves(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> Figure:
    def curve(direction: str, metric: str) -> plots.Accuracy:
        of = 100 * result.sel(direction=direction, metric=metric)
        return plots.Accuracy(*(of[name].values for name in ("accuracy", "accuracy_low", "accuracy_high")))

    def draw() -> object:
        panels = {
            text: {_CURVES[d]: {m: curve(d, m) for m in _METRICS} for d in DIRECTIONS if pair in d}
            for pair, text in _PAIRS.items()
        }
        guess = 100 * float(result["guessing"])
        return plots.accuracy_curves(panels, result["steps"].values.tolist(), guess)

    return Figure(
        item_id("table13-curves", index, results),
        f"Who finds its own, over T, {label}",
        "Accuracy of the mapping by distance and by cosine, with exact 95 % intervals.",
        draw,  # type: ignore[arg-type]
        **item_context(result),
    )


def _draw_pictures(result: xr.Dataset) -> object:
    def ids(name: str) -> list[int]:
        return result[f"{name}_id"].values.tolist()

    def texts(name: str, of: str, form: str) -> list[str]:
        return [form.format(float(x)) for x in result[of].values[ids(name)]]

    rows = []
    if "wrong_id" in result:
        rows = [
            plots.PictureRow("image $x^0$\nof the noise", result["wrong_image"].values),
            plots.PictureRow("nearest\nto the noise", result["assigned_image"].values),
        ]
    start = len(rows)
    rows += [
        plots.PictureRow(
            f"attract most\n{what}",
            result[f"attractor_{name}_image"].values,
            texts(f"attractor_{name}", f"attraction_{name}", "× {:.0f}"),
        )
        for name, what in (("noise", "noises $x^T$"), ("latent", r"latents $\hat{x}^T$"))
    ]
    rows.append(
        plots.PictureRow(
            "least variance",
            result["least_variance_image"].values,
            texts("least_variance", "image_variance", "var {:.3f}"),
        )
    )
    rows.append(
        plots.PictureRow(
            "smallest norm",
            result["smallest_norm_image"].values,
            texts("smallest_norm", "image_norm", "norm {:.1f}"),
        )
    )
    return plots.picture_rows(rows, gaps=(start, start + 2))


def _attractor_rows(label: str, result: xr.Dataset) -> tuple[Row, ...]:
    return tuple(
        Row(f"{label} / sample {i}", f"in-degree, {name}", float(result[f"attraction_{name}"].values[i]))
        for name in ("noise", "latent")
        for i in result[f"attractor_{name}_id"].values
    )


def _norm_rows(label: str, result: xr.Dataset) -> tuple[Row, ...]:
    names = ("rank_correlation", "least_variance_overlap", "smallest_norm_overlap")
    return tuple(
        Row(
            label,
            f"{name}, {query}",
            float(result[f"{name}_{query}"]),
            ci95=(float(result[f"{name}_{query}_low"]), float(result[f"{name}_{query}_high"])),
        )
        for name in names
        for query in ("noise", "latent")
    )
