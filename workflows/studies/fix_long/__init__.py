"""Does the fix still help when the inversion takes a thousand steps? (Table 9; Appendix F)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from taba_core.artifacts.request import Request
from taba_core.conventions import ForwardLevel
from taba_core.stats.estimate import Estimate
from taba_core.stats.verdict import every, positive
from workflows.analysis.choices import Choice, other_rule
from workflows.analysis.closed_form import latent_theory
from workflows.analysis.findings import Findings, interval_numbers
from workflows.analysis.gaussianity import patch_features
from workflows.analysis.preferred import with_preferred
from workflows.analysis.presentation import Section
from workflows.analysis.step_counts import check_divides, replaced_steps
from workflows.analysis.study import Study, register
from workflows.analysis.sweep import Rows, find_rows, find_theory, sweep_requests
from workflows.configuration.context import Context
from workflows.configuration.options import Options, ReplacedSteps
from workflows.studies.fix_long.views import figures_of, tables_of

if TYPE_CHECKING:
    import xarray as xr

    from workflows.analysis.inputs import Inputs

# Models that run everywhere: what resolves every claim whose margin is not 0; a K is 2T evaluations of each image.
EMBEDDED = {"num_samples": 512, "batch_size": 256}
EMBEDDED_SWEEP = ("0.1%", "1%", "4%")
# Trained networks among them: what fits into minutes on a GPU and into an hour on two cores.
TRAINED = {"num_samples": 64}
PAPER_SAMPLES = 4096
# A network that takes this long begins with fewer images: a claim that they leave unresolved says how many would
# resolve it, and a larger n computes only what is missing.
COSTLY_SAMPLES = 1024
COSTLY_SECONDS = 0.005  # of one evaluation of an image
# An image passes two units of a thousand steps one after the other: with its card's batch of 64 IF's would take
# 21 minutes, longer than a large allocation needs for everything else.
COSTLY_BATCH = 16
FOUR_PERCENT = 0.04


class FixLongOptions(Options):
    """Options of study `fix-long`."""

    study = "fix-long"
    flat_names: ClassVar = {"steps": "long_steps", "forward_steps": "long_forward_steps"}

    steps: int = Field(1000, ge=2, description="T of the inversions")
    num_samples: int | None = Field(
        None,
        ge=4,
        description=f"images of this study (default: num_samples where it is given, else {PAPER_SAMPLES}, of a network "
        f"that takes more than {1000 * COSTLY_SECONDS:g} ms an image and evaluation {COSTLY_SAMPLES}, and fewer of "
        "models that run on any machine)",
    )
    forward_steps: ReplacedSteps = Field(
        ("0.1%", "0.2%", "0.5%", "1%", "2%", "4%"),
        description="K sweep: counts or percentages of T, comma-separated (default of models that run on any "
        f"machine: {','.join(EMBEDDED_SWEEP)})",
    )


@register
class FixLong(Study):
    """Plain inversion at T = 1000 against inversions whose first 0.1 to 4 % are forward diffusion."""

    name = "fix-long"
    aliases = ("table9",)
    title = "The fix in many small steps"
    question = "Does replacing the first steps still repair the latents of an inversion in a thousand steps?"
    paper_section = "F"
    paper_models = ("adm-64", "dit", "if")
    options = FixLongOptions
    options_in_key = False

    def requests(self, context: Context) -> Mapping[str, Request]:
        """The images, and latents and reconstructions at the long T for K = 0 and for every K and rule."""
        context = _asked(context)
        patch_features(context)
        steps = context.options(FixLongOptions).steps
        check_divides(context, "fix-long.steps", steps)
        generation = context.generation(context.num_steps(self.paper_steps))
        asked = sweep_requests(context, generation, steps, _sweep(context))
        return {"images": context.request(generation, ("noise", "image")), **asked}

    def left_out(self, context: Context) -> tuple[Choice, ...]:
        """The other rule of forward replacement, and the images between this n and the paper's."""
        if not _is_costly(context) or _asked(context).num_samples != COSTLY_SAMPLES:
            return other_rule(context)
        more = f"all but the first {COSTLY_SAMPLES:,} of the paper's {PAPER_SAMPLES:,} images, for claims not resolved"
        return (*other_rule(context), Choice(more, f"fix-long.num_samples={PAPER_SAMPLES}"))

    def analyse(self, inputs: Inputs, context: Context) -> xr.Dataset:
        """Correlation, divergence and reconstruction by rule and K, claims C9."""
        context = _asked(context)
        steps = context.options(FixLongOptions).steps
        sweep = _sweep(context)
        found = Findings()
        found.array("long_steps", steps)
        noise, rows = find_rows(found, inputs, context, sweep)
        find_theory(found, context, steps, (0, *sweep), context.num_steps(self.paper_steps))
        for rule in context.forward_rules:
            _claims(found, noise, rows, sweep, context, rule)
        return found.dataset()

    def present(self, results: Sequence[xr.Dataset]) -> Section:
        """Table 9 of each result, its bias-free companion, and the sweep as curves."""
        return self.section_of_each(results, tables_of, figures_of)


def _asked(context: Context) -> Context:
    """The study's own n: the user's, else what its claims are likely to need at what an image costs."""
    own = context.options(FixLongOptions).num_samples
    if own is not None:
        context = replace(context, settings=context.settings.model_copy(update={"num_samples": own}))
    if _is_costly(context):
        batch = min(COSTLY_BATCH, context.card.defaults.batch_size)
        return with_preferred(context, EMBEDDED, COSTLY_SAMPLES, TRAINED, batch)
    return with_preferred(context, EMBEDDED, PAPER_SAMPLES, TRAINED)


def _is_costly(context: Context) -> bool:
    """Whether a network takes long, whatever profile it is evaluated under: n and batch size are in keys of results."""
    return not context.card.runs_anywhere and context.card.cost.image_seconds > COSTLY_SECONDS


def _sweep(context: Context) -> tuple[int, ...]:
    """K that are compared; fewer by default where a model runs on any machine."""
    options = context.options(FixLongOptions)
    if context.card.runs_anywhere:
        options = options.with_defaults({"forward_steps": EMBEDDED_SWEEP})
    return replaced_steps(context, options.steps, options, "forward_steps")


def _claims(
    found: Findings,
    noise: Mapping[str, Estimate],
    rows: Rows,
    sweep: Sequence[int],
    context: Context,
    rule: ForwardLevel,
) -> None:
    """Claims C9 under one level rule; the numbers in brackets are the paper's (ADM-64, DiT, IF)."""
    steps = context.options(FixLongOptions).steps
    plain, first = rows[rule, 0], rows[rule, sweep[0]]
    percent = f"{100 * sweep[0] / steps:g} %"
    half = 0.5 * plain["kl"] - first["kl"]
    found.claim(
        f"C9a-{rule}",
        f"Replacing {percent} of the steps halves the divergence: KL(K={sweep[0]}) ≤ .5 KL(K=0), {rule} rule "
        "(paper .15, .47, .08).",
        positive(half),
        interval_numbers("margin", half),
    )
    reached = [k for k in sweep if k >= FOUR_PERCENT * steps]
    near = {k: 1.1 * noise["kl"] - rows[rule, k]["kl"] for k in reached}
    verdict = every(positive(margin) for margin in near.values())
    found.claim(
        f"C9b-{rule}",
        f"4 % bring it to noise: KL(4 %) ≤ 1.10 KL(noise) at this n, {rule} rule (paper 1.06, 1.08, 1.04).",
        verdict,
        {f"K={k}": interval_numbers("margin", margin) for k, margin in near.items()},
        "" if verdict == "holds" else _left_over(context, reached, rule),
    )
    # The bound of C9b is one of n as well; without the floor it is none.
    left = {k: 0.05 * plain["kl_excess"] - rows[rule, k]["kl_excess"] for k in reached}
    found.claim_margins(
        f"C9b-excess-{rule}",
        f"4 % remove at least 95 % of the divergence above the floor, {rule} rule (paper 99, 97, 100 %).",
        {f"K={k}": margin for k, margin in left.items()},
    )
    price = first["mae"] - plain["mae"]
    found.claim(
        f"C9c-{rule}",
        f"Replacing {percent} costs little: recon(K={sweep[0]}) - recon(K=0) ≤ .006, {rule} rule.",
        positive(0.006 - price),
        interval_numbers("price", price),
    )
    gains = {k: plain["mae"] - rows[rule, k]["mae"] for k in sweep}
    verdict = every(positive(gain) for gain in gains.values())
    found.claim(
        f"C9d-{rule}",
        f"Reconstruction is better with the fix at any K, {rule} rule (the paper's IF alone; not ADM-64, not DiT).",
        verdict,
        {f"K={k}": interval_numbers("gain", gain) for k, gain in gains.items()},
        ""
        if verdict == "holds"
        else "Of the paper's models only IF clips x_0 by another rule in each direction.",
    )


def _left_over(context: Context, counts: Sequence[int], rule: ForwardLevel) -> str:
    """What the closed form says of the latents that are not at noise: how much of it is the images' own T."""
    steps, image_steps = context.options(FixLongOptions).steps, context.num_steps(FixLong.paper_steps)
    said = []
    for k in counts:
        crossed, own = (latent_theory(context, steps, k, rule, T) for T in (image_steps, steps))
        if crossed is not None and own is not None:
            said.append(f"std {crossed.std:.3f} at K={k}, of images of T={steps} {own.std:.3f}")
    if not said:
        return ""
    return f"In closed form the latents of images of T={image_steps} have {'; '.join(said)} (noise: 1)."
