"""The conditions that edits are asked for: drawn by counter, or a file's lines; refused before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from taba_core.errors import UsageError
from taba_core.model_spec import PromptSpec
from taba_core.models.prompts import load_prompts
from workflows.configuration.prompt_list import prompt_spec
from workflows.configuration.settings import Settings

if TYPE_CHECKING:
    from taba_core.models.cards import Card


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


def target_fields(
    settings: Settings, conditioning: str, prompts: PromptSpec | None, conditions: int
) -> dict[str, Any]:
    """The fields of an `Edit` that say what it is asked for.

    Args:
      conditioning: of the images, class or prompt.
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
