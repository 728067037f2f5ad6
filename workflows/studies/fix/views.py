"""Table 4, its bias-free companion, the sweep as curves, and Figure 22."""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr

from workflows.analysis.findings import (
    Shown,
    cell,
    images_notes,
    item_context,
    item_id,
    method_text,
    on_real_images,
    seed_of,
)
from workflows.analysis.gaussianity import shown_beside_floor
from workflows.analysis.presentation import Cell, Column, Figure, Row, Table
from workflows.analysis.sweep import RULE_TEXT
from workflows.report import plots


def _rules(result: xr.Dataset) -> list[str]:
    """The rules a result holds: both, or one where shifted levels make them the same."""
    return [str(rule) for rule in result["rule"].values]


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
    latent_space = str(result.attrs.get("domain", "pixel")) == "latent"
    if not latent_space:  # decibels refer to the range of images
        unbiased += (Column("psnr", "Recon. PSNR"),)
    noise = "White noise" if on_real_images(result) else "Noise"
    rows, groups = [noise, f"{method_text(result)} latent (K=0)"], ["", ""]
    for rule in _rules(result):
        rows += [_percent(k, T) for k in counts[1:]]
        groups += [RULE_TEXT[rule]] * len(counts[1:])

    def cells(columns: Sequence[Column]) -> tuple[tuple[Cell, ...], ...]:
        lines = [tuple(_noise_cell(result, c.name) for c in columns)]
        lines.append(tuple(_latent_cell(result, c.name, _rules(result)[0], 0) for c in columns))
        lines += [
            tuple(_latent_cell(result, c.name, rule, k) for c in columns)
            for rule in _rules(result)
            for k in counts[1:]
        ]
        return tuple(lines)

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
            caption="Latents whose first K inversion steps are replaced by forward diffusion, under both readings of K "
            "(the paper's code uses the matched rule for DiT and IF, the exact one for SDXL).",
            columns=main,
            cells=cells(main),
            notes=(
                "KL is KL(noise ‖ latent) in nats against an independent noise set; its floor is (2n-1)/(n(n-3)), "
                "about 2/n.",
                "Reconstruction error in the model's latent space, not on decoded images."
                if latent_space
                else "Reconstruction error on images in [-1, 1].",
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


_SCALE = {"kl": 1e3, "kl_excess": 1e3, "kl_global": 1e3, "excess_r2": 1e3}
_DIGITS = {"mae": 4, "kl_excess": 2, "psnr": 2, "kl": 2, "kl_global": 2}


def _style(result: xr.Dataset, measure: str) -> Shown:
    return shown_beside_floor(result, measure, _SCALE, _DIGITS, "dB" if measure == "psnr" else "")


def _noise_cell(result: xr.Dataset, measure: str) -> Cell:
    if measure == "mae":
        return Cell(0.0, digits=4)
    if f"{measure}_noise" not in result:
        return Cell(None)
    return cell(result, f"{measure}_noise", _style(result, measure))


def _latent_cell(result: xr.Dataset, measure: str, rule: str, count: int) -> Cell:
    theory = None
    if f"{measure}_theory" in result:
        value = float(result[f"{measure}_theory"].sel(rule=rule, forward_steps=count))
        theory = value * _SCALE.get(measure, 1.0)
    return cell(result, measure, _style(result, measure), theory=theory, rule=rule, forward_steps=count)


def figures_of(
    label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]
) -> tuple[Figure, ...]:
    """The sweep as curves, and the worst reconstructions."""
    counts = [int(k) for k in result["forward_steps"].values]
    panels = {"correlation": "pixel correlation", "kl": "KL per entry", "mae": "reconstruction error"}

    def lines(measure: str) -> list[plots.Curve]:
        return [
            plots.Curve(
                f"{rule} rule", *(result[measure + s].sel(rule=rule).values for s in ("", "_low", "_high"))
            )
            for rule in _rules(result)
        ]

    def draw_sweep() -> object:
        return plots.sweep_curves(
            {text: lines(measure) for measure, text in panels.items()},
            counts,
            floors=(float(result["correlation_noise"]), float(result["kl_noise"]), None),
            log=(False, True, False),
        )

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
            "Correlation, divergence and reconstruction error against the number of replaced steps K, both rules; "
            f"dotted: {'white noise' if on_real_images(result) else 'noise'} at the same n.",
            draw_sweep,
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
