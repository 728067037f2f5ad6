"""Does replacing the first inversion steps by forward diffusion repair the latents? (Table 4, Figure 22)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from taba_core.artifacts.request import Request
from workflows.analysis.choices import Choice, other_rule
from workflows.analysis.findings import Findings
from workflows.analysis.gaussianity import patch_features
from workflows.analysis.presentation import Section
from workflows.analysis.step_counts import replaced_steps
from workflows.analysis.study import Study, register
from workflows.analysis.sweep import find_rows, find_theory, find_worst_images, sweep_requests
from workflows.configuration.context import Context
from workflows.configuration.options import Options, ReplacedSteps
from workflows.studies.fix.claims import find_claims
from workflows.studies.fix.views import figures_of, tables_of

if TYPE_CHECKING:
    import xarray as xr

    from workflows.analysis.inputs import Inputs


class FixOptions(Options):
    """Options of study `fix`."""

    study = "fix"
    flat_names: ClassVar = {"forward_steps": "forward_steps"}

    forward_steps: ReplacedSteps = Field(
        ("2%", "4%", "10%", "20%"), description="K sweep: counts or percentages of T, comma-separated"
    )


@register
class Fix(Study):
    """Plain inversion against inversions whose first K steps are forward diffusion, under one level rule or both."""

    name = "fix"
    aliases = ("table4", "fig22")
    title = "Forward diffusion in the first steps repairs the latents"
    question = (
        "How many replaced steps make latents look like noise, and what does it cost in reconstruction?"
    )
    paper_section = "4"
    paper_models = ("dit", "if")
    paper_steps = 50
    version = 2
    options = FixOptions
    options_in_key = False

    def requests(self, context: Context) -> Mapping[str, Request]:
        """Latents and reconstructions for K = 0 and for every K and rule."""
        patch_features(context)
        steps = context.num_steps(self.paper_steps)
        images = context.images(steps)
        asked = sweep_requests(
            context,
            images,
            steps,
            replaced_steps(context, steps, context.options(FixOptions), "forward_steps"),
        )
        return {"images": context.request(images, images.end_points), **asked}

    def left_out(self, context: Context) -> tuple[Choice, ...]:
        """The rule of forward replacement that is not the model's own."""
        return other_rule(context)

    def analyse(self, inputs: Inputs, context: Context) -> xr.Dataset:
        """Correlation, divergence and reconstruction by rule and K, claims C4, and the worst reconstructions."""
        steps = context.num_steps(self.paper_steps)
        sweep = replaced_steps(context, steps, context.options(FixOptions), "forward_steps")
        found = Findings()
        noise, rows = find_rows(found, inputs, context, sweep)
        find_theory(found, context, steps, (0, *sweep))
        find_claims(found, noise, rows, sweep, context, steps)
        find_worst_images(found, inputs, context, sweep)
        return found.dataset()

    def present(self, results: Sequence[xr.Dataset]) -> Section:
        """Table 4 of each result, its bias-free companion, the sweep as curves, and Figure 22."""
        return self.section_of_each(results, tables_of, figures_of)
