"""Do interpolations between latents stay among real images, as those between noises do? (Figures 5 and 23)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from taba_core.artifacts.base import SampleSource
from taba_core.artifacts.decoded import Decoded
from taba_core.artifacts.reconstruction import Reconstruction
from taba_core.artifacts.request import Request
from taba_core.errors import UsageError
from taba_core.stats.estimate import Estimate
from taba_core.stats.set_comparison import DENSITY_K, MEASURES, compare_sets
from workflows.analysis.choices import Choice, other_rule
from workflows.analysis.findings import Findings
from workflows.analysis.inputs import PICTURE_DIMS
from workflows.analysis.measured import features_of
from workflows.analysis.presentation import Section
from workflows.analysis.real_images import (
    check_extractors,
    real_sets,
    real_text,
    suited_extractor,
)
from workflows.analysis.study import Study, register
from workflows.configuration.context import Context
from workflows.studies.interpolation.claims import find_claims
from workflows.studies.interpolation.options import InterpolationOptions
from workflows.studies.interpolation.priors import Prior, options, other_samples, priors
from workflows.studies.interpolation.views import figures_of, tables_of

if TYPE_CHECKING:
    import xarray as xr

    from workflows.analysis.inputs import Inputs

_LEAST = 2 * (DENSITY_K + 1)
_SHARES = ("precision", "recall", "coverage")


@register
class InterpolationStudy(Study):
    """Images between two noises, two latents and two repaired latents, against real ones, point by point."""

    name = "interpolation"
    aliases = ("fig5", "fig23")
    title = "Interpolations between noises, latents and repaired latents"
    question = "Do images between two latents stay as good and as diverse as images between two noises?"
    paper_section = "4.1"
    paper_models = ("adm-32", "adm-64", "adm-256", "ldm", "dit")
    paper_steps = 50
    by_name_only = True
    options = InterpolationOptions
    reads = ()

    def requests(self, context: Context) -> Mapping[str, Request]:
        """Images at every point of every prior's path, the states these start from, and the features of all."""
        steps, chosen = context.num_steps(self.paper_steps), options(context)
        compared = _compared(context, steps)
        n = min([context.num_samples, *(of.limit for of in compared.values() if of.limit is not None)])
        if n < _LEAST:
            raise UsageError(
                f"interpolation compares sets of at least {_LEAST} images, and there are {n}; give more (--set "
                "num_samples)."
            )
        extractors = [
            suited_extractor(context, "interpolation.extractors", name) for name in chosen.extractors
        ]
        asked = {"images": context.request(context.generation(steps), ("image", "noise"), n)}
        for prior in priors(context, steps).values():
            asked |= _starts(context, prior, n)
            for point in range(chosen.points):
                images = prior.at(point, chosen.points, by_row=chosen.by_row)
                asked[f"shown/{prior.name}/{point}"] = _shown(context, images, min(chosen.examples, n))
                for extractor in extractors:
                    name = f"{prior.name}/{point}/{extractor.name}"
                    asked[name] = context.request(features_of(images, extractor), ("features",), n)
        for of, source in compared.items():
            for extractor in extractors:
                features = features_of(source, extractor)
                asked[f"{of}/{extractor.name}"] = context.request(features, ("features",), n)
        return asked

    def left_out(self, context: Context) -> tuple[Choice, ...]:
        """The rule of forward replacement that is not the model's own."""
        return other_rule(context)

    def check_runnable(self, context: Context) -> None:
        """Refuse (UsageError) an extractor whose packages or weights are missing."""
        check_extractors("interpolation.extractors", options(context).extractors)

    def analyse(self, inputs: Inputs, context: Context) -> xr.Dataset:
        """Every measure at every point, contrasts of the middle with the ends, claims CF5, and pictures of paths."""
        chosen, names = options(context), list(priors(context, context.num_steps(self.paper_steps)))
        found = Findings()
        found.coordinate("extractor", list(chosen.extractors))
        found.coordinate("prior", names)
        found.coordinate("weight", np.arange(chosen.points) / (chosen.points - 1))
        paths = {
            extractor: {prior: _along(inputs, prior, chosen.points, extractor) for prior in names}
            for extractor in chosen.extractors
        }
        _keep_paths(found, paths)
        if f"other/{chosen.extractors[0]}" in inputs.requests:
            _keep_floors(found, inputs, chosen.extractors)
        _keep_pairs(found, inputs, names)
        find_claims(found, paths)
        for prior in names:
            strips = [_strip(inputs, prior, point) for point in range(chosen.points)]
            found.array(f"path_{prior}", np.stack(strips), ("weight", *PICTURE_DIMS))
        found.array("reference", _reference_text(context, self.paper_steps))
        return found.dataset()

    def present(self, results: Sequence[xr.Dataset]) -> Section:
        """Figure 5 and its numbers by extractor, and Figure 23."""
        return self.section_of_each(results, tables_of, figures_of)


def _compared(context: Context, steps: int) -> dict[str, SampleSource]:
    """The sets that images are compared with: real ones, else as many other samples."""
    found: dict[str, SampleSource] = real_sets(context, options(context).reference)
    return found or dict(other_samples(context, steps))


def _reference_text(context: Context, paper_steps: int) -> str:
    if real_sets(context, options(context).reference):
        return real_text(context, options(context).reference)
    return "as many other samples, whose noise has other seeds (the training images are not here)"


def _starts(context: Context, prior: Prior, n: int) -> dict[str, Request]:
    """The starting states of both ends of a prior."""
    asked = {}
    for side, end in (("first", prior.first), ("second", prior.second)):
        of, name = (end.source, "latent") if isinstance(end, Reconstruction) else (end, "noise")
        asked[f"start/{prior.name}/{side}"] = context.request(of, (name,), n)
    return asked


def _shown(context: Context, images: Any, count: int) -> Request:
    """The first images as one sees them: decoded where the model is latent."""
    if context.card.domain == "latent":
        return context.request(Decoded(source=images), ("decoded",), count)
    return context.request(images, (images.image_variable,), count)


def _strip(inputs: Inputs, prior: str, point: int) -> np.ndarray:
    """The first images of one point of a prior's path, (k, 3, height, width) in [-1, 1]."""
    name = f"shown/{prior}/{point}"
    (variable,) = inputs.requests[name].variables
    pictures = inputs.head(name, variable, inputs.requests[name].samples)
    if pictures.dtype == np.uint8:
        pictures = pictures / 127.5 - 1
    return np.asarray(pictures, dtype=np.float32)


def _along(inputs: Inputs, prior: str, points: int, extractor: str) -> list[dict[str, Estimate]]:
    """Every measure of the images at every point of a prior's path against the real ones."""
    n = inputs.num_samples
    real = inputs.head(f"real/{extractor}", "features", n)
    names = [f"{prior}/{point}/{extractor}" for point in range(points)]
    return [compare_sets(real, inputs.head(name, "features", n)) for name in names]


def _keep_paths(found: Findings, paths: Mapping[str, Mapping[str, list[dict[str, Estimate]]]]) -> None:
    """Values with intervals at every point, the mean of both ends, and what the middle has above it."""
    for measure in MEASURES:
        along = Estimate.stack(
            [
                Estimate.stack(
                    [Estimate.stack([point[measure] for point in path]) for path in of_prior.values()]
                )
                for of_prior in paths.values()
            ]
        )
        middle = along.shape[2] // 2
        ends = (along[:, :, 0] + along[:, :, -1]) / 2
        _keep(found, measure, along, ("extractor", "prior", "weight"))
        _keep(found, f"{measure}_ends", ends, ("extractor", "prior"))
        _keep(found, f"{measure}_middle", along[:, :, middle], ("extractor", "prior"))
        found.estimate(f"{measure}_contrast", along[:, :, middle] - ends, ("extractor", "prior"))


def _keep(found: Findings, name: str, estimate: Estimate, dims: Sequence[str]) -> None:
    """A measure with its interval, as far as the measure can go: shares end at 0 and 1, the others at 0."""
    highest = 1.0 if name.split("_")[0] in _SHARES else np.inf
    for suffix, values in zip(("", "_low", "_high"), (estimate.value, *estimate.interval(0.95)), strict=True):
        found.array(name + suffix, np.clip(values, 0, highest), dims, interval=estimate.kind)


def _keep_floors(found: Findings, inputs: Inputs, extractors: Sequence[str]) -> None:
    """The same measures of as many other real images (or samples) against the real ones."""
    n = inputs.num_samples
    floors = [
        compare_sets(*(inputs.head(f"{of}/{name}", "features", n) for of in ("real", "other")))
        for name in extractors
    ]
    for measure in MEASURES:
        found.array(f"{measure}_floor", [float(floor[measure]) for floor in floors], ("extractor",))


def _keep_pairs(found: Findings, inputs: Inputs, names: Sequence[str]) -> None:
    """How alike the two starting states of a pair are, and how long: mean over pairs, with the spread."""
    rows = []
    for prior in names:
        columns = {}
        for side in ("first", "second"):
            name = f"start/{prior}/{side}"
            columns[side] = (name, inputs.requests[name].variables[0])
        rows.append(inputs.per_sample(columns, _pair_geometry))
    for index, measure in enumerate(("cosine", "length")):
        found.array(measure, [row[:, index].mean() for row in rows], ("prior",))
        found.array(f"{measure}_std", [row[:, index].std(ddof=1) for row in rows], ("prior",))


def _pair_geometry(block: Mapping[str, np.ndarray]) -> np.ndarray:
    """Cosine of the angle between the states of a pair, and the root mean square of both, (n, 2)."""
    u, v = (block[side].reshape(len(block[side]), -1).astype(np.float64) for side in ("first", "second"))
    squares = np.square(u).sum(axis=1), np.square(v).sum(axis=1)
    length = np.sqrt((squares[0] + squares[1]) / (2 * u.shape[1]))
    return np.stack([(u * v).sum(axis=1) / np.sqrt(squares[0] * squares[1]), length], axis=1)
