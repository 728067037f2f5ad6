"""`taba edit`: pictures inverted, repaired and edited by the plan, the units and the store of every run; then files."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from taba_core.conventions import UNGUIDED
from taba_core.errors import UsageError
from taba_core.models.base import card_with_options, model_notes
from taba_core.stats.compressibility import to_bytes
from taba_core.store import Store
from taba_core.store.address import is_remote
from workflows.analysis.inputs import Inputs
from workflows.analysis.picture_edits import (
    Variant,
    picture_requests,
    replaced,
    rows_without_inversion,
    variants,
)
from workflows.configuration.context import Context
from workflows.configuration.editor import ChosenEditor, parse_editor
from workflows.configuration.guidance import edit_guidance
from workflows.configuration.numerics import settings_on
from workflows.configuration.pictures import PictureContext, default_model, with_pictures
from workflows.configuration.settings import MAX_SEED, Settings
from workflows.execution.results import convention_line
from workflows.execution.run import check_room, check_store, choose_executor, code_digests, run_one
from workflows.execution.session import driving
from workflows.planning.plan import plan_requests
from workflows.report.edited import Edited, write_edited
from workflows.text import duration_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from taba_core.artifacts.request import Request

TARGETS = "targets.jsonl"


@dataclass(frozen=True)
class EditAsked:
    """What a user typed.

    Attributes:
      place: an image or a folder. target: what edits are to show. prompt: what the images show.
      model: a card's name or a path; None = by the target.
      forward_steps: K of the repaired latents; none = 0 and 4 % of T. seeds: how many forward noises of each K > 0.
      guidance_scale: w of edits; None = the default of the model.
      editor: what samples the edits; None = the sampler alone. assignments: its options, as editor.NAME=VALUE.
    """

    place: str
    target: str
    prompt: str | None = None
    model: str | None = None
    method: str = "ddim"
    weights: str | None = None
    forward_steps: tuple[str, ...] = ()
    seeds: int = 4
    guidance_scale: float | None = None
    steps: int = 50
    editor: str | None = None
    assignments: tuple[str, ...] = ()


def edit_pictures(
    asked: EditAsked, *, store: str, output: Path | None, device: str | None, where: Mapping[str, Any]
) -> None:
    """Carry out `taba edit`.

    Args:
      store: address of the store that is computed in.
      output: folder of the pictures; None = runs/edits/, by the names of the images and of the target.
      where: executor, address, workers and GPUs of a worker, as `choose_executor` takes them.
    Raises:
      UsageError: whatever can be refused, before anything is written. WorkError: units that failed, or no room.
    """
    started, code = time.monotonic(), code_digests()
    asked = replace(asked, model=asked.model or default_model(asked.target))
    card = card_with_options(str(asked.model), None)
    chosen = choose_executor(
        where["executor"],
        where["address"],
        where["workers"],
        embedded=card.embedded,
        gpus_per_worker=where["gpus_per_worker"],
        device=device,
    )
    network_device = "cuda" if chosen[1].num_gpus else "cpu"
    check_store(where["executor"], store)
    context, rows, scale = prepare(asked, store, network_device)
    folder = _output(output, context, asked.target)
    context = context.with_targets(folder / TARGETS)
    requests = picture_requests(
        context, asked.steps, rows, scale, parse_editor(asked.editor, asked.assignments)
    )
    for note in (*model_notes(context.model_spec), *context.notes):
        print(note, flush=True)
    opened = Store.open(store, mode="a")
    with driving(opened.place) as watch:
        plan = plan_requests(context, {"edit": requests}, opened, network_device)
        if not is_remote(opened.url):
            check_room([plan], opened.path)
        run_one(plan, opened, chosen, watch, code)
        pictures = _pictures(opened, context, requests)
    facts = _facts(asked, context, requests, scale) | {"store": opened.url}
    edited = Edited(_files(context), tuple(rows), pictures, facts)
    sheets = write_edited(edited, folder, started)
    for line in edited.lines():
        print(line)
    print(f"\n{', '.join(map(str, sheets))} ({duration_text(time.monotonic() - started)})")


def prepare(asked: EditAsked, store: str, device: str) -> tuple[PictureContext, list[Variant], float]:
    """The context of the pictures, the rows of the sheet, and w of the edits; nothing is written.

    Raises:
      UsageError: as `with_pictures`; a method that the model cannot have, or steps, seeds or guidance that cannot be.
    """
    card = card_with_options(str(asked.model), None)
    editor = parse_editor(asked.editor, asked.assignments)
    if editor is not None:
        editor.check(card)
    # Exact: a rule that clips or thresholds x_0 cannot be undone, and would change what an edit should keep.
    settings = settings_on(device, card, Settings(num_inference_steps=asked.steps, conventions="exact"))
    if asked.seeds < 1 or settings.forward_seed + asked.seeds - 1 > MAX_SEED:
        raise UsageError(
            f"--seeds {asked.seeds}: give how many forward noises each repaired latent gets, 1 or more."
        )
    plain = Context(str(asked.model), asked.method, settings, asked.weights, store)
    plain.chosen.check()
    plain.chosen.check_rules(plain.conventions)
    stays = editor is not None and editor.editor.changes_under_the_same_prompt
    context = with_pictures(plain, asked.place, asked.prompt, asked.target, may_stay=stays)
    counts = replaced(context, asked.steps, asked.forward_steps)
    seeds = [settings.forward_seed + index for index in range(asked.seeds)]
    scale = _guidance(context, asked.guidance_scale)
    rows = variants(asked.steps, counts, seeds)
    if editor is not None:
        _check_editor(editor, context, asked)
        rows = rows if editor.editor.inverts else rows_without_inversion(seeds)
    # Targets are written later; with drawn ones the same is refused of model, method, guidance and editor.
    picture_requests(context, asked.steps, rows, scale, editor)
    return context, rows, scale


def _check_editor(editor: ChosenEditor, context: PictureContext, asked: EditAsked) -> None:
    """Refuse (UsageError) prompts that the editor cannot take together, and options that it leaves without effect."""
    if not editor.editor.inverts:
        if asked.forward_steps or asked.method != "ddim":
            given = "--forward-steps" if asked.forward_steps else "--method"
            raise UsageError(
                f"{given}: editor '{editor.name}' starts from the image, without an inversion; leave it out."
            )
        if "seed" in editor.given:
            raise UsageError(
                f"--set editor.seed={editor.given['seed']}: the command makes an edit of every seed of --seeds; leave "
                "the option out."
            )
    if context.conditioning == "prompt" and context.pictures is not None:
        for caption in dict.fromkeys(context.pictures.captions):
            editor.editor.check_prompts(caption, str(context.target))


def _guidance(context: PictureContext, given: float | None) -> float:
    """w of the edits: as given, else the default of the model; 1 where the method or no one can guide them.

    Raises:
      UsageError: a scale that is none, or one beside that of a method that guides its own sampler.
    """
    if given is not None and not (given > 0 and math.isfinite(given)):
        raise UsageError(f"--guidance-scale {given:g}: give a number above 0; 1 is no guidance.")
    if context.chosen.method.own_guidance:
        if given is not None:
            raise UsageError(
                f"--guidance-scale {given:g}: inversion method '{context.method}' guides its own sampler; leave the "
                "option out."
            )
        return UNGUIDED
    return edit_guidance(context.card) if given is None else given


def _files(context: PictureContext) -> tuple[Path, ...]:
    return context.pictures.files if context.pictures is not None else ()


def _output(output: Path | None, context: PictureContext, target: str) -> Path:
    """The folder of the pictures, made where there is none. Raises UsageError: it is no folder, or cannot be made."""
    if output is None:
        place = context.pictures.location if context.pictures is not None else Path()
        name = f"{place.stem}-to-{target}".lower()
        output = Path("runs/edits") / re.sub(r"[^a-z0-9]+", "-", name)[:80].strip("-")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--output {output}: the folder cannot be made ({error.strerror}). Give another."
        ) from None
    return output


def _pictures(
    store: Store, context: PictureContext, requests: Mapping[str, Request]
) -> dict[str, NDArray[np.uint8]]:
    """By row the pictures of all images as 8-bit levels, (n, 3, H, W), or (n, 1, H, W) of grey ones."""
    inputs = Inputs(
        store, requests, sample_shape=context.card.sample_shape, scheduler="synchronous", workers=1
    )
    every = np.arange(context.num_samples)
    return {name: to_bytes(inputs.pictures(name, every)) for name in requests}


def _editor_facts(asked: EditAsked) -> dict[str, Any]:
    editor = parse_editor(asked.editor, asked.assignments)
    return {} if editor is None else {"editor": editor.name, "editor_options": editor.options}


def _facts(
    asked: EditAsked, context: PictureContext, requests: Mapping[str, Request], guidance_scale: float
) -> dict[str, Any]:
    """What edits.json says of all images: settings, model, conventions, and the artifacts that hold the arrays."""
    pictures = context.pictures
    return {
        "command": "taba " + " ".join(sys.argv[1:]),
        "taba": version("taba"),
        "images": str(pictures.location) if pictures is not None else "",
        "images_fingerprint": pictures.fingerprint() if pictures is not None else "",
        "to": asked.target,
        "target": context.target,
        "prompt": context.condition,
        "model_title": context.card.title,
        "model": context.model_spec.model_dump(mode="json", exclude={"card"}),
        "method": asked.method,
        "method_options": context.chosen.options,
        "num_inference_steps": asked.steps,
        "guidance_scale": guidance_scale,
        **_editor_facts(asked),
        "conventions": convention_line(context),
        "artifacts": {name: request.artifact.name for name, request in requests.items()},
    }
