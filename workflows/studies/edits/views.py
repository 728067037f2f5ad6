"""Tables 6 and 12, paired differences, and Figures 6 and 7."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from workflows.analysis.edit_measures import (
    ALIGNMENT,
    CLIP_MISSING,
    CLIP_NOTE,
    DISTANCE,
    PROXY_NOTE,
    Measure,
    has_clip,
    measure_named,
)
from workflows.analysis.edits import FLOW_EDIT, FRESH, LATENT, NOISE, OTHER_METHODS
from workflows.analysis.findings import Shown, cell, item_context, item_id, method_text, seed_of
from workflows.analysis.presentation import DASH, Cell, Column, Figure, Row, Table
from workflows.report import plots

if TYPE_CHECKING:
    import xarray as xr

_STORED_UNDER = {"value": "value", "minus-noise": "minus_noise", "minus-latent": "minus_latent"}
_SHORT = {
    NOISE: "edit from\nnoise",
    FRESH: "from fresh\nnoise",
    LATENT: "from\nlatent",
    FLOW_EDIT: "FlowEdit",
}


def tables_of(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> tuple[Table, ...]:
    """Table 6 in the paper's layout, Table 12, and the same rows as paired differences from noise and from latents."""
    return (
        _table6(label, result, item_id("table6", index, results)),
        _rows_table(label, result, item_id("table12", index, results), "value"),
        *(
            _rows_table(label, result, item_id(f"table12-{of}", index, results), of)
            for of in ("minus-noise", "minus-latent")
        ),
    )


def figures_of(
    label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]
) -> tuple[Figure, ...]:
    """Examples, and the sweep as curves: distances, and alignment where it is measured."""
    parts = [("fig7a", DISTANCE), ("fig7b", ALIGNMENT)]
    return (
        _examples(label, result, item_id("fig6", index, results)),
        *(
            _curves(label, result, group, item_id(base, index, results))
            for base, group in parts
            if _curves_of(result, group)
        ),
    )


def _measures(result: xr.Dataset, group: str = "") -> list[Measure]:
    found = [measure_named(str(name)) for name in result["measure"].values]
    return [measure for measure in found if group in ("", measure.group)]


def _curves_of(result: xr.Dataset, group: str) -> list[Measure]:
    """Measures that have a panel: a measure in another unit has the same curve."""
    return [measure for measure in _measures(result, group) if not measure.follows]


def _starts(result: xr.Dataset) -> list[str]:
    return [str(name) for name in result["start"].values]


def _label(result: xr.Dataset, start: str) -> str:
    if start == LATENT:
        return f"{method_text(result)} latent"
    return str(result["start_label"].sel(start=start).item())


def _cell(result: xr.Dataset, start: str, measure: Measure, of: str) -> Cell:
    spread = float(result["std"].sel(start=start, measure=measure.name)) if of == "value" else None
    return cell(result, _STORED_UNDER[of], Shown(), spread=spread, start=start, measure=measure.name)


def _column(measure: Measure) -> Column:
    return Column(measure.name, measure.label, group=measure.group, proxy=measure.proxy)


def _table6(label: str, result: xr.Dataset, table_id: str) -> Table:
    """The paper's layout: a row a measure."""
    columns = [Column(start, f"Edits from {_label(result, start)}") for start in (FRESH, NOISE, LATENT)]
    measures = _measures(result)
    return Table(
        id=table_id,
        title=f"Edits from noise and from latents, {label}",
        caption="Do edits from latents stay too close to their sources? Images sampled under another condition from "
        f"the noise of the source and from its latent.{_absent(result)}",
        row_header="Measure",
        rows=tuple(_row_name(measure) for measure in measures),
        row_groups=tuple(measure.group for measure in measures),
        columns=(*columns, Column("difference", "Latent - noise, paired")),
        cells=tuple(
            (
                *(_cell(result, column.name, measure, "value") for column in columns),
                _cell(result, LATENT, measure, "minus-noise"),
            )
            for measure in measures
        ),
        seed=seed_of([result]),
        **item_context(result),
        notes=_notes(result),
    )


def _row_name(measure: Measure) -> str:
    return measure.label + (f" (stand-in for {measure.proxy})" if measure.proxy else "")


def _rows_table(label: str, result: xr.Dataset, table_id: str, of: str) -> Table:
    """A row a start."""
    starts, columns = _starts(result), tuple(_column(measure) for measure in _measures(result))
    base = {"minus-noise": NOISE, "minus-latent": LATENT}.get(of)
    what = "" if base is None else f", less those from {_label(result, base).replace('Noise', 'noise')}"
    cells = tuple(
        tuple(DASH if start == base else _cell(result, start, m, of) for m in _measures(result))
        for start in starts
    )
    return Table(
        id=table_id,
        title=f"Edits by start{what}, {label}",
        caption="Edits from noise, latents and repaired latents: distance from the source and what judges see of the "
        "target and of the source's condition."
        + (
            " Differences of the same images, with intervals of the paired differences."
            if what
            else _absent(result)
        ),
        row_header="Edits from",
        rows=tuple(_label(result, start) for start in starts),
        row_groups=tuple(str(group) for group in result["start_group"].values),
        columns=columns,
        cells=cells,
        seed=seed_of([result]),
        **item_context(result),
        notes=() if what else _notes(result),
    )


def _absent(result: xr.Dataset) -> str:
    """What a caption says where CLIP's columns are not there."""
    return "" if has_clip([measure.name for measure in _measures(result)]) else f" {CLIP_MISSING}"


def _notes(result: xr.Dataset) -> tuple[str, ...]:
    n, differ, judged = (int(result[name]) for name in ("of_all", "of_distances", "of_alignments"))
    judges = _measures(result, ALIGNMENT)
    counted = f"Distances are of {differ} edits of {n}" + (
        f", alignment of the {judged} whose target is another photograph."
        if any(measure.of_photographs for measure in judges)
        else ", and so is alignment."
        if judges
        else "; alignment is not measured, because no judge that is here knows these conditions."
    )
    several = int(result["noises_per_condition"])
    shared = f" {several} consecutive images share both conditions, and intervals are over images."
    return (
        "± is over images, the interval is of the mean. Fresh noise is independent of the source and knows nothing of "
        "it; noise is what the source was sampled from, and shares its layout.",
        PROXY_NOTE,
        counted + (shared if several > 1 else ""),
        *((CLIP_NOTE,) if has_clip([measure.name for measure in judges]) else ()),
        *(
            (
                "Posterior: exact, of the mixture that makes the images, of edits that are noised again (t = 400).",
            )
            if any(measure.name.startswith("posterior") for measure in _measures(result))
            else ()
        ),
    )


def _examples(label: str, result: xr.Dataset, figure_id: str) -> Figure:
    """Figure 6: sources above their edits."""
    shown = [str(name) for name in result["shown_start"].values]
    columns = [
        f"#{int(i)} {source}\n→ {target}"
        for i, source, target in zip(
            result["example"].values,
            result["source_name"].values,
            result["target_name"].values,
            strict=True,
        )
    ]

    def draw() -> object:
        rows = [result["picture_source"].values, *result["picture"].values]
        return plots.image_grid(rows, ["source", *(_short(result, name) for name in shown)], columns)

    return Figure(
        figure_id,
        f"Edits of the same images, {label}",
        "Sources, and what the sampler makes under the target condition of the noise, the latent and repaired latents "
        "of each. Samples 0, 1, 2, and those whose plain share is nearest to its quantiles .5, .75 and .95; titles: "
        "sample, condition of the source → target.",
        draw,
        **item_context(result),
    )


def _short(result: xr.Dataset, start: str) -> str:
    if start in _SHORT:
        return _SHORT[start]
    text, group = (str(result[f"start_{name}"].sel(start=start).item()) for name in ("label", "group"))
    return f"from\n{text}" if group == OTHER_METHODS else f"repaired,\n{text}\n{start.split('-')[0]}"


def _panel(measure: Measure) -> str:
    """The title of a panel, short because four stand side by side."""
    if measure.group == DISTANCE and measure.proxy:
        return f"{measure.proxy} (proxy)"
    return measure.label.removeprefix("crop ")


def _curves(label: str, result: xr.Dataset, group: str, figure_id: str) -> Figure:
    """Figure 7: measures over the share of replaced steps; K = 0 is the latent, the dotted line noise."""
    starts = _starts(result)
    rules = list(dict.fromkeys(s.split("-")[0] for s in starts if s.startswith(("exact-", "matched-"))))
    counts = sorted({int(s.split("-")[1]) for s in starts if s.startswith(("exact-", "matched-"))})
    T, measures = int(result.attrs["T"]), _curves_of(result, group)

    def line(measure: Measure, rule: str) -> plots.Curve:
        along = [LATENT, *(f"{rule}-{count}" for count in counts)]
        part = result.sel(start=along, measure=measure.name)
        return plots.Curve(f"{rule} rule", *(part[f"value{end}"].values for end in ("", "_low", "_high")))

    def draw() -> object:
        return plots.sweep_curves(
            {_panel(m): [line(m, rule) for rule in rules] for m in measures},
            [0, *counts],
            xlabel="replaced steps, % of T",
            floors=[float(result["value"].sel(start=NOISE, measure=m.name)) for m in measures],
            floor_label="edits from noise",
            tick_labels=[f"{100 * count / T:g}" for count in (0, *counts)],
        )

    values = tuple(
        Row(
            f"{label} / {_label(result, start)} {rule}".strip(),
            measure.name,
            float(result["value"].sel(start=start, measure=measure.name)),
            ci95=tuple(  # type: ignore[arg-type]
                float(result[f"value{end}"].sel(start=start, measure=measure.name))
                for end in ("_low", "_high")
            ),
        )
        for measure in measures
        for start in starts
        for rule in (start.split("-")[0] if start.startswith(("exact-", "matched-")) else "",)
    )
    proxies = ", ".join(dict.fromkeys(measure.proxy for measure in measures if measure.proxy))
    return Figure(
        figure_id,
        f"{group} of edits against the repair, {label}",
        "Means over images against the share of replaced steps, which is 0 for plain latents; bands are 95 % bootstrap "
        "intervals, the dotted line is edits from noise.",
        draw,
        **item_context(result),
        values=values,
        proxy=proxies,
    )
