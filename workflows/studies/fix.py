"""Does replacing the first inversion steps by forward diffusion repair the latents? (Table 4, Figure 22)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, get_args

import numpy as np
import xarray as xr

from taba_core.conventions import ForwardLevel
from taba_core.stats.correlation import LagCorrelation, PatchCorrelation
from taba_core.stats.estimate import Estimate
from taba_core.stats.floor import correlation_floor, kl_floor
from taba_core.stats.moments import EntryKL, GlobalKL, Moments
from taba_core.stats.reconstruction import ReconstructionError
from taba_core.stats.verdict import every, positive
from workflows.closed_form import LatentTheory, latent_theory
from workflows.context import Context
from workflows.findings import Findings, cell, claims_of, interval_numbers, item_id, row_labels
from workflows.present import Cell, Column, Figure, Row, Section, Table
from workflows.report import plots
from workflows.study import Request, Study, register

if TYPE_CHECKING:
    from workflows.inputs import Inputs

_RULES: tuple[ForwardLevel, ...] = get_args(ForwardLevel)
_RULE_TEXT = {"exact": "noised to level K (exact)", "matched": "noised to level K+1 (matched)"}
_MEASURES = ("correlation", "kl", "kl_global", "mae", "psnr", "excess_r2", "lag1", "std")
_WORST = 6


@register
class Fix(Study):
    """Plain inversion against inversions whose first K steps are forward diffusion, under both level rules."""

    name = "fix"
    aliases = ("table4", "fig22")
    title = "Forward diffusion in the first steps repairs the latents"
    question = "How many replaced steps make latents look like noise, and what does it cost in reconstruction?"
    paper_section = "4"
    paper_steps = 50

    def requests(self, context: Context) -> Mapping[str, Request]:
        """Latents and reconstructions for K = 0 and for every K and rule."""
        context.patch_features()
        steps = context.num_steps(self.paper_steps)
        generation = context.generation(steps)
        asked = {"generation": Request(generation, ("noise", "image"))}
        for rule, count in _cases(context.sweep(steps)):
            inversion = context.inversion(generation, count, rule)
            asked[_name("latent", rule, count)] = Request(inversion, ("latent",))
            asked[_name("image", rule, count)] = Request(context.reconstruction(inversion), ("reconstruction",))
        return asked

    def analyse(self, inputs: Inputs, context: Context) -> xr.Dataset:
        """Correlation, divergence and reconstruction by rule and K, claims C4, and the worst reconstructions."""
        steps = context.num_steps(self.paper_steps)
        sweep = context.sweep(steps)
        counts = (0, *sweep)
        found = Findings()
        found.coordinate("rule", _RULES)
        found.coordinate("forward_steps", counts)
        noise = _noise_row(inputs, context)
        plain = _latent_row(inputs, context, _RULES[0], 0)
        rows = {(rule, 0): plain for rule in _RULES}
        rows |= {(rule, k): _latent_row(inputs, context, rule, k) for rule in _RULES for k in sweep}
        for measure in _MEASURES:
            for suffix, values in _stacked(rows, counts, measure).items():
                found.array(measure + suffix, values, ("rule", "forward_steps"))
            if measure in noise:
                found.estimate(f"{measure}_noise", noise[measure])
        _floors(found, context)
        _theory(found, context, counts)
        _claims(found, noise, rows, sweep, steps)
        _worst_images(found, inputs, context, sweep)
        return found.dataset()

    def present(self, results: Sequence[xr.Dataset]) -> Section:
        """Table 4 of each result, its bias-free companion, the sweep as curves, and Figure 22."""
        labels = row_labels(results)
        tables = [t for i, r in enumerate(results) for t in _tables(labels[i], r, i, results)]
        figures = [f for i, r in enumerate(results) for f in _figures(labels[i], r, i, results)]
        claims = tuple(c for i, r in enumerate(results) for c in claims_of(r, "" if i == 0 else f", {labels[i]}"))
        return Section(
            self.name, self.title, self.question, self.paper_section,
            tables=tuple(tables), figures=tuple(figures), claims=claims,
        )


def _cases(sweep: Sequence[int]) -> list[tuple[ForwardLevel, int]]:
    # K = 0 draws no noise, so the two rules share it.
    return [(_RULES[0], 0), *((rule, k) for rule in _RULES for k in sweep)]


def _name(what: str, rule: str, count: int) -> str:
    return f"{what}/{rule}/{count}" if count else f"{what}/0"


def _noise_row(inputs: Inputs, context: Context) -> dict[str, Estimate]:
    s = context.settings
    columns = {"noise": ("generation", "noise")}
    of = inputs.reduce(
        columns,
        {
            "corr": PatchCorrelation("noise", s.patch_size, s.top_k),
            "kl": EntryKL("independent", "noise"),
            "global": GlobalKL("independent", "noise"),
            "lag": LagCorrelation("noise"),
            "moments": Moments("noise"),
        },
        s.bootstrap_replicates,
    )
    return _named(of)


def _latent_row(inputs: Inputs, context: Context, rule: ForwardLevel, count: int) -> dict[str, Estimate]:
    s = context.settings
    columns = {
        "image": ("generation", "image"),
        "latent": (_name("latent", rule, count), "latent"),
        "reconstruction": (_name("image", rule, count), "reconstruction"),
    }
    of = inputs.reduce(
        columns,
        {
            "corr": PatchCorrelation("latent", s.patch_size, s.top_k),
            # Against noise of an independent set: paired with its own noise, a perfect inversion would read
            # less than any noise does.
            "kl": EntryKL("independent", "latent"),
            "global": GlobalKL("independent", "latent"),
            "lag": LagCorrelation("latent"),
            "moments": Moments("latent"),
            "recon": ReconstructionError(),
        },
        s.bootstrap_replicates,
    )
    return _named(of) | {"mae": of["recon"]["mae"], "psnr": of["recon"]["psnr"]}


def _named(of: Mapping[str, Mapping[str, Estimate]]) -> dict[str, Estimate]:
    return {
        "correlation": of["corr"]["mean_top"],
        "excess_r2": of["corr"]["excess_r2"],
        "kl": of["kl"]["kl"],
        "kl_global": of["global"]["kl"],
        "lag1": of["lag"]["value"],
        "std": of["moments"]["std"],
    }


def _stacked(
    rows: Mapping[tuple[str, int], Mapping[str, Estimate]], counts: Sequence[int], measure: str
) -> dict[str, np.ndarray]:
    table = [[rows[rule, k][measure] for k in counts] for rule in _RULES]
    bounds = [[estimate.interval(0.95) for estimate in row] for row in table]
    return {
        "": np.array([[float(e.value) for e in row] for row in table]),
        "_low": np.array([[float(b[0]) for b in row] for row in bounds]),
        "_high": np.array([[float(b[1]) for b in row] for row in bounds]),
    }


def _floors(found: Findings, context: Context) -> None:
    s, n = context.settings, context.num_samples
    found.array("correlation_floor", correlation_floor(n, context.patch_features(), s.top_k).mean)
    found.array("kl_floor", kl_floor(n) if n >= 4 else np.nan)


def _theory(found: Findings, context: Context, counts: Sequence[int]) -> None:
    theories = {(rule, k): latent_theory(context, k, rule) for rule in _RULES for k in counts}
    if any(theory is None for theory in theories.values()):
        return
    for measure in LatentTheory._fields:
        values = [[getattr(theories[rule, k], measure) for k in counts] for rule in _RULES]
        found.array(f"{measure}_theory", values, ("rule", "forward_steps"))


def _claims(
    found: Findings,
    noise: Mapping[str, Estimate],
    rows: Mapping[tuple[str, int], Mapping[str, Estimate]],
    sweep: Sequence[int],
    steps: int,
) -> None:
    plain = rows[_RULES[0], 0]
    above = plain["correlation"] - 1.5 * noise["correlation"]
    found.claim(
        "C4a", "Without the fix latents are correlated: corr(K=0) ≥ 1.5 corr(noise).",
        positive(above), interval_numbers("difference", above),
    )
    four_percent = [k for k in sweep if k >= 0.04 * steps]
    for rule in _RULES:
        gaps = {k: 1.1 * noise["correlation"] - rows[rule, k]["correlation"] for k in four_percent}
        found.claim(
            f"C4b-{rule}",
            f"The fix brings correlation to its floor: corr(K) ≤ 1.10 corr(noise) for K ≥ 4 % of T, {rule} rule.",
            every(positive(gap) for gap in gaps.values()),
            {f"K={k}": interval_numbers("margin", gap) for k, gap in gaps.items()},
        )
        # Under the exact rule K = 2 % adds noise of the first level only, too little to matter (the catalogue, C4).
        counted = [k for k in sweep if k >= (0.02 if rule == "matched" else 0.04) * steps]
        halves = {k: 0.5 * plain["kl"] - rows[rule, k]["kl"] for k in counted}
        found.claim(
            f"C4c-{rule}",
            f"The fix at least halves the divergence: KL(K) < 0.5 KL(0) for K ≥ {'2' if rule == 'matched' else '4'} % of "
            f"T, {rule} rule.",
            every(positive(half) for half in halves.values()),
            {f"K={k}": interval_numbers("margin", half) for k, half in halves.items()},
        )
        if len(sweep) > 1:
            cost = rows[rule, sweep[-1]]["mae"] - rows[rule, sweep[0]]["mae"]
            found.claim(
                f"C4d-{rule}",
                f"More replaced steps cost reconstruction: error(K={sweep[-1]}) ≥ error(K={sweep[0]}), {rule} rule.",
                positive(cost), interval_numbers("difference", cost),
            )


def _worst_images(found: Findings, inputs: Inputs, context: Context, sweep: Sequence[int]) -> None:
    """The largest reconstruction errors at the largest K, and the same images at the other K shown (Figure 22)."""
    rule = context.conventions.forward_level
    shown = sweep[-2:]

    def errors(count: int) -> np.ndarray:
        columns = {
            "image": ("generation", "image"),
            "reconstruction": (_name("image", rule, count), "reconstruction"),
        }
        return inputs.per_sample(
            columns, lambda b: np.abs(b["image"] - b["reconstruction"]).mean(axis=(1, 2, 3), dtype=np.float64)
        )

    error = errors(shown[-1])
    worst = np.argsort(-error, kind="stable")[:_WORST]
    found.coordinate("worst", worst)
    found.coordinate("worst_steps", np.array(shown))
    found.array("worst_error", error[worst], ("worst",), long_name="mean absolute error at the largest K")
    dims = ("worst", "channel", "y", "x")
    found.array("worst_image", inputs.pick("generation", "image", worst), dims)
    found.array("worst_ddim", inputs.pick("image/0", "reconstruction", worst), dims)
    pictures = [inputs.pick(_name("image", rule, k), "reconstruction", worst) for k in shown]
    found.array("worst_fixed", np.stack(pictures), ("worst_steps", *dims), rule=rule)


def _percent(count: int, steps: int) -> str:
    return f"{count / steps:.3g}".replace("0.", ".") if steps > 100 else f"{100 * count / steps:g} % ({count})"


def _tables(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> tuple[Table, ...]:
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
        Column("std", "Standard deviation"),
        Column("psnr", "Recon. PSNR"),
    )
    rows, groups = ["Noise", "DDIM latent (K=0)"], ["", ""]
    for rule in _RULES:
        rows += [_percent(k, T) for k in counts[1:]]
        groups += [_RULE_TEXT[rule]] * len(counts[1:])

    def cells(columns: Sequence[Column]) -> tuple[tuple[Cell, ...], ...]:
        lines = [tuple(_noise_cell(result, c.name) for c in columns)]
        lines.append(tuple(_latent_cell(result, c.name, _RULES[0], 0) for c in columns))
        lines += [tuple(_latent_cell(result, c.name, rule, k) for c in columns) for rule in _RULES for k in counts[1:]]
        return tuple(lines)

    common = {
        "rows": tuple(rows), "row_groups": tuple(groups), "row_header": "Replaced steps",
        "conventions": str(result.attrs["conventions"]),
        "n": int(result.attrs["n"]), "T": T, "seed": int(result.attrs["seed"]),
    }
    return (
        Table(
            id=item_id("table4", index, results), title=f"The fix, {label}",
            caption="Latents whose first K inversion steps are replaced by forward diffusion, under both readings of K "
            "(the paper's code uses the matched rule for DiT and IF, the exact one for SDXL).",
            columns=main, cells=cells(main),
            notes=("KL is KL(noise ‖ latent) in nats against an independent noise set; its floor is (2n-1)/(n(n-3)), "
                   "about 2/n. Reconstruction error on images in [-1, 1].",),
            **common,
        ),
        Table(
            id=item_id("table4-unbiased", index, results), title=f"The fix, bias-free measures, {label}",
            caption="Measures that are 0 (standard deviation: 1) for white noise at every n.",
            columns=unbiased, cells=cells(unbiased), **common,
        ),
    )


_SCALE = {"kl": 1e3, "kl_global": 1e3, "excess_r2": 1e3}
_DIGITS = {"mae": 4, "psnr": 2, "kl": 2, "kl_global": 2}


def _style(result: xr.Dataset, measure: str) -> dict[str, object]:
    scale = _SCALE.get(measure, 1.0)
    floors = {"correlation": "correlation_floor", "kl": "kl_floor"}
    floor = float(result[floors[measure]]) * scale if measure in floors else None
    return {"scale": scale, "digits": _DIGITS.get(measure, 3), "floor": floor, "unit": "dB" if measure == "psnr" else ""}


def _noise_cell(result: xr.Dataset, measure: str) -> Cell:
    if measure == "mae":
        return Cell(0.0, digits=4)
    if f"{measure}_noise" not in result:
        return Cell(None)
    return cell(result, f"{measure}_noise", **_style(result, measure))


def _latent_cell(result: xr.Dataset, measure: str, rule: str, count: int) -> Cell:
    theory = None
    if f"{measure}_theory" in result:
        value = float(result[f"{measure}_theory"].sel(rule=rule, forward_steps=count))
        theory = value * _SCALE.get(measure, 1.0)
    return cell(result, measure, theory=theory, rule=rule, forward_steps=count, **_style(result, measure))


def _figures(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> tuple[Figure, ...]:
    n, T, conventions = int(result.attrs["n"]), int(result.attrs["T"]), str(result.attrs["conventions"])
    counts = [int(k) for k in result["forward_steps"].values]
    panels = {"correlation": "pixel correlation", "kl": "KL per entry", "mae": "reconstruction error"}

    def lines(measure: str) -> list[plots.Curve]:
        return [
            plots.Curve(
                f"{rule} rule", *(result[measure + s].sel(rule=rule).values for s in ("", "_low", "_high"))
            )
            for rule in _RULES
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
        names = ["$x^0$", "DDIM", *(f"K={int(k)}" for k in result["worst_steps"].values)]
        errors = [f"#{int(i)}: {e:.3f}" for i, e in zip(result["worst"].values, result["worst_error"].values, strict=True)]
        return plots.image_grid(rows, names, errors)

    rule = str(result["worst_fixed"].attrs["rule"])
    return (
        Figure(
            item_id("table4-sweep", index, results), f"Decorrelation and its price, {label}",
            "Correlation, divergence and reconstruction error against the number of replaced steps K, under both rules; "
            "dotted: noise at the same n.",
            draw_sweep, n=n, T=T, conventions=conventions,
        ),
        Figure(
            item_id("fig22", index, results), f"Largest reconstruction errors, {label}",
            f"The images with the largest error at the largest K ({rule} rule), by rank: image, its reconstruction without "
            "the fix, and with it. Column titles: sample id and mean absolute error at the largest K.",
            draw_worst, n=n, T=T, conventions=conventions,
            values=tuple(
                Row(f"{label} / image {int(i)}", "mean absolute error", float(e))
                for i, e in zip(result["worst"].values, result["worst_error"].values, strict=True)
            ),
        ),
    )
