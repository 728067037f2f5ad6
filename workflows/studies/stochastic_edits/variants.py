"""Which edits of a photograph are made, from repaired latents, fresh noise and the latent, and their artifacts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from taba_core.artifacts.crops import Crops
from taba_core.artifacts.decoded import Decoded
from taba_core.artifacts.edit import Edit
from taba_core.artifacts.images import ImageList
from taba_core.artifacts.inversion import Inversion
from taba_core.artifacts.request import Request
from taba_core.errors import UsageError
from taba_core.metrics.image_distance import ImageDistance, distance_named
from workflows.analysis.edit_measures import judge_requests
from workflows.analysis.edits import FRESH_SEED
from workflows.analysis.measured import distances_of
from workflows.configuration.context import Context
from workflows.configuration.edits import edit_of
from workflows.configuration.settings import MAX_SEED
from workflows.studies.stochastic_edits.options import DEFAULT_SHARE, StochasticEditsOptions

REPAIRED, FRESH, LATENT = "repaired", "fresh-noise", "latent"
GROUPS = (REPAIRED, FRESH, LATENT)
Photographs = ImageList | Crops


@dataclass(frozen=True)
class Variant:
    """One edit of every photograph.

    Attributes:
      group: of GROUPS.
      seed: of the forward noise, or of the fresh noise that sampling starts from; None of the latent as inverted.
    """

    group: str
    seed: int | None = None

    @property
    def name(self) -> str:
        """In names of requests."""
        return self.group if self.seed is None else f"{self.group}-{self.seed}"


def variants(context: Context) -> list[Variant]:
    """r edits from repaired latents, r from fresh noise, and the one from the latent.

    Raises:
      UsageError: seeds beyond the largest there is.
    """
    settings, count = context.settings, options(context).seeds
    first = {REPAIRED: settings.forward_seed, FRESH: settings.seed + FRESH_SEED}
    if max(first.values()) + count - 1 > MAX_SEED:
        raise UsageError(
            f"--set stochastic-edits.seeds={count}: the seeds count on from forward_seed and from seed, and there are "
            "none that large. Use smaller ones."
        )
    made = [Variant(group, start + index) for group, start in first.items() for index in range(count)]
    return [*made, Variant(LATENT)]


def of_group(every: Iterable[Variant], group: str) -> list[Variant]:
    """The variants of one group."""
    return [variant for variant in every if variant.group == group]


def options(context: Context) -> StochasticEditsOptions:
    """The study's options."""
    return context.options(StochasticEditsOptions)


def replaced(context: Context, num_inference_steps: int) -> int:
    """K; of the default share the nearest whole step. Raises UsageError: no whole step of T, or a K outside 1..T-1."""
    text = options(context).forward_steps
    if text == DEFAULT_SHARE:
        return max(1, round(num_inference_steps * float(text.rstrip("%")) / 100))
    try:
        count = context.grid(num_inference_steps).steps_of(text)
    except UsageError as error:
        raise UsageError(f"--set stochastic-edits.forward_steps={text}: {error}") from None
    if not 0 < count < num_inference_steps:
        raise UsageError(
            f"--set stochastic-edits.forward_steps={text}: K={count} of T={num_inference_steps}; variants need "
            "1 <= K < T."
        )
    return count


def metrics(context: Context) -> list[ImageDistance]:
    """The image distances that were asked for.

    Raises:
      UsageError: an unknown one, or one that does not suit the model's images.
    """
    shape = context.decoded_shape or context.card.sample_shape
    found: dict[str, ImageDistance] = {}
    for name in options(context).distances:
        metric = distance_named(name)
        if unsuited := metric.unsuited(shape):
            raise UsageError(f"--set stochastic-edits.distances={name}: {unsuited} Use another.")
        found[name] = metric
    return list(found.values())


def inversion(context: Context, images: Photographs, num_inference_steps: int, variant: Variant) -> Inversion:
    """The latent that a variant starts from; not of fresh noise."""
    if variant.group == LATENT:
        return context.inversion(images, 0, num_inference_steps=num_inference_steps)
    settings = context.settings.model_copy(update={"forward_seed": variant.seed})
    own, count = replace(context, settings=settings), replaced(context, num_inference_steps)
    return own.inversion(images, count, num_inference_steps=num_inference_steps)


def back_requests(
    context: Context, images: Photographs, num_inference_steps: int, every: Sequence[Variant]
) -> dict[str, Request]:
    """The reconstructions of the latent and of every repaired latent, as one sees them, under `back/VARIANT`."""
    asked = {}
    for variant in every:
        if variant.group != FRESH:
            back = context.reconstruction(inversion(context, images, num_inference_steps, variant))
            asked[f"back/{variant.name}"] = (
                context.request(Decoded(source=back), ("decoded",))
                if context.card.domain == "latent"
                else context.request(back, ("reconstruction",))
            )
    return asked


def edit_requests(
    context: Context, images: Photographs, num_inference_steps: int, share: float, every: Sequence[Variant]
) -> dict[str, Request]:
    """The edits of one switch share under `edit/SHARE/VARIANT`, and all that is measured of them."""
    edits = {
        f"{share:g}/{variant.name}": _edit(context, images, num_inference_steps, share, variant)
        for variant in every
    }
    latent = context.card.domain == "latent"
    asked = {
        f"edit/{name}": context.request(edit, edit.always_stored(latent=latent))
        for name, edit in edits.items()
    }
    for metric in metrics(context):
        for name, edit in edits.items():
            artifact = distances_of(edit, images, metric)
            asked[f"{metric.name}/{name}"] = context.request(artifact, ("distance",))
        for a, b in pairs(every):
            artifact = distances_of(edits[f"{share:g}/{a.name}"], edits[f"{share:g}/{b.name}"], metric)
            asked[pair_name(metric.name, share, a, b)] = context.request(artifact, ("distance",))
    return asked | judge_requests(context, edits, clip=options(context).clip)


def pairs(every: Iterable[Variant]) -> list[tuple[Variant, Variant]]:
    """The pairs of different variants of one group, r (r - 1) / 2 each."""
    return [pair for group in GROUPS for pair in combinations(of_group(every, group), 2)]


def pair_name(metric: str, share: float, a: Variant, b: Variant) -> str:
    """Name of the request of the distances of a pair."""
    return f"{metric}/{share:g}/{a.name}/{b.name}"


def _edit(
    context: Context, images: Photographs, num_inference_steps: int, share: float, variant: Variant
) -> Edit:
    scale = options(context).guidance_scale
    if variant.group == FRESH:
        return edit_of(
            context,
            images,
            noise_seed=variant.seed,
            guidance_scale=scale,
            switch_share=share,
            num_inference_steps=num_inference_steps,
        )
    start = inversion(context, images, num_inference_steps, variant)
    return edit_of(context, start, guidance_scale=scale, switch_share=share)
