"""Edits under a run's settings, and the conditions that they are asked for: drawn by counter, or a file's lines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from taba_core.artifacts.crops import Crops
from taba_core.artifacts.edit import Edit
from taba_core.artifacts.generation import Generation
from taba_core.artifacts.images import ImageList
from taba_core.artifacts.inversion import Inversion
from taba_core.conventions import UNGUIDED
from taba_core.errors import UsageError
from taba_core.model_spec import PromptSpec
from taba_core.models.prompts import load_prompts
from workflows.configuration.context import Context
from workflows.configuration.editor import ChosenEditor
from workflows.configuration.guidance import Guidance
from workflows.configuration.method import ChosenMethod
from workflows.configuration.prompt_list import prompt_source, prompt_spec
from workflows.configuration.settings import Settings

if TYPE_CHECKING:
    from taba_core.models.cards import Card


def edit_of(
    context: Context,
    source: Generation | Inversion | ImageList | Crops,
    *,
    noise_seed: int | None = None,
    guidance_scale: float | None = None,
    switch_share: float = 0.0,
    num_inference_steps: int | None = None,
    flow_edit_steps: int | None = None,
    editor: ChosenEditor | None = None,
) -> Edit:
    """The noise or the latent of images sampled under another condition, as images are sampled.

    Args:
      noise_seed: of noise in place of the generation's own; real images have none of their own.
      guidance_scale: w of the edits; None = that of the images. A method may guide its own sampler.
      switch_share: leading share of the sampling steps under the images' own condition, 0..1.
      num_inference_steps: T of edits that start from real images or their noise; None = that of the source.
      flow_edit_steps: lead the images over so many steps of a flow (FlowEdit), with noise of `noise_seed`.
      editor: what samples the edits; None is the sampler alone.

    Raises:
      UsageError: images without a condition, targets that cannot be read, guidance of a model that cannot have it, a
        switch of a method whose own sampler reads one condition, or FlowEdit of a model that is no flow.
    """
    if flow_edit_steps is not None and context.card.schedule.kind != "flow":
        raise UsageError(
            f"FlowEdit leads images along the velocity of a flow, and {context.card.title} is none; use a flow such as "
            "photo-flow, or leave edits.flow_edit out."
        )
    images = source.source if isinstance(source, Inversion) else source
    check_condition(images.conditioning, context.card)
    scale = context.guidance.sampling if guidance_scale is None else guidance_scale
    if scale != UNGUIDED:
        Guidance(scale).check(context.card, images.conditioning)
    if isinstance(source, Inversion):
        method = ChosenMethod(source.method, source.method_options).method
        scale = UNGUIDED if method.own_guidance else scale
        if switch_share and method.own_sampler:
            raise UsageError(
                f"inversion method '{source.method}' has a sampler of its own, which reads one condition from its "
                f"first step to its last, and switch_share={switch_share:g} asks for two; use another method "
                "(--method ddim), or a share of 0."
            )
    prompts = None
    if images.conditioning == "prompt":
        own = prompt_source(context.settings.prompts or context.card.defaults.prompts)
        prompts = context.prompts or prompt_spec(own)
    real = isinstance(source, ImageList | Crops)
    how: dict[str, Any] = {"num_inference_steps": num_inference_steps if real else None}
    if editor is not None:
        editor.check(context.card)
        how = editor.fields(source, num_inference_steps or source.num_steps)
    noises = getattr(images, "noises_per_condition", 1)
    return Edit(
        source=source,
        noise_seed=noise_seed,
        x0_rule=context.conventions.sampling_x0_rule,
        guidance_scale=scale,
        switch_share=switch_share,
        flow_edit_steps=flow_edit_steps,
        **how,
        **_targets(context.settings, prompts, -(-context.num_samples // noises)),
    )


def check_condition(conditioning: str, card: Card) -> None:
    """Refuse (UsageError) to edit images that have no condition which could be another."""
    if conditioning != "none":
        return
    if card.conditional == "none":
        way = "use a model that reads classes or prompts, such as photo-mixture, photo-dit or photo-if"
        raise UsageError(f"an edit asks for another class or prompt, and {card.title} reads neither; {way}.")
    raise UsageError(
        f"an edit asks for another class or prompt, and these images of {card.title} are made without one; use "
        "conditioning=class."
    )


def _targets(settings: Settings, prompts: PromptSpec | None, conditions: int) -> dict[str, Any]:
    """The fields of an `Edit` that say what it is asked for.

    Args:
      prompts: the list that targets are drawn of, of images with prompts.
      conditions: how many targets are needed: conditions of the images.
    Raises:
      UsageError: a file of targets that is not there, that no one can read, or that has too few lines.
    """
    if settings.targets is None:
        return {"target_seed": settings.target_seed, "target_list": prompts}
    path = Path(settings.targets).expanduser().resolve()
    if not path.is_file():
        raise UsageError(
            f"targets={settings.targets}: there is no such file. Give a text file, a line for each condition."
        )
    lines = load_prompts(path).prompts
    if len(lines) < conditions:
        raise UsageError(
            f"targets={settings.targets}: the file has {len(lines)} lines, and the images have {conditions} "
            f"conditions; give {conditions} lines, or fewer images (--set num_samples)."
        )
    return {"targets": "listed", "target_list": prompt_spec(str(path))}
