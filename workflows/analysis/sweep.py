"""What a sweep of replaced steps measures: one row for noise, one for the latents of every K and rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from taba_core.artifacts.generation import Generation
from taba_core.artifacts.images import ImageList
from taba_core.artifacts.request import Request
from taba_core.conventions import ForwardLevel
from taba_core.stats.estimate import Estimate
from taba_core.stats.reconstruction import ReconstructionError
from workflows.analysis.closed_form import LatentTheory, latent_theory
from workflows.analysis.findings import Findings
from workflows.analysis.gaussianity import find_floors, gaussianity, named, stacked
from workflows.configuration.context import Context

if TYPE_CHECKING:
    from workflows.analysis.inputs import Inputs

# What the two readings of "replace K steps" are called in tables and figures.
RULE_TEXT = {"exact": "noised to level K (exact)", "matched": "noised to level K+1 (matched)"}

Rules = tuple[ForwardLevel, ...]
Rows = dict[tuple[str, int], Mapping[str, Estimate]]
MEASURES = ("correlation", "kl", "kl_excess", "kl_global", "mae", "psnr", "excess_r2", "lag1", "std")
WORST = 6


def cases(rules: Rules, sweep: Sequence[int]) -> list[tuple[ForwardLevel, int]]:
    """Rules and K of all inversions of a sweep, plain inversion (K = 0) first."""
    # K = 0 draws no noise, so the two rules share it.
    return [(rules[0], 0), *((rule, k) for rule in rules for k in sweep)]


def request_name(what: str, rule: str, count: int) -> str:
    """Name of a request: what ("latent" or "image"), rule and K; K = 0 belongs to no rule."""
    return f"{what}/{rule}/{count}" if count else f"{what}/0"


def sweep_requests(
    context: Context, images: Generation | ImageList, steps: int, sweep: Sequence[int]
) -> dict[str, Request]:
    """Latents and reconstructions at T = `steps` for K = 0 and for every K and rule."""
    asked = {}
    for rule, count in cases(context.forward_rules, sweep):
        inversion = context.inversion(images, count, rule, steps)
        asked[request_name("latent", rule, count)] = context.request(inversion, ("latent",))
        reconstruction = context.reconstruction(inversion)
        asked[request_name("image", rule, count)] = context.request(reconstruction, ("reconstruction",))
    return asked


def find_rows(
    found: Findings, inputs: Inputs, context: Context, sweep: Sequence[int]
) -> tuple[dict[str, Estimate], Rows]:
    """Measure the noise and every latent of a sweep, and keep the numbers; returns both for the claims."""
    counts, rules = (0, *sweep), context.forward_rules
    found.coordinate("rule", rules)
    found.coordinate("forward_steps", counts)
    noise = noise_row(inputs, context)
    plain = latent_row(inputs, context, rules[0], 0)
    rows: Rows = {(rule, 0): plain for rule in rules}
    rows |= {(rule, k): latent_row(inputs, context, rule, k) for rule in rules for k in sweep}
    for measure in MEASURES:
        for suffix, values in stacked(rows, rules, counts, measure).items():
            found.array(measure + suffix, values, ("rule", "forward_steps"))
        if measure in noise:
            found.estimate(f"{measure}_noise", noise[measure])
    find_floors(found, context)
    return noise, rows


def noise_row(inputs: Inputs, context: Context) -> dict[str, Estimate]:
    """The measures of the noise the images came from; of real images those of white noise."""
    s = context.settings
    columns = {"noise": inputs.noise("images")}
    return named(inputs.reduce(columns, gaussianity("noise", s), s.bootstrap_replicates))


def latent_row(inputs: Inputs, context: Context, rule: ForwardLevel, count: int) -> dict[str, Estimate]:
    """The measures of the latents of one K and rule, and of their reconstructions."""
    s = context.settings
    columns = {
        "image": ("images", "image"),
        "latent": (request_name("latent", rule, count), "latent"),
        "reconstruction": (request_name("image", rule, count), "reconstruction"),
    }
    statistics = gaussianity("latent", s) | {"recon": ReconstructionError()}
    of = inputs.reduce(columns, statistics, s.bootstrap_replicates)
    return named(of) | {"mae": of["recon"]["mae"], "psnr": of["recon"]["psnr"]}


def find_theory(
    found: Findings, context: Context, steps: int, counts: Sequence[int], image_steps: int | None = None
) -> None:
    """Closed forms for every K and rule, where the model allows them; `image_steps` as in `latent_theory`."""
    rules = context.forward_rules
    theories = {(r, k): latent_theory(context, steps, k, r, image_steps) for r in rules for k in counts}
    if any(theory is None for theory in theories.values()):
        return
    for measure in sorted({*LatentTheory._fields} & {*MEASURES}):
        values = [[getattr(theories[rule, k], measure) for k in counts] for rule in rules]
        if np.isfinite(values).all():
            found.array(f"{measure}_theory", values, ("rule", "forward_steps"))


def find_worst_images(found: Findings, inputs: Inputs, context: Context, sweep: Sequence[int]) -> None:
    """The largest reconstruction errors at the largest K, and the same images at the other K shown (Figure 22)."""
    wanted = context.conventions.forward_level
    rule = wanted if wanted in context.forward_rules else context.forward_rules[0]
    shown = sweep[-2:]

    def errors(count: int) -> np.ndarray:
        columns = {
            "image": ("images", "image"),
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
    found.array("worst_image", inputs.pick("images", "image", worst), dims)
    found.array("worst_ddim", inputs.pick("image/0", "reconstruction", worst), dims)
    pictures = [inputs.pick(request_name("image", rule, k), "reconstruction", worst) for k in shown]
    found.array("worst_fixed", np.stack(pictures), ("worst_steps", *dims), rule=rule)
