"""What is measured on a smallest-distance mapping: candidates, accuracies, attractors, and the pictures to show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from taba_core.errors import UsageError
from taba_core.stats.attractors import (
    attraction,
    binomial_interval,
    division_accuracies,
    equal_divisions,
    hits,
    rank_correlation,
    top_overlap,
)
from taba_core.stats.base import flat
from taba_core.stats.nearest import METRICS, Metric, Nearest
from workflows.analysis.candidates import DIVIDED_FROM, DIVISIONS
from workflows.analysis.findings import Findings
from workflows.analysis.inputs import PICTURE_DIMS
from workflows.configuration.context import Context
from workflows.studies.mapping.options import MappingOptions

if TYPE_CHECKING:
    from taba_core.stats.estimate import Estimate
    from workflows.analysis.inputs import Inputs

# Direction "queries_candidates": which pair of states, and which way ("forth" has the image as candidate).
DIRECTIONS: Mapping[str, tuple[str, str]] = {
    "image_noise": ("noise", "back"),
    "noise_image": ("noise", "forth"),
    "image_latent": ("latent", "back"),
    "latent_image": ("latent", "forth"),
}
SHOWN = 8  # examples, attractors and least-variance images (paper, Fig. 14)

Mapped = Mapping[str, Mapping[Metric, Nearest]]


class Traits(NamedTuple):
    """What the images are like that attract, and what those are like that find no noise.

    norm and variance of images (n,); own_product: 2 x_0.x_T (n,); noise_square: |x_T|^2 (n,).
    """

    norm: NDArray[np.float64]
    variance: NDArray[np.float64]
    own_product: NDArray[np.float64]
    noise_square: NDArray[np.float64]
    least_variance: NDArray[np.int64]
    smallest_norm: NDArray[np.int64]
    rank_correlation: Mapping[str, Estimate]
    overlap: Mapping[str, Estimate]
    overlap_norm: Mapping[str, Estimate]


def sampling_steps(context: Context, own: int) -> tuple[int, ...]:
    """T of the table, ascending: the run's own, and of the option `steps` what the schedule has.

    Raises:
      UsageError: a T the user chose and the schedule cannot have.
    """
    found = {own}
    options = context.options(MappingOptions)
    for steps in options.steps:
        try:
            context.grid(steps)
            found.add(steps)
        except UsageError as error:
            if "steps" in options.model_fields_set:
                raise UsageError(f"--set mapping.steps, entry {steps}: {error}") from None
    return tuple(sorted(found))


def kind_of_division(context: Context) -> str:
    """Among whom a nearest state is sought: whole | eighths | class (the paper: eighths, DiT by class).

    Raises:
      UsageError: class where images have none; eighths of fewer than 8 images.
    """
    asked, classes = context.options(MappingOptions).divisions, context.conditioning == "class"
    if asked == "auto":
        return "class" if classes else "eighths" if context.num_samples >= DIVIDED_FROM else "whole"
    if asked == "class" and not classes:
        raise UsageError(
            f"mapping.divisions=class: images of {context.card.title} are drawn without a class here; use whole or "
            "eighths, or a conditioning=class model."
        )
    if asked == "eighths" and context.num_samples < DIVISIONS:
        raise UsageError(
            f"mapping.divisions=eighths: {context.num_samples} images make no {DIVISIONS} divisions; use whole."
        )
    return asked


def divisions(inputs: Inputs, context: Context, generation: str) -> NDArray[np.int64]:
    """Label of every sample, (n,)."""
    kind = kind_of_division(context)
    if kind == "class":
        return inputs.head(generation, "class_id", inputs.num_samples).astype(np.int64)
    return equal_divisions(inputs.num_samples, DIVISIONS if kind == "eighths" else 1)


def find_accuracies(found: Findings, mapped: Mapping[int, Mapped], division: NDArray[np.int64]) -> None:
    """Shares of hits with exact binomial intervals, their spread over divisions, and the level of guessing."""
    dims = ("steps", "direction", "metric")
    shape = (len(mapped), len(DIRECTIONS), len(METRICS))
    arrays = {
        name: np.empty(shape) for name in ("accuracy", "accuracy_low", "accuracy_high", "accuracy_spread")
    }
    nearest = np.empty((*shape, len(division)), dtype=np.int64)
    for i, of in enumerate(mapped.values()):
        for j, direction in enumerate(DIRECTIONS):
            for k, metric in enumerate(METRICS):
                rows = of[direction][metric]
                right, n = int(hits(rows).sum()), len(rows.id)
                arrays["accuracy"][i, j, k] = right / n
                low, high = binomial_interval(right, n)
                arrays["accuracy_low"][i, j, k], arrays["accuracy_high"][i, j, k] = low, high
                shares = division_accuracies(rows, division)
                arrays["accuracy_spread"][i, j, k] = shares.std(ddof=1) if len(shares) > 1 else np.nan
                nearest[i, j, k] = rows.id
    for name, values in arrays.items():
        found.array(name, values, dims, interval="Clopper-Pearson")
    found.array("nearest", nearest, (*dims, "sample"), long_name="id of the nearest candidate, -1 for none")
    sizes = np.bincount(np.unique(division, return_inverse=True)[1])
    found.array("division_size", sizes, ("part",))
    # A guess among m candidates is right with probability 1/m; the mean over queries is (number of divisions) / n.
    found.array("guessing", len(sizes) / len(division))


def find_attractors(found: Findings, inputs: Inputs, of: Mapped, steps: int, replicates: int) -> Traits:
    """In-degrees of the images for noises and latents, beside norm and variance of the images."""
    columns = {name: (f"generation {steps}", name) for name in ("image", "noise")}
    # Squares are summed per image, so no image's trait depends on the others.
    norm, variance, own_product, noise_square = inputs.per_sample(columns, _traits).T
    least = np.argsort(variance, kind="stable")[:SHOWN]
    smallest = np.argsort(norm, kind="stable")[:SHOWN]
    queries = {name: of[f"{name}_image"]["l2"] for name in ("noise", "latent")}
    traits = Traits(
        norm,
        variance,
        own_product,
        noise_square,
        least,
        smallest,
        {q: rank_correlation(rows, norm) for q, rows in queries.items()},
        {q: top_overlap(rows, least, num_replicates=replicates) for q, rows in queries.items()},
        {q: top_overlap(rows, smallest, num_replicates=replicates) for q, rows in queries.items()},
    )
    found.array("image_norm", norm, ("sample",))
    found.array("image_variance", variance, ("sample",))
    found.array(
        "own_product", own_product, ("sample",), long_name="twice the inner product of image and own noise"
    )
    for query, rows in queries.items():
        found.array(
            f"attraction_{query}", attraction(rows), ("sample",), long_name="queries it is nearest to"
        )
        found.estimate(f"rank_correlation_{query}", traits.rank_correlation[query])
        found.estimate(f"least_variance_overlap_{query}", traits.overlap[query])
        found.estimate(f"smallest_norm_overlap_{query}", traits.overlap_norm[query])
    return traits


def _traits(block: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    image, noise = flat(block["image"]), flat(block["noise"])
    norm = np.sqrt(np.square(image).sum(axis=1))
    own = 2 * (image * noise).sum(axis=1)
    return np.stack([norm, image.var(axis=1), own, np.square(noise).sum(axis=1)], axis=1)


def find_examples(found: Findings, inputs: Inputs, of: Mapped, traits: Traits, generation: str) -> None:
    """Pictures of Figure 14: wrong assignments, attractors, least-variance images; chosen by recorded ids."""
    rows = of["noise_image"]["l2"]
    wrong = _wrong_examples(rows)
    chosen: dict[str, NDArray[np.int64]] = {
        "wrong": wrong,
        "assigned": rows.id[wrong],
        "attractor_noise": _greatest(rows),
        "attractor_latent": _greatest(of["latent_image"]["l2"]),
        "least_variance": traits.least_variance,
        "smallest_norm": traits.smallest_norm,
    }
    for name, ids in chosen.items():
        if ids.size:
            found.array(f"{name}_id", ids, (f"{name}_example",))
            pictures: NDArray[Any] = inputs.pictures(generation, ids)
            found.array(f"{name}_image", pictures, (f"{name}_example", *PICTURE_DIMS[1:]))


def _wrong_examples(rows: Nearest) -> NDArray[np.int64]:
    """The first queries that miss, as many attractors as possible among them."""
    missed = np.flatnonzero(~hits(rows) & (rows.id >= 0))
    _, first_of_each = np.unique(rows.id[missed], return_index=True)
    chosen = np.sort(first_of_each)[:SHOWN]
    rest = np.setdiff1d(np.arange(len(missed)), chosen)[: SHOWN - len(chosen)]
    return missed[np.sort(np.concatenate([chosen, rest]))]


def _greatest(rows: Nearest) -> NDArray[np.int64]:
    return np.argsort(-attraction(rows), kind="stable")[:SHOWN]
