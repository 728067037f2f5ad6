"""What the fix study measures: one row for noise, one for the latents of every K and rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from taba_core.conventions import ForwardLevel
from taba_core.stats.correlation import LagCorrelation, PatchCorrelation
from taba_core.stats.estimate import Estimate
from taba_core.stats.floor import correlation_floor, kl_floor
from taba_core.stats.moments import EntryKL, GlobalKL, Moments
from taba_core.stats.reconstruction import ReconstructionError
from workflows.closed_form import LatentTheory, latent_theory
from workflows.context import Context
from workflows.findings import Findings

if TYPE_CHECKING:
    from workflows.inputs import Inputs

Rules = tuple[ForwardLevel, ...]
MEASURES = ("correlation", "kl", "kl_excess", "kl_global", "mae", "psnr", "excess_r2", "lag1", "std")
WORST = 6


def cases(rules: Rules, sweep: Sequence[int]) -> list[tuple[ForwardLevel, int]]:
    """Rules and K of all inversions of a sweep, plain inversion (K = 0) first."""
    # K = 0 draws no noise, so the two rules share it.
    return [(rules[0], 0), *((rule, k) for rule in rules for k in sweep)]


def request_name(what: str, rule: str, count: int) -> str:
    """Name of a request: what ("latent" or "image"), rule and K; K = 0 belongs to no rule."""
    return f"{what}/{rule}/{count}" if count else f"{what}/0"


def noise_row(inputs: Inputs, context: Context) -> dict[str, Estimate]:
    """The measures of the noise the images came from."""
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


def latent_row(inputs: Inputs, context: Context, rule: ForwardLevel, count: int) -> dict[str, Estimate]:
    """The measures of the latents of one K and rule, and of their reconstructions."""
    s = context.settings
    columns = {
        "image": ("generation", "image"),
        "latent": (request_name("latent", rule, count), "latent"),
        "reconstruction": (request_name("image", rule, count), "reconstruction"),
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
        "kl_excess": of["kl"]["kl_excess"],
        "kl_global": of["global"]["kl"],
        "lag1": of["lag"]["value"],
        "std": of["moments"]["std"],
    }


def stacked(
    rows: Mapping[tuple[str, int], Mapping[str, Estimate]], rules: Rules, counts: Sequence[int], measure: str
) -> dict[str, NDArray[np.float64]]:
    """A measure over rules and K: value, lower and upper end, each (rules, K), by suffix."""
    table = [[rows[rule, k][measure] for k in counts] for rule in rules]
    bounds = [[estimate.interval(0.95) for estimate in row] for row in table]
    return {
        "": np.array([[float(e.value) for e in row] for row in table]),
        "_low": np.array([[float(b[0]) for b in row] for row in bounds]),
        "_high": np.array([[float(b[1]) for b in row] for row in bounds]),
    }


def find_floors(found: Findings, context: Context) -> None:
    """What white noise reads at this n."""
    s, n = context.settings, context.num_samples
    found.array("correlation_floor", correlation_floor(n, context.patch_features(), s.top_k).mean)
    found.array("kl_floor", kl_floor(n) if n >= 4 else np.nan)


def find_theory(found: Findings, context: Context, steps: int, counts: Sequence[int]) -> None:
    """Closed forms for every K and rule, where the model allows them."""
    rules = context.forward_rules
    theories = {(rule, k): latent_theory(context, steps, k, rule) for rule in rules for k in counts}
    if any(theory is None for theory in theories.values()):
        return
    for measure in LatentTheory._fields:
        values = [[getattr(theories[rule, k], measure) for k in counts] for rule in rules]
        found.array(f"{measure}_theory", values, ("rule", "forward_steps"))


def find_worst_images(found: Findings, inputs: Inputs, context: Context, sweep: Sequence[int]) -> None:
    """The largest reconstruction errors at the largest K, and the same images at the other K shown (Figure 22)."""
    wanted = context.conventions.forward_level
    rule = wanted if wanted in context.forward_rules else context.forward_rules[0]
    shown = sweep[-2:]

    def errors(count: int) -> np.ndarray:
        columns = {
            "image": ("generation", "image"),
            "reconstruction": (request_name("image", rule, count), "reconstruction"),
        }
        return inputs.per_sample(
            columns, lambda b: np.abs(b["image"] - b["reconstruction"]).mean(axis=(1, 2, 3), dtype=np.float64)
        )

    error = errors(shown[-1])
    worst = np.argsort(-error, kind="stable")[:WORST]
    found.coordinate("worst", worst)
    found.coordinate("worst_steps", np.array(shown))
    found.array("worst_error", error[worst], ("worst",), long_name="mean absolute error at the largest K")
    dims = ("worst", "channel", "y", "x")
    found.array("worst_image", inputs.pick("generation", "image", worst), dims)
    found.array("worst_ddim", inputs.pick("image/0", "reconstruction", worst), dims)
    pictures = [inputs.pick(request_name("image", rule, k), "reconstruction", worst) for k in shown]
    found.array("worst_fixed", np.stack(pictures), ("worst_steps", *dims), rule=rule)
