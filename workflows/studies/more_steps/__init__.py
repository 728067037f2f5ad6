"""Do more inversion steps repair the latents? (Table 8, Figure 9; Appendix F)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from taba_core.artifacts.request import Request
from taba_core.stats.estimate import Estimate
from taba_core.stats.regions import RegionError
from workflows.analysis.choices import Choice
from workflows.analysis.closed_form import flat_mode_latent, lag_theory, latent_theory
from workflows.analysis.findings import Findings
from workflows.analysis.gaussianity import MEASURES, find_floors, gaussianity, named, patch_features, stacked
from workflows.analysis.inputs import PICTURE_DIMS
from workflows.analysis.preferred import with_preferred
from workflows.analysis.presentation import Section
from workflows.analysis.step_counts import check_divides, divides
from workflows.analysis.study import Study, register
from workflows.configuration.context import Context
from workflows.configuration.options import Options, StepCounts
from workflows.studies.more_steps.claims import find_claims
from workflows.studies.more_steps.views import figures_of, tables_of

if TYPE_CHECKING:
    import xarray as xr

    from workflows.analysis.inputs import Inputs

# Models that run everywhere: what resolves the claims in a minute.
EMBEDDED = {"num_samples": 128, "batch_size": 128}
# Trained networks among them: what fits into minutes on a GPU and into an hour on two cores.
TRAINED = {"num_samples": 64}
PAPER_SAMPLES = 4096
FIXED, OWN = "fixed", "own"  # paths: of the same images, and of images sampled at the same T
_SHOWN = 6
_MAPS = 4  # T shown as maps


class MoreStepsOptions(Options):
    """Options of study `more-steps`."""

    study = "more-steps"
    flat_names: ClassVar = {"steps": "inversion_steps"}

    steps: StepCounts = Field(
        (10, 20, 50, 100, 200, 500, 1000),
        description="T of the inversions that are compared, comma-separated",
    )
    own_path: Literal["on", "off"] = Field(
        "off",
        description="beside the same images at every T also images that are sampled at that T, on their own path "
        "(default of models that run on any machine: on)",
    )


@register
class MoreSteps(Study):
    """The same images inverted with several T, and where asked images that were sampled with that T themselves."""

    name = "more-steps"
    aliases = ("table8", "fig9")
    title = "More inversion steps do not suffice"
    question = "Do latents become Gaussian when the same images are inverted in more and smaller steps?"
    paper_section = "F"
    paper_models = ("adm-64", "dit", "if")
    options = MoreStepsOptions
    options_in_key = False

    def requests(self, context: Context) -> Mapping[str, Request]:
        """The images, their latents at every T, and where asked images and latents of every T's own path."""
        context = with_preferred(context, EMBEDDED, PAPER_SAMPLES, TRAINED)
        patch_features(context)
        images = context.generation(context.num_steps(self.paper_steps))
        asked = {
            "generation": context.request(images, ("noise", "image")),
            "regions": context.request(context.regions(images), ("region",)),
        }
        paths = compared_paths(context)
        for steps in compared_steps(context):
            sources = {FIXED: images} | ({OWN: context.generation(steps)} if OWN in paths else {})
            for path, source in sources.items():
                latent = context.inversion(source, num_inference_steps=steps)
                asked[f"{path}/{steps}"] = context.request(latent, ("latent",))
            if OWN in sources:
                asked[f"own/{steps}/regions"] = context.request(context.regions(sources[OWN]), ("region",))
        return asked

    def left_out(self, context: Context) -> tuple[Choice, ...]:
        """The images of every T's own path."""
        if OWN in compared_paths(context):
            return ()
        return (Choice("Table 8's images that are sampled at every T themselves", "more-steps.own_path=on"),)

    def analyse(self, inputs: Inputs, context: Context) -> xr.Dataset:
        """Measures of the latents of the paths at every T, claims C8 and CF9, maps for Figure 9."""
        context = with_preferred(context, EMBEDDED, PAPER_SAMPLES, TRAINED)
        sweep, paths = compared_steps(context), compared_paths(context)
        replicates = context.settings.bootstrap_replicates
        found = Findings()
        found.coordinate("path", paths)
        found.coordinate("inversion_steps", sweep)
        columns = {"noise": ("generation", "noise")}
        noise = named(inputs.reduce(columns, gaussianity("noise", context.settings), replicates))
        rows = {(path, T): _row(inputs, context, path, T) for path in paths for T in sweep}
        for measure in MEASURES:
            for suffix, values in stacked(rows, paths, sweep, measure).items():
                found.array(measure + suffix, values, ("path", "inversion_steps"))
            found.estimate(f"{measure}_noise", noise[measure])
        found.coordinate("region", ("plain", "non_plain", "all"))
        for measure in ("error", "std_region"):
            for suffix, values in stacked(rows, paths, sweep, measure).items():
                found.array(measure + suffix, values, ("path", "inversion_steps", "region"))
        find_floors(found, context)
        _find_theory(found, context, sweep, context.num_steps(self.paper_steps), paths)
        find_claims(found, noise, {T: rows["fixed", T] for T in sweep}, context)
        self._maps(found, inputs, sweep)
        return found.dataset()

    def _maps(self, found: Findings, inputs: Inputs, sweep: Sequence[int]) -> None:
        shown = sorted({sweep[i] for i in np.linspace(0, len(sweep) - 1, _MAPS).round().astype(int)})
        region = inputs.head("regions", "region", inputs.num_samples)
        share = region.reshape(len(region), -1).mean(axis=1)
        # From the least to the most plain image: the error is told apart between images as well as within them.
        ranks = np.unique(np.linspace(0, len(region) - 1, _SHOWN).round().astype(int))
        chosen = np.argsort(share, kind="stable")[ranks]
        noise = inputs.pick("generation", "noise", chosen)
        found.coordinate("map_steps", shown)
        found.array("map_id", chosen, ("example",))
        found.array("map_image", inputs.pictures("generation", chosen), PICTURE_DIMS)
        found.array("map_region", region[chosen], ("example", "y", "x"))
        maps = [np.abs(noise - inputs.pick(f"fixed/{T}", "latent", chosen)).mean(axis=1) for T in shown]
        found.array("map_error", np.stack(maps), ("map_steps", "example", "y", "x"))

    def present(self, results: Sequence[xr.Dataset]) -> Section:
        """Table 8 with its companions, the sweep as curves, and Figure 9."""
        return self.section_of_each(results, tables_of, figures_of)


def compared_paths(context: Context) -> tuple[str, ...]:
    """The paths whose latents are compared; every T's own samples and inverts anew, so it is not always asked for."""
    options = context.options(MoreStepsOptions)
    if context.card.runs_anywhere:
        options = options.with_defaults({"own_path": "on"})
    return (FIXED, OWN) if options.own_path == "on" else (FIXED,)


def compared_steps(context: Context) -> tuple[int, ...]:
    """T of the inversions of fixed images, ascending; of the default list what the model's schedule has.

    Raises:
      UsageError: a T that does not divide the training timesteps; its levels would end below the others'.
    """
    options = context.options(MoreStepsOptions)
    asked = sorted(set(options.steps))
    if "steps" not in options.model_fields_set:
        return tuple(steps for steps in asked if divides(context, steps))
    for steps in asked:
        check_divides(context, "more-steps.steps", steps)
    return tuple(asked)


def _row(inputs: Inputs, context: Context, path: str, steps: int) -> dict[str, Estimate]:
    """The measures of the latents of one path and T."""
    s = context.settings
    columns = {
        "noise": ("generation", "noise"),
        "latent": (f"{path}/{steps}", "latent"),
        "region": ("regions" if path == "fixed" else f"own/{steps}/regions", "region"),
    }
    of = inputs.reduce(columns, gaussianity("latent", s) | {"error": RegionError()}, s.bootstrap_replicates)
    return named(of) | {"error": of["error"]["error"], "std_region": of["error"]["std"]}


def _find_theory(
    found: Findings, context: Context, sweep: Sequence[int], image_steps: int, paths: Sequence[str]
) -> None:
    """Closed forms for the paths and every T, where the model allows them."""
    images = {FIXED: image_steps, OWN: None}
    dims = ("path", "inversion_steps")
    pooled = [[latent_theory(context, T, image_steps=images[path]) for T in sweep] for path in paths]
    if pooled[0][0] is not None:
        for measure in ("std", "error", "kl_global"):
            found.array(f"{measure}_theory", [[getattr(t, measure) for t in row] for row in pooled], dims)
    lags = [[lag_theory(context, T, images[path]) for T in sweep] for path in paths]
    if lags[0][0] is not None:
        found.array("lag1_theory", lags, dims)
    flat = [[flat_mode_latent(context, T, image_steps=images[path]) for T in sweep] for path in paths]
    if flat[0][0] is not None:
        found.array("std_flat", [[float(latent.std) for latent in row] for row in flat], dims)  # type: ignore[union-attr]
        error = [[float(latent.expected_absolute_error) for latent in row] for row in flat]  # type: ignore[union-attr]
        found.array("error_flat", error, dims)
