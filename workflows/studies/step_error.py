"""Which inversion steps make the error? (Figure 4, Table 11)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from taba_core.artifacts.request import Request
from taba_core.stats.estimate import Estimate
from taba_core.stats.regions import REGIONS
from taba_core.stats.step_error import StepError
from taba_core.stats.verdict import all_positive, every, positive
from workflows.analysis.findings import (
    Findings,
    cell,
    each_own,
    for_each,
    interval_numbers,
    item_context,
    item_id,
    row_labels,
)
from workflows.analysis.presentation import Column, Figure, Row, Section, Table
from workflows.analysis.step_law import step_laws
from workflows.analysis.step_rows import ROWS, step_error_requests
from workflows.analysis.study import Study, register
from workflows.configuration.context import Context
from workflows.report import plots

if TYPE_CHECKING:
    import xarray as xr

    from workflows.analysis.inputs import Inputs

_INTERVALS = ("first", "rest", "all")
_PLAIN, _NON_PLAIN = 0, 1
LAW_COLORS = ("#1b9e8a", "#1d2530", "#8a94a3")
LAW_LINES = ("--", ":", "-.")


@register
class StepErrors(Study):
    """Error and spread of the inversion's predictions at every step, from the exact cached states."""

    name = "step-error"
    aliases = ("fig4", "table11")
    title = "The first steps make the error"
    question = "At which steps, and where in the image, do inversion predictions go wrong?"
    paper_section = "3.3"
    paper_models = ("adm-64", "dit", "if")
    paper_steps = 50
    version = 2
    reads = ("bootstrap_replicates",)

    def requests(self, context: Context) -> Mapping[str, Request]:
        """Sums over every sample's predictions by region, and a few paths to look at."""
        return step_error_requests(context, context.num_steps(self.paper_steps))

    def analyse(self, inputs: Inputs, context: Context) -> xr.Dataset:
        """Per-step errors and spread ratios by region, claims CF4a, CF4b, C11."""
        statistic = StepError()
        of = inputs.reduce_rows(ROWS, statistic, context.settings.bootstrap_replicates)
        found = Findings()
        num_steps = of["error"].shape[-1]
        first = statistic.num_first_steps(num_steps)
        found.coordinate("region", REGIONS)
        found.coordinate("step", np.arange(1, num_steps + 1))
        found.coordinate("interval", _INTERVALS)
        for name in ("error", "error_per_image", "std_ratio", "std", "std_reference"):
            found.estimate(name, of[name], ("region", "step"))
        for name in ("interval_error", "interval_error_per_image"):
            found.estimate(name, of[name], ("region", "interval"))
        found.estimate("first_share", of["first_share"], ("region",))
        found.array("first_steps", first)
        laws = step_laws(context, num_steps)
        if laws:
            found.coordinate("law", [law.label for law in laws])
            found.array("std_ratio_theory", [law.values for law in laws], ("law", "step"))
        _claims(found, of, first)
        return found.dataset()

    def present(self, results: Sequence[xr.Dataset]) -> Section:
        """Table 11 and Figure 4 a, b."""
        labels = row_labels(results)
        return self.section(
            results,
            tables=(_table11(labels, results),),
            figures=for_each(_figures, results, labels),
        )


def _claims(found: Findings, of: Mapping[str, Estimate], first: int) -> None:
    error, ratio, share = of["error"], of["std_ratio"], of["first_share"]
    early = error[_PLAIN, :first] - error[_NON_PLAIN, :first]
    low, high = early.interval(0.95)
    found.claim(
        "CF4a-1",
        f"In every one of the first {first} steps the error is larger in plain areas: E_p(t) > E_n(t).",
        all_positive(early),
        {"difference": early.value, "low": low, "high": high},
    )
    found.claim(
        "CF4a-2",
        "The first 10 % of the steps make at least .3 of the error in plain areas.",
        positive(share[_PLAIN] - 0.3),
        interval_numbers("share", share[_PLAIN]),
    )
    # min over the first steps of rho_p(t) - 0.9 rho_n(t) must be negative; the minimum is taken in each replicate.
    gap = (0.9 * ratio[_NON_PLAIN, :first] - ratio[_PLAIN, :first]).map(np.max)
    found.claim(
        "CF4b-1",
        "Within the first 10 % of the steps predictions in plain areas lose spread: min ρ_p(t) < 0.9 ρ_n(t).",
        positive(gap),
        interval_numbers("largest_gap", gap),
    )
    half = ratio.shape[-1] // 2
    off = abs(ratio[:2, half:] - 1.0).map(np.max)
    found.claim(
        "CF4b-2",
        "In the second half of the steps the spread is right: ρ(t) within 1 ± .03 in both areas.",
        positive(0.03 - off),
        interval_numbers("largest_deviation", off),
    )
    difference = of["interval_error"][_PLAIN] - of["interval_error"][_NON_PLAIN]
    found.claim(
        "C11a",
        "In every interval of steps the error is larger in plain areas.",
        all_positive(difference),
        {
            "intervals": list(_INTERVALS),
            "difference": difference.value,
            "low": difference.interval()[0],
            "high": difference.interval()[1],
        },
    )
    more = share[_PLAIN] - share[_NON_PLAIN]
    found.claim(
        "C11b",
        "The first 10 % of the steps weigh more in plain areas, and at least .3 there.",
        every((positive(more), positive(share[_PLAIN] - 0.3))),
        interval_numbers("difference", more) | interval_numbers("share_plain", share[_PLAIN]),
    )


def _table11(labels: list[str], results: Sequence[xr.Dataset]) -> Table:
    shares = [f"{int(r['first_steps']) / int(r.attrs['T']):.0%}" for r in results]
    same = len(set(shares)) == 1
    first = f"first {shares[0]}" if same else "first steps"
    names = {
        "first": f"{first} of the steps" if same else first,
        "rest": "the other steps",
        "all": "all steps",
    }
    regions = {"plain": "Plain", "non_plain": "Non-plain"}
    columns = tuple(Column(f"m{i}", label, group="Sum of E_R(t)") for i, label in enumerate(labels))
    rows, groups, cells = [], [], []
    for interval, text in names.items():
        for region, area in regions.items():
            rows.append(area)
            groups.append(text)
            cells.append(tuple(cell(r, "interval_error", region=region, interval=interval) for r in results))
    for region, area in regions.items():
        rows.append(area)
        groups.append(f"share of the {first}")
        cells.append(tuple(cell(r, "first_share", region=region) for r in results))
    result = results[0]
    return Table(
        id="table11",
        title="Share of the first steps in the error",
        caption="Per-step error |ε_t - ε̂_t| divided by mean |ε_t|, summed over intervals of inversion steps."
        + ("" if same else f" The first steps are the first {each_own(labels, shares)} of all."),
        rows=tuple(rows),
        row_groups=tuple(groups),
        columns=columns,
        cells=tuple(cells),
        row_header="Region",
        seed=int(result.attrs["seed"]),
        **item_context(result),
        notes=(
            "One network evaluation per cached state (T per image) gives what restarting the inversion at every step "
            "gives with T² evaluations.",
        ),
    )


def _figures(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> tuple[Figure, ...]:
    theory = result.get("std_ratio_theory")

    def curves(name: str) -> list[plots.Curve]:
        return [
            plots.Curve(
                text,
                result[name].sel(region=region).values,
                result[f"{name}_low"].sel(region=region).values,
                result[f"{name}_high"].sel(region=region).values,
            )
            for region, text in (("plain", "Plain"), ("non_plain", "Non-plain"))
        ]

    def draw_error() -> object:
        return plots.step_curves({label: curves("error")}, "normalised error $E_R(t)$")

    def draw_ratio() -> object:
        lines = curves("std_ratio")
        for index, law in enumerate(() if theory is None else theory["law"].values):
            style = {"color": LAW_COLORS[index], "line": LAW_LINES[index]}
            lines.append(plots.Curve(str(law), theory.sel(law=law).values, **style))
        return plots.step_curves({label: lines}, r"spread ratio $\rho_R(t)$", reference=1.0)

    values = tuple(
        Row(
            label,
            f"{name} {region} step {step}",
            float(result[name].sel(region=region, step=step)),
            ci95=(
                float(result[f"{name}_low"].sel(region=region, step=step)),
                float(result[f"{name}_high"].sel(region=region, step=step)),
            ),
            theory=_pooled_law(theory, step) if name == "std_ratio" and region == "all" else None,
        )
        for name in ("error", "std_ratio")
        for region in REGIONS
        for step in result["step"].values
    )
    return (
        Figure(
            item_id("fig4a", index, results),
            f"Error of inversion predictions by step, {label}",
            "Mean |ε_t - ε̂_t| over the region divided by mean |ε_t|, in the order of the inversion; bands are 95 % "
            "bootstrap intervals.",
            draw_error,
            **item_context(result),
            values=tuple(v for v in values if v.column.startswith("error")),
        ),
        Figure(
            item_id("fig4b", index, results),
            f"Spread of inversion predictions by step, {label}",
            "Standard deviation of the inversion's predictions over that of the sampler's, per region. Below one the "
            "inversion adds too little noise."
            + (" Broken lines: closed forms of the law of one step." if theory is not None else ""),
            draw_ratio,
            **item_context(result),
            values=tuple(v for v in values if v.column.startswith("std_ratio")),
        ),
    )


def _pooled_law(theory: xr.DataArray | None, step: int) -> float | None:
    """The law of all modes at a step, which all entries pooled obey; a flat mode's law is of no region exactly."""
    if theory is None or str(theory["law"].values[0]).startswith("flat"):
        return None
    return float(theory.sel(step=step)[0])
