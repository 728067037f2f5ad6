"""What edits of one image may start from: noise, plain latents, repaired latents, latents of other methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from taba_core.artifacts.edit import Edit
from taba_core.artifacts.generation import Generation
from taba_core.artifacts.request import Request
from taba_core.conventions import ForwardLevel
from workflows.analysis.sweep import RULE_TEXT
from workflows.configuration.context import Context
from workflows.configuration.edits import check_condition, edit_of
from workflows.configuration.method import ChosenMethod

NOISE, LATENT, FRESH = "noise", "latent", "fresh-noise"
FLOW_EDIT = "flow-edit"
OTHER_METHODS = "Other methods"
# Of models that run anywhere without a network; all samples in one shard are cheapest there.
EMBEDDED = {"num_samples": 256, "batch_size": 256, "conditioning": "class"}
FRESH_SEED = 1  # is added to the seed of the noise


@dataclass(frozen=True)
class Start:
    """Where the edits of a row start.

    Attributes:
      name: of the row in requests and results.
      label, group: as tables show it.
      forward_steps, forward_level: K first steps of the inversion replaced, under which rule.
      method: another method than the run's; "" is the run's.
      flow_edit_steps: steps over which FlowEdit leads the image; 0 where something is sampled.
    """

    name: str
    label: str
    group: str = ""
    forward_steps: int = 0
    forward_level: ForwardLevel | None = None
    method: str = ""
    flow_edit_steps: int = 0


def editing(context: Context) -> Context:
    """The context under which images are edited: with a condition, of every model that reads one.

    Raises:
      UsageError: images that have no condition.
    """
    if context.card.embedded and context.card.conditional == "class":
        context = replace(context, settings=context.settings.with_defaults(EMBEDDED))
    check_condition(context.conditioning, context.card)
    return context


def repaired(context: Context, sweep: Sequence[int], steps: int) -> list[Start]:
    """A start for every K of a sweep, under every rule that differs; T = `steps`."""
    return [
        Start(f"{rule}-{count}", f"{100 * count / steps:g} % ({count})", RULE_TEXT[rule], count, rule)
        for rule in context.forward_rules
        for count in sweep
    ]


def edit_from(
    context: Context, images: Generation, start: Start, guidance_scale: float | None = None
) -> Edit:
    """The edits of one row."""
    if start.name == NOISE:
        return edit_of(context, images, guidance_scale=guidance_scale)
    if start.name == FRESH:
        fresh = images.seed + FRESH_SEED
        return edit_of(context, images, noise_seed=fresh, guidance_scale=guidance_scale)
    if start.flow_edit_steps:
        return edit_of(
            context,
            images,
            noise_seed=images.seed + FRESH_SEED,
            guidance_scale=guidance_scale,
            flow_edit_steps=start.flow_edit_steps,
        )
    chosen = ChosenMethod(start.method) if start.method else None
    inversion = context.inversion(images, start.forward_steps, start.forward_level, chosen=chosen)
    return edit_of(context, inversion, guidance_scale=guidance_scale)


def edit_requests(
    context: Context, images: Generation, starts: Sequence[Start], guidance_scale: float | None = None
) -> dict[str, Request]:
    """The edits of every start, under the names that `request_name` gives."""
    asked = {}
    for start in starts:
        edit = edit_from(context, images, start, guidance_scale)
        asked[request_name(start)] = context.request(edit, edit.always_stored(latent=_latent(context)))
    return asked


def request_name(start: Start) -> str:
    """Name of the request of a start's edits."""
    return f"edit/{start.name}"


def pictures_of(context: Context, name: str, variable: str) -> tuple[str, str]:
    """The column of the pictures of a request: decoded where the model is latent, else the variable."""
    return (name, "decoded" if _latent(context) else variable)


def _latent(context: Context) -> bool:
    return context.card.domain == "latent"
