"""What is measured of every row: Gaussianity, noise error, reconstruction, cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from taba_core.stats.base import RowStatistic
from taba_core.stats.estimate import Estimate
from taba_core.stats.inversion_cost import InterpolationCurve, InversionCost
from taba_core.stats.masked import RegionLagCorrelation, RegionSpectrum
from taba_core.stats.reconstruction import ReconstructionError
from taba_core.stats.regions import REGIONS, RegionError
from taba_core.stats.similarity import WINDOW, StructuralSimilarity
from taba_core.stats.values import ValueMean
from workflows.analysis.findings import Findings
from workflows.analysis.gaussianity import find_floors, gaussianity, named
from workflows.analysis.inputs import Inputs
from workflows.configuration.context import Context
from workflows.studies.methods.lpips import lpips, unsuited
from workflows.studies.methods.options import MethodsOptions
from workflows.studies.methods.rows import MethodRow

if TYPE_CHECKING:
    from taba_core.stats.base import Statistic

Measured = Mapping[str, Mapping[str, Estimate]]

# Of all latents together; by region; along a curve.
SCALARS = (
    "correlation",
    "spread",
    "excess_r2",
    "lag1",
    "kl",
    "kl_excess",
    "kl_global",
    "std",
    "mae",
    "mse",
    "psnr",
    "ssim",
    "lpips",
    "lpips_std",
    "evaluations",
    "residual",
    "fallback_steps",
    "fallback_images",
    "arc_largest",
    "arc_bulge",
)
BY_REGION = ("error", "rms_error", "std_region", "kl_region", "lag1_region", "slope")
OF_NOISE = ("correlation", "spread", "excess_r2", "lag1", "kl", "kl_excess", "kl_global", "std")
NOISE_BY_REGION = ("std_region", "lag1_region", "slope")


def by_region(variable: str) -> dict[str, Statistic]:
    """The statistics of a column of states that tell plain areas from others."""
    return {
        "error": RegionError(estimate=variable),
        "lag_region": RegionLagCorrelation(variable),
        "spectrum": RegionSpectrum(variable),
    }


def _named_by_region(of: Mapping[str, Mapping[str, Estimate]]) -> dict[str, Estimate]:
    return {
        "error": of["error"]["error"],
        "rms_error": of["error"]["rms_error"],
        "std_region": of["error"]["std"],
        "std_noise": of["error"]["std_reference"],
        "kl_region": of["error"]["kl"],
        "share": of["error"]["share"],
        "lag1_region": of["lag_region"]["value"],
        "slope": of["spectrum"]["slope"],
        "power": of["spectrum"]["power"],
    }


def find_noise(found: Findings, inputs: Inputs, context: Context) -> dict[str, Estimate]:
    """Measure the noise the images came from, and keep its numbers and the floors."""
    s = context.settings
    columns = {"noise": ("generation", "noise"), "region": ("regions", "region")}
    of = inputs.reduce(columns, gaussianity("noise", s) | by_region("noise"), s.bootstrap_replicates)
    noise = named(of) | _named_by_region(of)
    found.coordinate("region", REGIONS)
    for measure in OF_NOISE:
        found.estimate(f"{measure}_noise", noise[measure])
    for measure in (*NOISE_BY_REGION, "share"):
        found.estimate(measure if measure == "share" else f"{measure}_noise", noise[measure], ("region",))
    found.array("power_noise", noise["power"].value, ("region", "radius"))
    found.coordinate("radius", np.arange(1, noise["power"].shape[-1] + 1))
    find_floors(found, context)
    return noise


def find_rows(
    found: Findings, inputs: Inputs, context: Context, rows: Sequence[MethodRow]
) -> dict[str, dict[str, Estimate]]:
    """Measure every row and keep its numbers; returns them for the claims."""
    measured = {row.name: _measure(inputs, context, row) for row in rows}
    found.coordinate("row", [row.name for row in rows])
    for name in ("label", "group", "method", "paper"):
        found.array(f"row_{name}", [getattr(row, name) for row in rows], ("row",))
    inversions = [inputs.artifact(f"latent/{row.name}") for row in rows]
    found.array("row_steps", [a.num_inference_steps for a in inversions], ("row",))  # type: ignore[attr-defined]
    found.array("row_forward_steps", [row.forward_steps for row in rows], ("row",))
    counted = [inputs.head(f"latent/{row.name}", "evaluations", inputs.num_samples) for row in rows]
    for end, function in (("least", np.min), ("most", np.max)):
        found.array(f"evaluations_{end}", [int(function(counts)) for counts in counted], ("row",))
    found.array("row_own_sampler", [row.chosen.method.own_sampler for row in rows], ("row",))
    found.array("arc_samples", min(context.options(MethodsOptions).arc_samples, inputs.num_samples))
    found.coordinate("weight", np.linspace(0, 1, measured[rows[0].name]["arc"].shape[0]))
    about = _about_lpips(inputs, context, rows)
    for measure, dims in (
        *((name, ()) for name in SCALARS),
        *((name, ("region",)) for name in BY_REGION),
        ("power", ("region", "radius")),
        ("arc", ("weight",)),
    ):
        _keep(found, measure, [measured[row.name][measure] for row in rows], dims, about.get(measure, {}))
    return measured


def _about_lpips(inputs: Inputs, context: Context, rows: Sequence[MethodRow]) -> dict[str, dict[str, str]]:
    """Attributes: the weights the distances were measured with, or why this model's images have none."""
    name = f"lpips/{rows[0].name}"
    weights = lpips().files[0].identity() if name in inputs.requests else ""
    return {"lpips": {"weights": weights, "unsuited": unsuited(context)}}


def _keep(
    found: Findings,
    measure: str,
    values: Sequence[Estimate],
    dims: tuple[str, ...],
    about: Mapping[str, str],
) -> None:
    bounds = [value.interval(0.95) for value in values]
    for suffix, numbers in (
        ("", [value.value for value in values]),
        ("_low", [low for low, _ in bounds]),
        ("_high", [high for _, high in bounds]),
    ):
        found.array(measure + suffix, np.stack(numbers), ("row", *dims), interval=values[0].kind, **about)


def _measure(inputs: Inputs, context: Context, row: MethodRow) -> dict[str, Estimate]:
    """All measures of one row: a pass over its arrays, and one over the first samples' curves."""
    s = context.settings
    latent, image, arc = (f"{what}/{row.name}" for what in ("latent", "image", "arc"))
    columns = {
        "noise": ("generation", "noise"),
        "image": ("generation", "image"),
        "region": ("regions", "region"),
        "latent": (latent, "latent"),
        "evaluations": (latent, "evaluations"),
        "residual": (latent, "residual"),
        "fallback": (latent, "fallback"),
        "reconstruction": (image, "reconstruction"),
    }
    statistics = gaussianity("latent", s) | by_region("latent") | _of_images(context)
    statistics |= {"cost": InversionCost()}
    if f"lpips/{row.name}" in inputs.requests:
        columns["lpips"] = (f"lpips/{row.name}", "distance")
        statistics["lpips"] = ValueMean("lpips")
    of = inputs.reduce(columns, statistics, s.bootstrap_replicates)
    curve = {"arc": InterpolationCurve()}
    of |= inputs.reduce(
        {"distance": (arc, "distance")},
        curve,
        s.bootstrap_replicates,
        context.options(MethodsOptions).arc_samples,
    )
    unknown = Estimate.exact(np.nan)
    return {
        **named(of),
        **_named_by_region(of),
        **{name: of["recon"][name] for name in ("mae", "mse")},
        "psnr": of["recon"]["psnr"] if context.card.domain == "pixel" else unknown,
        "ssim": of["ssim"]["ssim"] if "ssim" in of else unknown,
        "lpips": of["lpips"]["mean"] if "lpips" in of else unknown,
        "lpips_std": of["lpips"]["std"] if "lpips" in of else unknown,
        **{n: of["cost"][n] for n in ("evaluations", "residual", "fallback_steps", "fallback_images")},
        "arc": of["arc"]["distance"],
        "arc_largest": of["arc"]["largest"],
        "arc_bulge": of["arc"]["bulge"],
    }


def _of_images(context: Context) -> dict[str, Statistic]:
    """How well images come back; likeness to the eye only where states are images, at least a window large."""
    found: dict[str, RowStatistic] = {"recon": ReconstructionError()}
    if context.card.domain == "pixel" and min(context.card.sample_shape[1:]) >= WINDOW:
        found["ssim"] = StructuralSimilarity()
    return dict(found)
