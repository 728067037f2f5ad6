"""The prompt list of a run: where it is, how it enters the keys, and what a user should know of it."""

from __future__ import annotations

from pathlib import Path

from taba_core.model_spec import PromptSpec
from taba_core.models.prompt_files import repeated
from taba_core.models.prompts import NAMED_LISTS, RECAP_COCO, load_prompts, recap_coco_path


def prompt_source(asked: str) -> str:
    """The name of a list that taba knows, or the absolute path of a file: workers start in other directories."""
    return asked if asked in NAMED_LISTS else str(Path(asked).expanduser().resolve())


def prompt_spec(source: str) -> PromptSpec:
    """The list as it enters every key; without a fingerprint where the paper's is planned only."""
    if source == RECAP_COCO and not recap_coco_path().exists():
        return PromptSpec(fingerprint="", location=source)
    return PromptSpec(fingerprint=load_prompts(source).fingerprint, location=source)


def prompt_note(prompts: PromptSpec | None) -> str:
    """What to know of the prompts of a user's own file, a sentence; "" if there is nothing to know."""
    if prompts is None or prompts.location in NAMED_LISTS:
        return ""
    note = repeated(load_prompts(prompts.location).prompts)
    return f"{note}; such a prompt is drawn that much more often." if note else ""
