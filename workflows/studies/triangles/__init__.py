"""Which triangle do noise, image and latent form? (Table 10, Figures 10 and 11)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from taba_core.artifacts.request import Request
from taba_core.stats.angles import SMOOTHING
from taba_core.stats.triangle import SIDES, VERTICES, AngleHistogram, Triangle
from taba_core.stats.verdict import all_positive, every, positive
from workflows.analysis.findings import Findings, for_each, interval_numbers, row_labels
from workflows.analysis.presentation import Section
from workflows.analysis.study import Study, register
from workflows.configuration.context import Context
from workflows.studies.triangles.theory import triangle_theory
from workflows.studies.triangles.views import drawn_triangles, histograms, rules_table, table10

if TYPE_CHECKING:
    import xarray as xr

    from taba_core.stats.estimate import Estimate
    from workflows.analysis.inputs import Inputs

_WIDEST = 30.0  # degrees, how wide a peak of the histogram of angles may be


@register
class Triangles(Study):
    """Angles and sides of the triangle of noise, image and latent, image by image."""

    name = "triangles"
    aliases = ("table10", "fig10", "fig11")
    title = "Latents lie off the line from noise to image"
    question = "Where is the latent, seen from the noise and from the image?"
    paper_section = "H"
    reads = ("bootstrap_replicates",)

    def requests(self, context: Context) -> Mapping[str, Request]:
        """Noise, images and latents, as Table 2 reads them."""
        generation = context.generation(context.num_steps(self.paper_steps))
        return {
            "generation": context.request(generation, ("noise", "image")),
            "inversion": context.request(context.inversion(generation), ("latent",)),
        }

    def analyse(self, inputs: Inputs, context: Context) -> xr.Dataset:
        """Angles, sides, histograms, the most probable triangle by both rules; claims C10 and CF11."""
        columns = {
            "noise": ("generation", "noise"),
            "image": ("generation", "image"),
            "latent": ("inversion", "latent"),
        }
        statistics = {
            "triangle": Triangle(),
            "reference": Triangle(bins="reference"),
            "counts": AngleHistogram(),
        }
        of = inputs.reduce(columns, statistics, context.settings.bootstrap_replicates)
        found = Findings()
        found.coordinate("vertex", VERTICES)
        found.coordinate("side", SIDES)
        found.coordinate("degree", np.arange(of["counts"]["histogram"].shape[1]))
        triangle = of["triangle"]
        for name in ("most_probable", "joint_mode", "angle_mean", "angle_std", "angle_of_mean_cosine"):
            found.estimate(name, triangle[name], ("vertex",), units="degrees")
        found.estimate(
            "most_probable_reference", of["reference"]["most_probable"], ("vertex",), units="degrees"
        )
        for name in ("peak_width", "peaks"):
            found.estimate(
                name, triangle[name], ("vertex",), long_name=f"under a kernel of {SMOOTHING:g} degrees"
            )
        for name in ("side_mean", "side_std"):
            found.estimate(name, triangle[name], ("side",))
        for name, dims in (("histogram", ("vertex", "degree")), ("joint", ("degree", "noise_degree"))):
            found.array(name, of["counts"][name].value.astype(np.int64), dims)
        theory = triangle_theory(context, context.num_steps(self.paper_steps))
        if theory is not None:
            found.array("angle_theory", theory.angles, ("vertex",), long_name="closed form of the mean sides")
            found.array("side_theory", theory.sides, ("side",), long_name="root of the mean squared side")
        _claims(found, triangle)
        return found.dataset()

    def present(self, results: Sequence[xr.Dataset]) -> Section:
        """Table 10, the same triangle by every rule, Figures 10 and 11."""
        labels = row_labels(results)
        return self.section(
            results,
            tables=(table10(labels, results), rules_table(labels, results)),
            figures=(drawn_triangles(labels, results), *for_each(histograms, results, labels)),
        )


def _claims(found: Findings, of: Mapping[str, Estimate]) -> None:
    likely = of["most_probable"]
    at_image, at_noise, at_latent = likely[0], likely[1], likely[2]
    found.claim(
        "C10a",
        "In the most probable triangle the angles at the image and at the noise are acute.",
        every((positive(90 - at_image), positive(90 - at_noise))),
        interval_numbers("at_image", at_image) | interval_numbers("at_noise", at_noise),
    )
    found.claim(
        "C10b",
        "The angle at the latent is obtuse: the latent lies off the line from noise to image, towards both.",
        positive(at_latent - 90),
        interval_numbers("at_latent", at_latent),
    )
    off = abs(of["angle_mean"].sum() - 180) + abs(likely.sum() - 180)
    found.claim(
        "C10c",
        "The angles add to 180 ± 1 degrees, by the paper's rule and in the mean.",
        positive(1 - off),
        {"most_probable": likely.value.sum(), "mean": of["angle_mean"].value.sum()},
    )
    apart = abs(likely - of["joint_mode"]).map(np.max)
    width, peaks = of["peak_width"], of["peaks"]
    found.claim(
        "CF11",
        f"The histogram of every angle has one peak, narrower than {_WIDEST:g} degrees at half its height.",
        every((all_positive(1.5 - peaks), all_positive(_WIDEST - width))),
        {"width": width.value, "low": width.interval()[0], "high": width.interval()[1], "peaks": peaks.value}
        | interval_numbers("marginal_rule_to_joint_mode", apart),
        f"Counts are smoothed by {SMOOTHING:g} degrees first, which widens the peaks a little; the bound holds for the "
        "widened ones.",
    )
