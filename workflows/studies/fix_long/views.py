"""Table 9, its bias-free companion and the sweep as curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from workflows.analysis.findings import is_guided, item_context, item_id, method_text
from workflows.analysis.presentation import Cell, Column, Figure, PaperValue, Table
from workflows.analysis.published import paper_value
from workflows.analysis.sweep import RULE_TEXT
from workflows.report.sweeps import (
    Units,
    draw_sweep,
    each_rule_text,
    is_latent,
    latent_cell,
    noise_cell,
    readings_text,
    reconstruction_note,
    rules_of,
)

if TYPE_CHECKING:
    import xarray as xr

# KL in the unit of the paper's table.
_MAIN = (
    Column("correlation", "Pixel corr."),
    Column("kl", "KL (×10⁻⁴)"),
    Column("kl_excess", "KL - floor (×10⁻⁴)"),
    Column("mae", "Image recon."),
)
_UNBIASED = (
    Column("excess_r2", "Excess r² (×10⁻³)"),
    Column("lag1", "Signed lag-1"),
    Column("std", "Standard deviation"),
    Column("kl_global", "KL global (×10⁻⁴)"),
    Column("psnr", "Recon. PSNR"),
)
_UNITS = Units(
    {"kl": 1e4, "kl_excess": 1e4, "kl_global": 1e4, "excess_r2": 1e3},
    {"kl": 1, "kl_excess": 1, "kl_global": 1, "mae": 4, "psnr": 2},
)


def _percent(count: int, steps: int) -> str:
    return f"{100 * count / steps:g}%"


def tables_of(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> tuple[Table, ...]:
    """Table 9 and its bias-free companion."""
    steps = int(result["long_steps"])
    counts = [int(k) for k in result["forward_steps"].values[1:]]
    rules = rules_of(result)
    cases = [(rules[0], 0), *((rule, k) for rule in rules for k in counts)]
    common = {
        "rows": (
            "Noise (upper bound)",
            f"{method_text(result)} latent",
            *(f"w/ the fix ({_percent(k, steps)}, K={k})" for _ in rules for k in counts),
        ),
        "row_groups": ("", "", *(RULE_TEXT[rule] for rule in rules for _ in counts)),
        "row_header": f"Latents, T = {steps}",
        "seed": int(result.attrs["seed"]),
        **item_context(result),
    }

    def cells(columns: Sequence[Column]) -> tuple[tuple[Cell, ...], ...]:
        noise = tuple(_noise_cell(result, c.name, steps) for c in columns)
        return (noise, *(tuple(_latent_cell(result, c.name, case, steps) for c in columns) for case in cases))

    unbiased = tuple(c for c in _UNBIASED if c.name != "psnr" or not is_latent(result))
    return (
        Table(
            id=item_id("table9", index, results),
            title=f"The fix at T = {steps}, {label}",
            caption=f"Images sampled at T = {int(result.attrs['T'])}, inverted and reconstructed at T = {steps}, the "
            f"first K inversion steps replaced by forward diffusion under {readings_text(result)}.",
            columns=_MAIN,
            cells=cells(_MAIN),
            notes=(
                "KL is KL(noise ‖ latent) per entry in nats against an independent noise set, in the paper's unit of "
                "10⁻⁴. Its floor is (2n-1)/(n(n-3)), about 2/n: compare values of one n only, or KL - floor at any n.",
                reconstruction_note(result),
            ),
            **common,
        ),
        Table(
            id=item_id("table9-unbiased", index, results),
            title=f"The fix at T = {steps}, bias-free measures, {label}",
            caption="Measures that are 0 (standard deviation: 1) for white noise at every n, and the PSNR.",
            columns=unbiased,
            cells=cells(unbiased),
            **common,
        ),
    )


def _paper(result: xr.Dataset, row: str, measure: str, steps: int) -> PaperValue | None:
    """The paper's cell in the table's unit; it printed T = 1000 only."""
    if measure not in ("kl", "mae") or is_guided(result):
        return None
    column = {"kl": "kl", "mae": "reconstruction"}[measure]
    found = paper_value("9", f"{result.attrs['model_title']} (T={steps}) / {row}", column)
    return None if found is None else replace(found, value=found.value * _UNITS.scales.get(measure, 1.0))


def _noise_cell(result: xr.Dataset, measure: str, steps: int) -> Cell:
    paper = _paper(result, "Noise (upper bound)", measure, steps)
    found = noise_cell(result, measure, _UNITS, paper)
    return found if found.T is None else replace(found, T=None)


def _latent_cell(result: xr.Dataset, measure: str, case: tuple[str, int], steps: int) -> Cell:
    row = f"w/ our fix ({_percent(case[1], steps)})" if case[1] else "DDIM Latent"
    found = latent_cell(result, measure, _UNITS, case, _paper(result, row, measure, steps))
    return replace(found, T=steps)


def figures_of(
    label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]
) -> tuple[Figure, ...]:
    """The sweep as curves."""
    steps = int(result["long_steps"])
    return (
        Figure(
            item_id("table9-sweep", index, results),
            f"The fix at T = {steps} and its price, {label}",
            f"Correlation, divergence and reconstruction error against K, {each_rule_text(result)}; "
            "bands are 95 % intervals, dotted: noise at the same n.",
            lambda: draw_sweep(result, f"replaced steps K of {steps}"),
            **item_context(result),
        ),
    )
