"""Do edits from latents stay too close to the source, and does the repair free them? (Tables 6, 12; Figures 6, 7)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from taba_core.artifacts.request import Request
from taba_core.errors import UsageError
from taba_core.stats.estimate import Estimate
from workflows.analysis.choices import Choice, other_rule
from workflows.analysis.edit_conditions import Conditions, conditions_of
from workflows.analysis.edit_measures import check_clip
from workflows.analysis.edits import (
    FLOW_EDIT,
    FRESH,
    LATENT,
    NOISE,
    OTHER_METHODS,
    Start,
    edit_requests,
    editing,
    repaired,
    request_name,
)
from workflows.analysis.findings import Findings
from workflows.analysis.inputs import PICTURE_DIMS
from workflows.analysis.presentation import Section
from workflows.analysis.step_counts import replaced_steps
from workflows.analysis.study import Study, register
from workflows.configuration.context import Context
from workflows.configuration.method import ChosenMethod
from workflows.studies.edits.claims import find_claims
from workflows.studies.edits.measures import check_suited, extractor, measure, measure_requests, metrics
from workflows.studies.edits.options import NO_METHODS, EditsOptions
from workflows.studies.edits.views import figures_of, tables_of

if TYPE_CHECKING:
    import xarray as xr

    from workflows.analysis.inputs import Inputs

_FIRST, _QUANTILES = 3, (0.5, 0.75, 0.95)  # examples: the first samples, and those of these plain shares


@register
class Edits(Study):
    """Images sampled under another condition from noise, latents, repaired latents and latents of other methods."""

    name = "edits"
    aliases = ("table6", "table12", "fig6", "fig7")
    title = "Edits from latents stay close to their sources"
    question = (
        "Are edits from repaired latents as diverse as edits from noise, and more than from plain latents?"
    )
    paper_section = "4"
    paper_models = ("dit", "if")
    paper_steps = 50
    by_name_only = True
    options = EditsOptions
    options_in_key = False
    reads = ("bootstrap_replicates",)

    def requests(self, context: Context) -> Mapping[str, Request]:
        """Images with their plain areas, edits of every start, and what is measured of them."""
        context, starts, steps = self._asked(context)
        check_suited(context)
        images = context.generation(steps)
        scale = context.options(EditsOptions).guidance_scale
        edits = edit_requests(context, images, starts, scale)
        condition = images.condition_variables[-1:]
        return {
            "images": context.request(images, ("image", *condition)),
            "regions": context.request(context.regions(images), ("region",)),
            **edits,
            **measure_requests(
                context, images, {start.name: edits[request_name(start)].artifact for start in starts}
            ),
        }

    def left_out(self, context: Context) -> tuple[Choice, ...]:
        """The rule of forward replacement that is not the model's own."""
        return other_rule(context)

    def check_runnable(self, context: Context) -> None:
        """Refuse (UsageError) a measure whose packages or weights are missing."""
        for one in (*metrics(context), extractor(context)):
            one.check()
        check_clip(context, self.name, context.options(EditsOptions).clip)

    def analyse(self, inputs: Inputs, context: Context) -> xr.Dataset:
        """Every measure of every start with paired differences, the claims, and examples."""
        context, starts, steps = self._asked(context)
        found, conditions = Findings(), conditions_of(inputs, context, "images", f"edit/{NOISE}")
        measured, names = measure(inputs, context, starts, conditions)
        found.coordinate("start", [start.name for start in starts])
        found.coordinate("measure", names)
        for name in ("label", "group"):
            found.array(f"start_{name}", [getattr(start, name) for start in starts], ("start",))
        values = {s.name: Estimate.stack([measured[s.name][name] for name in names]) for s in starts}
        found.array("std", [values[start.name].value[:, 1] for start in starts], ("start", "measure"))
        for stored, base in (("value", None), ("minus_noise", NOISE), ("minus_latent", LATENT)):
            rows = [values[s.name][:, 0] - (values[base][:, 0] if base else 0.0) for s in starts]
            found.estimate(stored, Estimate.stack(rows), ("start", "measure"))
        for name, count in (
            ("of_all", inputs.num_samples),
            ("of_distances", conditions.differ.sum()),
            ("of_alignments", conditions.recognisable.sum()),
            ("noises_per_condition", context.settings.noises_per_condition),
        ):
            found.array(name, int(count))
        find_claims(found, measured, names, starts, steps)
        _find_examples(found, inputs, starts, conditions, steps)
        return found.dataset()

    def present(self, results: Sequence[xr.Dataset]) -> Section:
        """Tables 6 and 12 of each result with paired differences, and Figures 6 and 7."""
        return self.section_of_each(results, tables_of, figures_of)

    def _asked(self, context: Context) -> tuple[Context, list[Start], int]:
        """The study's own settings, starts and T."""
        context = editing(context)
        steps, options = context.num_steps(self.paper_steps), context.options(EditsOptions)
        sweep = replaced_steps(context, steps, options, "forward_steps")
        starts = [Start(FRESH, "Fresh noise"), Start(NOISE, "Noise"), Start(LATENT, "Latent")]
        starts += repaired(context, sweep, steps)
        for method in dict.fromkeys(options.methods):
            if method != NO_METHODS:
                ChosenMethod(method).check()
                ChosenMethod(method).check_rules(context.conventions)
                starts.append(Start(f"method-{method}", method, OTHER_METHODS, method=method))
        if options.flow_edit != NO_METHODS:
            count = _flow_edit_steps(context, steps, options.flow_edit)
            starts.append(Start(FLOW_EDIT, f"FlowEdit ({count})", OTHER_METHODS, flow_edit_steps=count))
        return context, starts, steps


def _flow_edit_steps(context: Context, steps: int, text: str) -> int:
    try:
        count = context.grid(steps).steps_of(text)
    except UsageError as error:
        raise UsageError(f"--set edits.flow_edit: {error}") from None
    if not count:
        raise UsageError(
            f"--set edits.flow_edit={text}: no step leaves every image as it is; use 1 to {steps}."
        )
    return count


def _find_examples(
    found: Findings, inputs: Inputs, starts: Sequence[Start], conditions: Conditions, steps: int
) -> None:
    """Pictures of some sources and their edits: from noise, latents, latents repaired by 4 and 20 %, other methods."""
    plain = inputs.per_sample(
        {"region": ("regions", "region")}, lambda block: (block["region"] == 1).mean(axis=(1, 2))
    )
    quantiles = np.quantile(plain, _QUANTILES)
    nearest = [int(np.argmin(np.abs(plain - value))) for value in quantiles]
    examples = np.array(list(dict.fromkeys([*range(min(_FIRST, inputs.num_samples)), *nearest])))
    few, many = (_nearest_count(starts, share * steps) for share in (0.04, 0.2))
    shown = [s for s in starts if not s.forward_steps or s.forward_steps in (few, many)]
    found.coordinate("example", examples)
    found.coordinate("shown_start", [start.name for start in shown])
    found.array("picture_source", inputs.pictures("images", examples), PICTURE_DIMS)
    pictures = [inputs.pictures(request_name(start), examples) for start in shown]
    found.array("picture", np.stack(pictures), ("shown_start", *PICTURE_DIMS))
    found.array("source_name", [conditions.source_names[i] for i in examples], ("example",))
    found.array("target_name", [conditions.target_names[i] for i in examples], ("example",))


def _nearest_count(starts: Sequence[Start], wanted: float) -> int:
    """The K of the sweep that is nearest to a number of steps."""
    counts = [start.forward_steps for start in starts if start.forward_steps]
    return min(counts, key=lambda count: abs(count - wanted))
