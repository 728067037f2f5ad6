"""Which inversion method returns noise, which reconstructs, and at what cost? (Table 7; Section 4.3)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from taba_core.artifacts.request import Request
from taba_core.artifacts.self_interpolation import SelfInterpolation
from workflows.analysis.edit_measures import check_clip
from workflows.analysis.findings import Findings, for_each, row_labels
from workflows.analysis.gaussianity import patch_features
from workflows.analysis.preferred import with_preferred
from workflows.analysis.presentation import Section
from workflows.analysis.study import Study, register
from workflows.configuration.context import Context
from workflows.studies.methods.claims import find_claims, time_claims
from workflows.studies.methods.edits import edit_requests, find_edits
from workflows.studies.methods.figures import figures_of
from workflows.studies.methods.lpips import check_lpips, lpips_request
from workflows.studies.methods.measures import find_noise, find_rows
from workflows.studies.methods.options import MethodsOptions
from workflows.studies.methods.rows import MethodRow, check_any, method_rows
from workflows.studies.methods.submission import submissions, with_origin
from workflows.studies.methods.tables import tables_of
from workflows.studies.methods.times import with_times

if TYPE_CHECKING:
    import xarray as xr

    from taba_core.store import Store
    from workflows.analysis.inputs import Inputs

# Models that run everywhere: what ends in minutes on two cores and resolves the claims.
EMBEDDED = {"num_samples": 128, "batch_size": 128}
PAPER_SAMPLES = 2048


@register
class Methods(Study):
    """Every inversion method that applies to a model, on the same images: Gaussianity, reconstruction, cost."""

    name = "methods"
    aliases = ("table7",)
    title = "Inversion methods compared"
    question = (
        "Which inversion method returns latents that are noise, which only reconstructs, and at what cost?"
    )
    paper_section = "4.3"
    paper_models = ("sdxl",)
    paper_steps = 50
    costly = True
    options = MethodsOptions

    def requests(self, context: Context) -> Mapping[str, Request]:
        """The images, and of every row latents, costs, reconstructions, LPIPS, the self-interpolation curve, edits."""
        context, rows, steps = self._asked(context)
        images = context.generation(steps)
        asked = {
            "generation": context.request(images, ("noise", "image")),
            "regions": context.request(context.regions(images), ("region",)),
        }
        for row in rows:
            inversion = row.inversion(context, images)
            asked[f"latent/{row.name}"] = context.request(
                inversion, ("latent", "evaluations", "residual", "fallback")
            )
            asked[f"image/{row.name}"] = context.request(
                context.reconstruction(inversion), ("reconstruction",)
            )
            if distance := lpips_request(context, inversion):
                asked[f"lpips/{row.name}"] = distance
            arc = SelfInterpolation(source=inversion)
            asked[f"arc/{row.name}"] = context.request(
                arc, ("distance",), context.options(MethodsOptions).arc_samples
            )
        return asked | edit_requests(context, rows, steps)

    def analyse(self, inputs: Inputs, context: Context) -> xr.Dataset:
        """Every measure of every row, the claims C7, and our own claim."""
        context, rows, _ = self._asked(context)
        found = Findings()
        noise = find_noise(found, inputs, context)
        measured = find_rows(found, inputs, context, rows)
        find_edits(found, inputs, context, rows)
        find_claims(found, noise, measured, context)
        return found.dataset()

    def option_key(self, context: Context) -> dict[str, Any]:
        """Of how many samples the curves are; the other options decide which artifacts there are."""
        return {"arc_samples": context.options(MethodsOptions).arc_samples}

    def annotate(self, store: Store, result: xr.Dataset) -> xr.Dataset:
        """The measured times of every row, and what the row of one's own method was made of."""
        return with_origin(store, with_times(store, result))

    def check_runnable(self, context: Context) -> None:
        """LPIPS and CLIP need packages and weights, where they were asked for."""
        check_lpips(context)
        check_clip(context, self.name, context.options(MethodsOptions).clip)

    def present(self, results: Sequence[xr.Dataset]) -> Section:
        """Table 7, the scorecard, trade-offs, curves and spectra of each result, and one's own method as a file."""
        labels = row_labels(results)
        return self.section(
            results,
            tables=for_each(tables_of, results, labels),
            figures=for_each(figures_of, results, labels),
            claims=for_each(time_claims, results, labels),
            documents=submissions(results),
        )

    def _asked(self, context: Context) -> tuple[Context, tuple[MethodRow, ...], int]:
        """The study's own settings, rows and T."""
        context = with_preferred(context, EMBEDDED, PAPER_SAMPLES)
        patch_features(context)
        steps = context.num_steps(self.paper_steps)
        rows = method_rows(context, steps)
        check_any(rows, context)
        return context, rows, steps
