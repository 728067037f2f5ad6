"""Tables of the shift, of replaced steps, of other repairs and of single steps, and the sweep as curves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from workflows.analysis.findings import Shown, cell, item_context, item_id
from workflows.analysis.presentation import DASH, Cell, Column, Figure, Table
from workflows.report import plots
from workflows.studies.flows.measures import VARIANCES
from workflows.studies.flows.variants import EULER, EXACT, MATCHED, SOURCE, replaced

if TYPE_CHECKING:
    import xarray as xr

_RULES = {
    EXACT: "noised to level K, target times",
    MATCHED: "noised to level K+1, target times",
    SOURCE: "noised to level K, source times",
}
_OF_AREAS = {"plain": "Plain", "non_plain": "Rest"}
_CLOSED = {variance: f"λ = {variance:g}" for variance in VARIANCES}
_COSTS = (Column("evaluations_up", "Up", group="NFE"), Column("evaluations_down", "Down", group="NFE"))
_MEASURES = (
    *(Column(f"std@{area}", text, group="Standard deviation") for area, text in _OF_AREAS.items()),
    *(Column(f"rmse@{area}", text, group="RMSE of the reconstruction") for area, text in _OF_AREAS.items()),
    *(
        Column(f"noise_correlation@{area}", text, group="Corr. with the noise")
        for area, text in _OF_AREAS.items()
    ),
    Column("correlation", "Pixel corr."),
    *(Column(f"std_theory@{v}", text, group="Closed form: std") for v, text in _CLOSED.items()),
    *(Column(f"rmse_theory@{v}", text, group="Closed form: RMSE") for v, text in _CLOSED.items()),
)
_DIGITS = {"rmse": 4, "rmse_theory": 4, "first_level": 4, "shift": 3}
_NOTES = (
    "Every inversion has exact levels, no rule for x_0 and no guidance, whatever the line of conventions says; images "
    "are sampled on the levels of their own row.",
    "Closed form: modes of variance λ under ideal predictions; 1e-4 is a flat mode, as plain areas are made of, 1 one "
    "of the spread of noise. The areas of a trained network have many modes: signs and orders compare.",
)


def tables_of(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> tuple[Table, ...]:
    """The four tables; those of what was not asked for are left out."""
    of = (result, index, results)
    made = (
        _table(
            "flows-shift",
            f"What the levels do, {label}",
            "DDIM inversion (Euler steps) at target times on several levels of one flow, and of the model beside it: "
            "first level s_1, spread, reconstruction and correlation with its floor.",
            (
                Column("shift", "Shift q"),
                Column("first_level", "First level"),
                Column("share@plain", "Share of plain areas"),
                *_MEASURES,
            ),
            [
                (row, f"T = {_fact(result, 'T', row)}", _fact(result, "case_label", row))
                for row in _rows(result, [EULER])
            ],
            of,
        ),
        _table(
            "flows-replacement",
            f"Do replaced steps repair the latents of a flow? {label}",
            "The first K steps replaced by forward diffusion, under both rules before target times and before source "
            "times: evaluations, spread, correlation, and the error of the reconstruction, which is the price.",
            (*_COSTS, *_MEASURES),
            list(_of_replacement(result)),
            of,
        ),
        _table(
            "flows-repairs",
            f"What else makes noise of the images of a flow? {label}",
            "Methods that solve or reorder steps, that start from noise, and steps that carry the noise; their "
            "evaluations in both directions, and what plain inversion and one replaced step give beside them.",
            (*_COSTS, *_MEASURES),
            list(_of_repairs(result)),
            of,
        ),
    )
    return tuple(table for table in (*made, *_steps(label, *of)) if table.rows)


def _rows(result: xr.Dataset, variants: Iterable[str]) -> list[str]:
    wanted = set(variants)
    pairs = zip(result["row"].values, result["row_variant"].values, strict=True)
    return [str(row) for row, variant in pairs if str(variant) in wanted]


def _fact(result: xr.Dataset, name: str, row: str) -> str:
    return str(result[f"row_{name}"].sel(row=row).item())


def _place(result: xr.Dataset, row: str) -> str:
    return f"{_fact(result, 'case_label', row)}, T = {_fact(result, 'T', row)}"


def _counts(result: xr.Dataset) -> list[int]:
    return sorted({int(k) for k in result["row_forward_steps"].values})


def _of_replacement(result: xr.Dataset) -> Iterable[tuple[str, str, str]]:
    """(row, label, group) of every case with a sweep: K = 0, 1, ... under each reading."""
    known = set(map(str, result["row"].values))
    for source in _rows(result, [SOURCE]):
        place, told = source.rpartition("/")[0], _place(result, source)
        for rule, text in _RULES.items():
            names = [(k, f"{place}/{replaced(rule, k)}") for k in _counts(result)]
            if rule == MATCHED:
                names = names[1:]  # without replaced steps both rules are one
            yield from ((name, f"K = {k}", f"{told}: {text}") for k, name in names if name in known)


def _of_repairs(result: xr.Dataset) -> Iterable[tuple[str, str, str]]:
    """(row, label, group) of what is in no other table, after plain inversion and one replaced step."""
    shown = {EULER, SOURCE, *(replaced(rule, k) for rule in _RULES for k in _counts(result))}
    others = [
        str(row)
        for row, variant in zip(result["row"].values, result["row_variant"].values, strict=True)
        if str(variant) not in shown and not str(variant).startswith("swap-")
    ]
    known = set(map(str, result["row"].values))
    for place in dict.fromkeys(row.rpartition("/")[0] for row in others):
        beside = [f"{place}/{name}" for name in (EULER, "exact-1")]
        here = [row for row in others if row.rpartition("/")[0] == place]
        for row in (*(row for row in beside if row in known), *here):
            yield row, _fact(result, "label", row), _place(result, row)


def _table(
    id: str,
    title: str,
    caption: str,
    columns: Sequence[Column],
    rows: Sequence[tuple[str, str, str]],
    of: tuple[xr.Dataset, int, Sequence[xr.Dataset]],
) -> Table:
    result, index, results = of
    shown = [column for column in columns if any(_known(result, row, column.name) for row, _, _ in rows)]
    return Table(
        id=item_id(id, index, results),
        title=title,
        caption=caption,
        rows=tuple(label for _, label, _ in rows),
        row_groups=tuple(group for _, _, group in rows),
        row_header="Inversion",
        columns=tuple(shown),
        cells=tuple(tuple(_cell(result, row, column.name) for column in shown) for row, _, _ in rows),
        seed=int(result.attrs["seed"]),
        notes=_NOTES,
        **item_context(result),
    )


def _known(result: xr.Dataset, row: str, column: str) -> bool:
    return bool(np.isfinite(_value(result, row, column)))


def _value(result: xr.Dataset, row: str, column: str) -> float:
    name, where = _where(result, row, column)
    return float(result[name].sel(where))


def _where(result: xr.Dataset, row: str, column: str) -> tuple[str, dict[str, object]]:
    measure, _, of = column.partition("@")
    where: dict[str, object] = {"row": row}
    if measure.endswith("_theory"):
        where["variance"] = float(of)
    elif of:
        where["region"] = of
    return (measure if measure in result else f"row_{measure}"), where


def _cell(result: xr.Dataset, row: str, column: str) -> Cell:
    name, where = _where(result, row, column)
    value, measure = float(result[name].sel(where)), column.partition("@")[0]
    if not np.isfinite(value):
        return DASH
    digits = 0 if measure.startswith("evaluations") else _DIGITS.get(measure, 3)
    floor = float(result["correlation_floor"]) if measure == "correlation" else None
    found = cell(result, name, Shown(digits, floor=floor), **where)
    return replace(found, T=int(result["row_T"].sel(row=row)))


def _steps(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> tuple[Table, ...]:
    """What single steps cost: shares of swapped steps, and errors of their predictions."""
    if "regained" not in result:
        return ()
    steps, cases = [int(s) for s in result["swapped_step"].values], [str(c) for c in result["case"].values]
    columns = [
        Column(f"regained@{s}", f"Step {s}", group="Regained by the sampler's own step") for s in steps
    ]
    columns += [
        Column(f"error@{area}@{step}", f"{text}, step {step}", group="Relative error of the prediction")
        for step in (*steps, steps[-1] + 2)
        if step in result["step"].values
        for area, text in _OF_AREAS.items()
    ]

    def one(case: str, column: str) -> Cell:
        parts = column.split("@")
        if parts[0] == "regained":
            return cell(result, "regained", case=case, swapped_step=int(parts[1]))
        return cell(result, "step_error", case=case, region=parts[1], step=int(parts[2]))

    return (
        Table(
            id=item_id("flows-steps", index, results),
            title=f"Which step makes the loss? {label}",
            caption="Share of the logarithm of what the latents of plain areas lack that comes back when one step "
            "alone carries what the sampler carried in it, and |ε - ε̂| / mean |ε| of predictions from the sampler's "
            "own states.",
            rows=tuple(str(text) for text in result["case_label"].values),
            row_header="Levels",
            columns=tuple(columns),
            cells=tuple(tuple(one(case, column.name) for column in columns) for case in cases),
            seed=int(result.attrs["seed"]),
            notes=_NOTES[:1],
            **item_context(result),
        ),
    )


def figures_of(
    label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]
) -> tuple[Figure, ...]:
    """Spread of plain areas and error of the rest over K, a line for every case and rule before target times."""
    sources, counts = _rows(result, [SOURCE]), _counts(result)
    if not sources or len(counts) < 2:
        return ()

    def lines(measure: str, area: str) -> list[plots.Curve]:
        made = []
        for source in sources:
            place = source.rpartition("/")[0]
            names = [f"{place}/{replaced(EXACT, k)}" for k in counts]
            values = [
                result[measure + end].sel(row=names, region=area).values for end in ("", "_low", "_high")
            ]
            made.append(plots.Curve(_fact(result, "case_label", source), *values))
        return made

    def draw() -> object:
        return plots.sweep_curves(
            {
                "standard deviation, plain": lines("std", "plain"),
                "RMSE of the reconstruction, rest": lines("rmse", "non_plain"),
            },
            counts,
            floors=(1.0, None),
            floor_label="noise",
        )

    return (
        Figure(
            item_id("flows-sweep", index, results),
            f"Replaced steps on several levels, {label}",
            "Spread of latents of plain areas and error of the reconstruction elsewhere against the number of replaced "
            "steps K (exact rule, target times); bands are 95 % intervals.",
            draw,
            **item_context(result),
        ),
    )
