"""How the triangles are shown: Table 10, the same triangle by every rule, Figures 10 and 11."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from taba_core.stats.triangle import VERTICES
from workflows.analysis.findings import Shown, cell, item_context, item_id, shared_context
from workflows.analysis.presentation import Cell, Column, Figure, Row, Table
from workflows.analysis.published import paper_value
from workflows.report import plots

if TYPE_CHECKING:
    import xarray as xr

_SYMBOLS = {"image": "x^0", "noise": "x^T", "latent": "x̂^T"}
_SIDES = {"noise_latent": "‖x^T - x̂^T‖", "image_latent": "‖x^0 - x̂^T‖", "image_noise": "‖x^0 - x^T‖"}
_RULES = {
    "most_probable": "product of the histograms (Eq. 10)",
    "joint_mode": "mode of the joint histogram",
    "angle_mean": "mean angle",
    "most_probable_reference": "reference: floors of the angles",
    "angle_of_mean_cosine": "reference: acos of the mean cosine",
}


def table10(labels: list[str], results: Sequence[xr.Dataset]) -> Table:
    """Most probable angles, mean angles and mean lengths, a row a result."""
    columns = (
        *(Column(f"angle_{v}", f"at {_SYMBOLS[v]}", group="Most probable angle") for v in VERTICES),
        *(Column(f"mean_{v}", f"at {_SYMBOLS[v]}", group="Mean angle") for v in VERTICES),
        *(Column(f"side_{side}", text, group="Mean length") for side, text in _SIDES.items()),
    )
    cells = []
    for result in results:
        title = str(result.attrs["model_title"])
        angles = tuple(
            cell(
                result,
                "most_probable",
                Shown(0, "°"),
                vertex=v,
                paper=paper_value("10", title, f"angle_{v}"),
            )
            for v in VERTICES
        )
        means = tuple(
            cell(
                result,
                "angle_mean",
                Shown(1, "°"),
                vertex=v,
                spread=float(result["angle_std"].sel(vertex=v)),
                theory=_theory(result, "angle_theory", vertex=v),
            )
            for v in VERTICES
        )
        sides = tuple(
            cell(
                result,
                "side_mean",
                Shown(1),
                side=side,
                spread=float(result["side_std"].sel(side=side)),
                theory=_theory(result, "side_theory", side=side),
            )
            for side in _SIDES
        )
        cells.append((*angles, *means, *sides))
    first = results[0]
    return Table(
        id="table10",
        title="Most probable triangles of noise, image and latent",
        caption="The triple of angles, adding to 180°, whose product of histogram counts over 1-degree bins is largest "
        "(Eq. 9-10); beside it the mean angles and lengths, ± their standard deviation over images.",
        rows=tuple(labels),
        columns=columns,
        cells=tuple(cells),
        seed=int(first.attrs["seed"]),
        **item_context(first),
        notes=(
            "The digits of the paper's Table 10 are not in its recovered text, so no cell has a value beside it.",
        ),
    )


def _theory(result: xr.Dataset, name: str, **where: str) -> float | None:
    return float(result[name].sel(where)) if name in result else None


def rules_table(labels: list[str], results: Sequence[xr.Dataset]) -> Table:
    """The triangle of each result by the paper's rule, ours, and the reference's."""
    columns = (*(Column(v, f"at {_SYMBOLS[v]}") for v in VERTICES), Column("sum", "Sum"))
    rows, groups, cells = [], [], []
    for label, result in zip(labels, results, strict=True):
        for name, text in _RULES.items():
            values = tuple(cell(result, name, Shown(1, "°"), vertex=v) for v in VERTICES)
            total = float(result[name].sum("vertex", skipna=False))
            rows.append(text)
            groups.append(label)
            own = {**item_context(result), "seed": int(result.attrs["seed"])}
            cells.append((*values, Cell(total, digits=1, unit="°", **own)))
    first = results[0]
    return Table(
        id="table10-rules",
        title="One triangle by five rules",
        caption="What is called the typical triangle depends on how angles are counted and averaged.",
        rows=tuple(rows),
        row_groups=tuple(groups),
        columns=columns,
        cells=tuple(cells),
        row_header="Rule",
        seed=int(first.attrs["seed"]),
        **item_context(first),
        notes=(
            "Floors of the angles of a true triangle add to 178° to 180°, so demanding 180° of them finds a triangle "
            "up to two degrees too large; bins centred on whole degrees have no such bias. The acos of a mean cosine "
            "is no mean of angles, and three of them need not add to 180°.",
        ),
    )


def drawn_triangles(labels: list[str], results: Sequence[xr.Dataset]) -> Figure:
    """Figure 10, all results to one scale."""

    def draw() -> object:
        known = {
            label: plots.Drawn(r["most_probable"].values.tolist(), r["side_mean"].values.tolist())
            for label, r in zip(labels, results, strict=True)
            if np.isfinite(r["most_probable"].values).all()
        }
        return plots.triangle_panels(known)

    return Figure(
        "fig10",
        "Most probable triangles, drawn to scale",
        "Angles are those of Table 10; the length from noise to image is its mean, and the same scale holds for all "
        "panels. Numbers along the sides are mean lengths.",
        draw,  # type: ignore[arg-type]
        **shared_context(results),
    )


def histograms(
    label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]
) -> tuple[Figure, ...]:
    """Figure 11 of one result."""

    def draw() -> object:
        panel = plots.AngleCounts(result["histogram"].values, result["most_probable"].values.tolist())
        return plots.angle_histograms({label: panel})

    def row(name: str, vertex: str) -> Row:
        low, high = (float(result[f"{name}_{end}"].sel(vertex=vertex)) for end in ("low", "high"))
        return Row(
            label,
            f"{name} at {vertex}",
            float(result[name].sel(vertex=vertex)),
            ci95=(low, high),
            unit="degrees",
        )

    return (
        Figure(
            item_id("fig11", index, results),
            f"Angles at image, noise and latent, {label}",
            "Images per whole degree; the marks on the axis are the most probable triangle.",
            draw,  # type: ignore[arg-type]
            **item_context(result),
            values=tuple(row(name, v) for name in ("angle_mean", "peak_width") for v in VERTICES),
        ),
    )
