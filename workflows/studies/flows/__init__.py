"""What do inversions of a flow lack, what does the shift of its levels do to it, and what repairs it at what price?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from taba_core.artifacts.request import Request
from taba_core.stats.correlation import PatchCorrelation
from taba_core.stats.estimate import Estimate
from workflows.analysis.findings import Findings
from workflows.analysis.gaussianity import find_floors, patch_features
from workflows.analysis.preferred import with_preferred
from workflows.analysis.presentation import Section
from workflows.analysis.step_rows import STEP_ERROR_ROWS, step_errors
from workflows.analysis.study import Study, register
from workflows.configuration.context import Context
from workflows.studies.flows import measures
from workflows.studies.flows.claims import Evidence, find_claims, find_step_claims
from workflows.studies.flows.options import FlowsOptions
from workflows.studies.flows.variants import SWAPPED, Case, Row, cases_of, rows_of
from workflows.studies.flows.views import figures_of, tables_of

if TYPE_CHECKING:
    import xarray as xr

    from workflows.analysis.inputs import Inputs

# Models that run everywhere: what takes minutes on two cores.
SMALL = {"num_samples": 64}
NETWORK_SAMPLES = 256


@register
class Flows(Study):
    """Inversions of one flow on several levels: spread, correlation and reconstruction, beside closed forms."""

    name = "flows"
    aliases = ("flow-claims",)
    title = "Flows: levels, replaced steps, and other ways to noise"
    question = "What do inversions of a flow lack on the levels of SD 3 and FLUX, what repairs it, and at what price?"
    paper_section = "4"
    paper_models = ()
    costly = True
    by_name_only = True
    options = FlowsOptions
    options_in_key = False
    profile_statistics = ()

    def requests(self, context: Context) -> Mapping[str, Request]:
        """Images of every case and T with their plain areas, latents and images of every row, errors of steps."""
        context = _asked(context)
        patch_features(context)
        rows, asked = rows_of(context), {}
        for place, (case, steps) in {row.place: (row.case, row.steps) for row in rows}.items():
            images = case.images(steps)
            asked[f"images/{place}"] = context.request(images, ("noise", "image"))
            asked[f"regions/{place}"] = context.request(case.sampler.regions(images), ("region",))
        for row in rows:
            inversion = row.variant.inversion(row.case.context, row.case.images(row.steps))
            asked[f"latent/{row.name}"] = context.request(inversion, ("latent",))
            if not row.variant.swapped:
                image = row.case.sampler.reconstruction(inversion)
                asked[f"image/{row.name}"] = context.request(image, ("reconstruction",))
        for case in _swapped(rows):
            errors = step_errors(case.sampler, case.images(rows[0].steps))
            asked[f"steps/{case.name}"] = context.request(errors, STEP_ERROR_ROWS)
        return asked

    def analyse(self, inputs: Inputs, context: Context) -> xr.Dataset:
        """Every measure of every row with closed forms, what single steps cost, claims FM1 to FM14."""
        context = _asked(context)
        rows, found, s = rows_of(context), Findings(), context.settings
        measured = measures.measure(inputs, context, rows)
        noise = inputs.reduce(
            {"noise": (f"images/{rows[0].place}", "noise")},
            {"corr": PatchCorrelation("noise", s.patch_size, s.top_k)},
            s.bootstrap_replicates,
        )["corr"]["mean_top"]
        found.estimate("correlation_noise", noise)
        find_floors(found, context)
        measures.keep(found, rows, measured, inputs)
        _with_distance(measured, inputs, context, rows)
        steps = tuple(sorted({row.steps for row in rows}))
        floor = float(found.dataset()["correlation_floor"])
        find_claims(Evidence(found, measured, cases_of(context), steps, noise, floor))
        if swapped := _swapped(rows):
            errors = {case.name: measures.step_errors(inputs, context, case) for case in swapped}
            shares = {
                case.name: Estimate.stack(
                    [measures.regained(measured, f"{case.name}/{rows[0].steps}", step) for step in SWAPPED]
                )
                for case in swapped
            }
            measures.keep_steps(found, swapped, errors, shares)
            find_step_claims(found, swapped, shares, errors)
        return found.dataset()

    def present(self, results: Sequence[xr.Dataset]) -> Section:
        """What the shift does, forward replacement with its price, other repairs, single steps; the sweep as curves."""
        return self.section_of_each(results, tables_of, figures_of)


def _asked(context: Context) -> Context:
    """The study's own n."""
    return with_preferred(context, SMALL, NETWORK_SAMPLES)


def _swapped(rows: Sequence[Row]) -> tuple[Case, ...]:
    """The cases of which single steps are looked at."""
    return tuple({row.case.name: row.case for row in rows if row.variant.swapped}.values())


def _with_distance(
    measured: dict[str, dict[str, Estimate]], inputs: Inputs, context: Context, rows: Sequence[Row]
) -> None:
    """Add how far the images of two draws of RF-Inversion are apart, where both were asked for."""
    pair = {row.variant.name: row for row in rows if row.variant.name.startswith("rf-inversion")}
    if len(pair) == 2:
        one, other = pair["rf-inversion"], pair["rf-inversion-other"]
        measured[one.name]["apart"] = measures.distance(inputs, context, one, other)
