"""Do edits of one photograph differ where its latent is repaired with different noise? (Figure 13, Appendix M)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from taba_core.artifacts.request import Request
from taba_core.stats.estimate import Estimate
from workflows.analysis.edit_conditions import Conditions, conditions_of
from workflows.analysis.edit_measures import MAE, check_clip
from workflows.analysis.edits import editing
from workflows.analysis.findings import Findings
from workflows.analysis.inputs import PICTURE_DIMS
from workflows.analysis.preferred import with_preferred
from workflows.analysis.presentation import Section
from workflows.analysis.real_images import photographs
from workflows.analysis.study import Study, register
from workflows.configuration.context import Context
from workflows.studies.stochastic_edits.claims import find_claims
from workflows.studies.stochastic_edits.measures import BETWEEN, Measured, measure, reconstruction_errors
from workflows.studies.stochastic_edits.options import StochasticEditsOptions
from workflows.studies.stochastic_edits.variants import (
    FRESH,
    GROUPS,
    LATENT,
    REPAIRED,
    Variant,
    back_requests,
    edit_requests,
    metrics,
    of_group,
    options,
    replaced,
    variants,
)
from workflows.studies.stochastic_edits.views import figures_of, tables_of

if TYPE_CHECKING:
    import xarray as xr

    from workflows.analysis.inputs import Inputs

EMBEDDED = {"num_samples": 128, "batch_size": 128}
TRAINED = {"num_samples": 32, "batch_size": 32}
PAPER_SAMPLES = 32  # of networks elsewhere; the paper shows a handful


@register
class StochasticEdits(Study):
    """Photographs inverted once and repaired with several noises, and what is sampled of each under a target."""

    name = "stochastic-edits"
    aliases = ("fig13",)
    title = "Several edits of one photograph"
    question = (
        "Does the noise that repairs a latent give different edits of one photograph, which still keep it?"
    )
    paper_section = "M"
    paper_models = ("if",)
    paper_steps = 50
    by_name_only = True
    options = StochasticEditsOptions
    reads = ("bootstrap_replicates",)

    def requests(self, context: Context) -> Mapping[str, Request]:
        """Photographs, their reconstructions, and of every switch share the edits and what is measured of them."""
        context, steps, every = self._asked(context)
        images = photographs(context, steps)
        asked = {"images": context.request(images, ("image", *images.condition_variables[-1:]))}
        asked |= back_requests(context, images, steps, every)
        for share in options(context).switch_share:
            asked |= edit_requests(context, images, steps, share, every)
        return asked

    def check_runnable(self, context: Context) -> None:
        """Refuse (UsageError) a distance whose packages or weights are missing."""
        for metric in metrics(context):
            metric.check()
        check_clip(context, self.name, options(context).clip)

    def option_key(self, context: Context) -> dict[str, Any]:
        """How many photographs are shown; the other options decide which artifacts there are."""
        return {"examples": options(context).examples}

    def analyse(self, inputs: Inputs, context: Context) -> xr.Dataset:
        """Every column of every group at every share, reconstruction errors, the claims, and pictures."""
        context, steps, every = self._asked(context)
        shares = options(context).switch_share
        conditions = conditions_of(inputs, context, "images", f"edit/{shares[0]:g}/{LATENT}")
        by_share = {share: measure(inputs, context, share, every, conditions) for share in shares}
        errors = reconstruction_errors(inputs, context, every)
        found = Findings()
        _keep(found, by_share)
        _keep_errors(found, errors)
        for name, value in (
            ("of_all", inputs.num_samples),
            ("of_distances", conditions.differ.sum()),
            ("of_alignments", conditions.recognisable.sum()),
            ("forward_steps", replaced(context, steps)),
            ("variants", options(context).seeds),
            ("crops", context.given_images is None),
        ):
            found.array(name, int(value))
        find_claims(found, by_share, errors)
        _keep_pictures(found, inputs, shares, every, (conditions, options(context).examples))
        return found.dataset()

    def present(self, results: Sequence[xr.Dataset]) -> Section:
        """Tables and Figure 13 of each result."""
        return self.section_of_each(results, tables_of, figures_of)

    def _asked(self, context: Context) -> tuple[Context, int, list[Variant]]:
        """The study's own settings, T and the variants."""
        context = with_preferred(editing(context), EMBEDDED, PAPER_SAMPLES, TRAINED)
        steps = context.num_steps(self.paper_steps)
        replaced(context, steps)
        return context, steps, variants(context)


def _keep(found: Findings, by_share: Mapping[float, Measured]) -> None:
    """Values, and of distances between variants those of repaired latents as a share of those of fresh noise."""
    names = list(next(iter(by_share.values()))[REPAIRED])
    between = [name for name in names if name.startswith(f"{BETWEEN}/")]
    found.coordinate("share", list(by_share))
    found.coordinate("group", list(GROUPS))
    found.coordinate("measure", names)
    found.coordinate("between", between)
    values = Estimate.stack(
        [
            Estimate.stack([Estimate.stack([of[group][name] for name in names]) for group in GROUPS])
            for of in by_share.values()
        ]
    )
    found.estimate("value", values[..., 0], ("share", "group", "measure"))
    found.array("std", values.value[..., 1], ("share", "group", "measure"))
    ratios = [
        Estimate.stack([of[REPAIRED][name][0] / of[FRESH][name][0] for name in between])
        for of in by_share.values()
    ]
    found.estimate("ratio", Estimate.stack(ratios), ("share", "between"))


def _keep_errors(found: Findings, errors: Mapping[str, Mapping[str, Estimate]]) -> None:
    found.coordinate("start", list(errors))
    for name in errors[LATENT]:
        stacked = Estimate.stack([of[name] for of in errors.values()])
        found.estimate(f"back_{name}", stacked[:, 0], ("start",))
        found.array(f"back_{name}_std", stacked.value[:, 1], ("start",))
    plain = errors[LATENT][MAE.name][0]
    found.estimate(
        "back_ratio", Estimate.stack([of[MAE.name][0] / plain for of in errors.values()]), ("start",)
    )


def _keep_pictures(
    found: Findings,
    inputs: Inputs,
    shares: Sequence[float],
    every: Sequence[Variant],
    shown: tuple[Conditions, int],
) -> None:
    """The first photographs, their reconstructions, and their variants at every share."""
    conditions, count = shown
    examples = np.arange(min(count, inputs.num_samples))
    repaired = of_group(every, REPAIRED)
    found.coordinate("example", examples)
    found.coordinate("seed", [variant.seed for variant in repaired])
    found.array("picture_source", inputs.pictures("images", examples), PICTURE_DIMS)
    found.array("picture_back", inputs.pictures(f"back/{LATENT}", examples), PICTURE_DIMS)
    pictures = [
        [inputs.pictures(f"edit/{share:g}/{variant.name}", examples) for variant in repaired]
        for share in shares
    ]
    found.array("picture", np.array(pictures), ("share", "seed", *PICTURE_DIMS))
    found.array("source_name", [conditions.source_names[i] for i in examples], ("example",))
    found.array("target_name", [conditions.target_names[i] for i in examples], ("example",))
