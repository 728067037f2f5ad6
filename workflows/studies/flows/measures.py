"""What is measured of every inversion: spread and reconstruction in plain and other areas, beside closed forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from taba_core.stats.correlation import PatchCorrelation
from taba_core.stats.estimate import Estimate
from taba_core.stats.regions import REGIONS, RegionError
from taba_core.stats.step_error import StepError
from taba_core.theory import GaussianLatent, GaussianModes
from workflows.analysis.findings import Findings
from workflows.studies.flows.variants import FIXED_POINT, SWAPPED, Case, Row

if TYPE_CHECKING:
    from workflows.analysis.inputs import Inputs
    from workflows.configuration.context import Context

Measured = Mapping[str, Mapping[str, Estimate]]
VARIANCES = (1e-4, 1.0)  # of a flat mode, and of one of the spread of noise
BY_REGION = ("std", "noise_correlation", "rmse")
_UNKNOWN = (np.nan, np.nan)


def measure(inputs: Inputs, context: Context, rows: Sequence[Row]) -> dict[str, dict[str, Estimate]]:
    """Every row's estimates by its name; swapped steps are not sampled back."""
    return {row.name: _measured(inputs, context, row) for row in rows}


def _measured(inputs: Inputs, context: Context, row: Row) -> dict[str, Estimate]:
    s = context.settings
    columns: dict[str, Any] = {
        "noise": (f"images/{row.place}", "noise"),
        "image": (f"images/{row.place}", "image"),
        "region": (f"regions/{row.place}", "region"),
        "latent": (f"latent/{row.name}", "latent"),
    }
    statistics: dict[str, Any] = {
        "latent": RegionError(),
        "corr": PatchCorrelation("latent", s.patch_size, s.top_k),
    }
    if not row.variant.swapped:
        columns["reconstruction"] = (f"image/{row.name}", "reconstruction")
        statistics["image"] = RegionError("image", "reconstruction")
    of = inputs.reduce(columns, statistics, s.bootstrap_replicates)
    unknown = Estimate.exact(np.full(len(REGIONS), np.nan))
    return {
        "std": of["latent"]["std"],
        "noise_correlation": of["latent"]["correlation"],
        "share": of["latent"]["share"],
        "rmse": of["image"]["rms_error"] if "image" in of else unknown,
        "image_std": of["image"]["std"] if "image" in of else unknown,
        "correlation": of["corr"]["mean_top"],
    }


def distance(inputs: Inputs, context: Context, one: Row, other: Row) -> Estimate:
    """Root mean squared difference of two rows' reconstructions of the same images, by region."""
    columns = {
        "one": (f"image/{one.name}", "reconstruction"),
        "other": (f"image/{other.name}", "reconstruction"),
        "region": (f"regions/{one.place}", "region"),
    }
    of = inputs.reduce(columns, {"of": RegionError("one", "other")}, context.settings.bootstrap_replicates)
    return of["of"]["rms_error"]


def step_errors(inputs: Inputs, context: Context, case: Case) -> Estimate:
    """Relative error of the predictions from the sampler's own states, (region, step)."""
    replicates = context.settings.bootstrap_replicates
    return inputs.reduce_rows(f"steps/{case.name}", StepError(), replicates)["error"]


def keep(found: Findings, rows: Sequence[Row], measured: Measured, inputs: Inputs) -> None:
    """Store every number by row."""
    found.coordinate("row", [row.name for row in rows])
    found.coordinate("region", REGIONS)
    found.coordinate("variance", VARIANCES)
    facts: dict[str, list[Any]] = {
        "case": [row.case.name for row in rows],
        "case_label": [row.case.label for row in rows],
        "shift": [np.nan if row.case.shift is None else row.case.shift for row in rows],
        "T": [row.steps for row in rows],
        "variant": [row.variant.name for row in rows],
        "label": [row.variant.label for row in rows],
        "forward_steps": [row.variant.forward_steps for row in rows],
        "first_level": [row.case.context.grid(row.steps).upper_levels[0].sigma for row in rows],
    }
    for name, values in facts.items():
        found.array(f"row_{name}", values, ("row",))
    ways = ("latent", "image")
    counts = [[_evaluations(inputs, f"{way}/{row.name}") for row in rows] for way in ways]
    for name, values in zip(("up", "down"), counts, strict=True):
        found.array(f"evaluations_{name}", values, ("row",))
    for name in (*BY_REGION, "correlation", "share"):
        estimates = [measured[row.name][name] for row in rows]
        bounds = [estimate.interval(0.95) for estimate in estimates]
        dims = ("row",) if name == "correlation" else ("row", "region")
        for suffix, values in (
            ("", [estimate.value for estimate in estimates]),
            ("_low", [low for low, _ in bounds]),
            ("_high", [high for _, high in bounds]),
        ):
            found.array(name + suffix, np.stack(values), dims)
    theories = [theory(row) for row in rows]
    for name, values in (
        ("std_theory", [_UNKNOWN if t is None else t.std for t in theories]),
        ("rmse_theory", [_UNKNOWN if t is None else t.reconstruction_rmse for t in theories]),
    ):
        found.array(name, np.stack(values), ("row", "variance"))


def _evaluations(inputs: Inputs, name: str) -> float:
    return float(inputs.artifact(name).num_evaluations()) if name in inputs.requests else np.nan


def theory(row: Row) -> GaussianLatent | None:
    """The latent of modes of VARIANCES on the row's levels in closed form; None of methods without one."""
    variant = row.variant
    modes = GaussianModes(np.array(VARIANCES), row.case.context.grid(row.steps))
    if variant.steps is not None or variant.swapped:
        return None
    if variant.method == "fixed-point":
        gain = modes.fixed_point_gain(FIXED_POINT["num_evaluations"] - 1, variant.forward_steps)
        return modes.latent_with(gain, modes.grid.replacement_level(variant.forward_steps, variant.rule))
    if variant.method != "ddim":
        return None
    chosen = {
        name: variant.settings[name]
        for name in ("network_time", "first_time", "held")
        if name in variant.settings
    }
    return modes.latent(variant.forward_steps, variant.rule, **chosen)


def regained(measured: Measured, place: str, step: int) -> Estimate:
    """Share of the logarithm of what latents of plain areas lack that one swapped step gives back."""
    with_swap, without = (measured[f"{place}/{name}"]["std"][0] for name in (f"swap-{step}", "euler"))
    return 1.0 - with_swap.log() / without.log()


def keep_steps(
    found: Findings, cases: Sequence[Case], errors: Mapping[str, Estimate], shares: Mapping[str, Estimate]
) -> None:
    """Store what single steps cost: shares of swapped steps, (case, swapped step), and errors, (case, region, step)."""
    names = [case.name for case in cases]
    found.coordinate("case", names)
    found.array("case_label", [case.label for case in cases], ("case",))
    found.coordinate("swapped_step", SWAPPED)
    bounds = [shares[name].interval(0.95) for name in names]
    found.array("regained", np.stack([shares[name].value for name in names]), ("case", "swapped_step"))
    found.array("regained_low", np.stack([low for low, _ in bounds]), ("case", "swapped_step"))
    found.array("regained_high", np.stack([high for _, high in bounds]), ("case", "swapped_step"))
    found.coordinate("step", np.arange(1, next(iter(errors.values())).shape[-1] + 1))
    bounds = [errors[name].interval(0.95) for name in names]
    dims = ("case", "region", "step")
    found.array("step_error", np.stack([errors[name].value for name in names]), dims)
    found.array("step_error_low", np.stack([low for low, _ in bounds]), dims)
    found.array("step_error_high", np.stack([high for _, high in bounds]), dims)
