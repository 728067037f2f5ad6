"""Does the nearest noise belong to the image, and the nearest image to the noise? (Table 13, Figures 14 and 15)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from taba_core.artifacts.request import Request
from taba_core.stats.mapping import SmallestDistance
from taba_core.stats.nearest import METRICS
from workflows.analysis.candidates import samples_per_read
from workflows.analysis.findings import Findings, for_each, row_labels
from workflows.analysis.presentation import Section
from workflows.analysis.study import Study, register
from workflows.configuration.context import Context
from workflows.studies.mapping.claims import find_claims
from workflows.studies.mapping.measures import (
    DIRECTIONS,
    Mapped,
    divisions,
    find_accuracies,
    find_attractors,
    find_examples,
    kind_of_division,
    sampling_steps,
)
from workflows.studies.mapping.options import MappingOptions
from workflows.studies.mapping.views import figures_of, table13

if TYPE_CHECKING:
    import xarray as xr

    from workflows.analysis.inputs import Inputs


@register
class SmallestDistanceMapping(Study):
    """Assign every image the nearest noise and latent, and the reverse, and count who finds its own."""

    name = "mapping"
    aliases = ("table13", "fig14", "fig15")
    title = "Images find their noise, noise does not find its image"
    question = "Can noise, image and latent of one sample be told to belong together by their distance alone?"
    paper_section = "N"
    paper_models = ("adm-32", "adm-64", "adm-256", "ldm", "dit")
    options = MappingOptions
    reads = ("bootstrap_replicates",)

    def requests(self, context: Context) -> Mapping[str, Request]:
        """Noise, images and latents at the run's T, then at the other T."""
        kind_of_division(context)
        asked: dict[str, Request] = {}
        own = context.num_steps(self.paper_steps)
        for steps in (own, *(T for T in sampling_steps(context, own) if own != T)):
            generation = context.generation(steps)
            asked[f"generation {steps}"] = context.request(generation, ("noise", "image"))
            asked[f"inversion {steps}"] = context.request(context.inversion(generation), ("latent",))
        return asked

    def option_key(self, context: Context) -> dict[str, Any]:
        """The candidates; the artifacts say which T there are."""
        return {"divisions": kind_of_division(context)}

    def analyse(self, inputs: Inputs, context: Context) -> xr.Dataset:
        """Nearest states by distance and by cosine in every direction at every T; claims C13 and CF14."""
        own = context.num_steps(self.paper_steps)
        division = divisions(inputs, context, f"generation {own}")
        mapped = {T: _mapped(inputs, context, T, division) for T in sampling_steps(context, own)}
        replicates = context.settings.bootstrap_replicates
        found = Findings()
        found.coordinate("steps", list(mapped))
        found.coordinate("direction", list(DIRECTIONS))
        found.coordinate("metric", METRICS)
        found.coordinate("sample", np.arange(inputs.num_samples))
        found.array("division", division, ("sample",))
        find_accuracies(found, mapped, division)
        traits = find_attractors(found, inputs, mapped[own], own, replicates)
        find_claims(found, mapped, traits, own, replicates, latent_space=context.card.domain == "latent")
        find_examples(found, inputs, mapped[own], traits, f"generation {own}")
        return found.dataset()

    def present(self, results: Sequence[xr.Dataset]) -> Section:
        """Table 13, accuracy over T, and Figure 14 or 15 of every result."""
        labels = row_labels(results)
        return self.section(
            results,
            tables=(table13(labels, results),),
            figures=for_each(figures_of, results, labels),
        )


def _mapped(inputs: Inputs, context: Context, steps: int, division: np.ndarray[Any, Any]) -> Mapped:
    columns = {
        "noise": (f"generation {steps}", "noise"),
        "image": (f"generation {steps}", "image"),
        "latent": (f"inversion {steps}", "latent"),
    }
    statistics = {name: SmallestDistance(name, "image") for name in ("noise", "latent")}
    states = inputs.reduce_pairs(
        columns,
        statistics,
        division=division,
        samples_per_read=samples_per_read(context.card.sample_shape),
    )
    pairs = {name: statistics[name].found(states[name], inputs.num_samples) for name in statistics}
    return {
        direction: {metric: pairs[pair][f"{way}/{metric}"] for metric in METRICS}
        for direction, (pair, way) in DIRECTIONS.items()
    }
