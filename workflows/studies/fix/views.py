"""Table 4, its bias-free companion, the sweep as curves, and Figure 22."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from workflows.analysis.findings import (
    images_notes,
    item_context,
    item_id,
    method_text,
    on_real_images,
    seed_of,
)
from workflows.analysis.presentation import Cell, Column, Figure, Row, Table
from workflows.analysis.sweep import RULE_TEXT
from workflows.report import plots
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

_UNITS = Units(
    {"kl": 1e3, "kl_excess": 1e3, "kl_global": 1e3, "excess_r2": 1e3},
    {"mae": 4, "kl_excess": 2, "psnr": 2, "kl": 2, "kl_global": 2},
)


def _percent(count: int, steps: int) -> str:
    return f"{100 * count / steps:g} % ({count})"


def tables_of(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> tuple[Table, ...]:
    """Table 4 and its bias-free companion."""
    T = int(result.attrs["T"])
    counts = [int(k) for k in result["forward_steps"].values]
    main = (
        Column("correlation", "Pixel corr."),
        Column("mae", "Recon. abs. error"),
        Column("kl", "KL per entry (×10⁻³)"),
        Column("kl_global", "KL global (×10⁻³)"),
    )
    unbiased = (
        Column("excess_r2", "Excess r² (×10⁻³)"),
        Column("lag1", "Signed lag-1"),
        Column("kl_excess", "KL - floor (×10⁻³)"),
        Column("std", "Standard deviation"),
    )
    if not is_latent(result):  # decibels refer to the range of images
        unbiased += (Column("psnr", "Recon. PSNR"),)
    noise = "White noise" if on_real_images(result) else "Noise"
    rows, groups = [noise, f"{method_text(result)} latent (K=0)"], ["", ""]
    for rule in rules_of(result):
        rows += [_percent(k, T) for k in counts[1:]]
        groups += [RULE_TEXT[rule]] * len(counts[1:])

    def cells(columns: Sequence[Column]) -> tuple[tuple[Cell, ...], ...]:
        rules = rules_of(result)
        cases = [(rules[0], 0), *((rule, k) for rule in rules for k in counts[1:])]
        noise = tuple(noise_cell(result, c.name, _UNITS) for c in columns)
        return (noise, *(tuple(latent_cell(result, c.name, _UNITS, case) for c in columns) for case in cases))

    common = {
        "rows": tuple(rows),
        "row_groups": tuple(groups),
        "row_header": "Replaced steps",
        "seed": seed_of([result]),
        **item_context(result),
    }
    return (
        Table(
            id=item_id("table4", index, results),
            title=f"The fix, {label}",
            caption="Latents whose first K inversion steps are replaced by forward diffusion, under "
            f"{readings_text(result)} (the paper's code uses the matched rule for DiT and IF, the exact one for SDXL).",
            columns=main,
            cells=cells(main),
            notes=(
                "KL is KL(noise ‖ latent) in nats against an independent noise set; its floor is (2n-1)/(n(n-3)), "
                "about 2/n.",
                reconstruction_note(result),
                *images_notes([label], [result]),
            ),
            **common,
        ),
        Table(
            id=item_id("table4-unbiased", index, results),
            title=f"The fix, bias-free measures, {label}",
            caption="Measures that are 0 (standard deviation: 1) for white noise at every n.",
            columns=unbiased,
            cells=cells(unbiased),
            notes=images_notes([label], [result]),
            **common,
        ),
    )


def figures_of(
    label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]
) -> tuple[Figure, ...]:
    """The sweep as curves, and the worst reconstructions."""

    def draw_worst() -> object:
        fixed = result["worst_fixed"].values
        rows = [result["worst_image"].values, result["worst_ddim"].values, *fixed]
        names = ["$x^0$", method_text(result), *(f"K={int(k)}" for k in result["worst_steps"].values)]
        errors = [
            f"#{int(i)}: {e:.3f}"
            for i, e in zip(result["worst"].values, result["worst_error"].values, strict=True)
        ]
        if rows[0].shape[1] in (1, 3):
            return plots.image_grid(rows, names, errors)
        # Reconstructions of a latent model are compared, and shown, in its own space.
        return plots.latent_grid(
            [plots.three_channels(row) for row in rows], names, errors, common_scale=True
        )

    rule = str(result["worst_fixed"].attrs["rule"])
    return (
        Figure(
            item_id("table4-sweep", index, results),
            f"Decorrelation and its price, {label}",
            f"Correlation, divergence and reconstruction error against the number of replaced steps K, "
            f"{each_rule_text(result)}; dotted: {'white noise' if on_real_images(result) else 'noise'} at the same n.",
            lambda: draw_sweep(result),
            **item_context(result),
        ),
        Figure(
            item_id("fig22", index, results),
            f"Largest reconstruction errors, {label}",
            f"The images with the largest error at the largest K ({rule} rule), by rank: image, its reconstruction "
            "without the fix, and with it. Column titles: sample id and mean absolute error at the largest K.",
            draw_worst,
            **item_context(result),
            values=tuple(
                Row(f"{label} / image {int(i)}", "mean absolute error", float(e))
                for i, e in zip(result["worst"].values, result["worst_error"].values, strict=True)
            ),
        ),
    )
