"""What `taba run paper` asks where no model is named: every table and figure, of the models that come with taba."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from taba_core.errors import UsageError
from workflows.analysis.study import PAPER
from workflows.planning.jobs import Asked

SIZE = "size"
STANDARD = "standard"


def asked_of_shipped(asked: Asked) -> list[Asked]:
    """The parts of `taba run paper` without a model: each model with its studies, at the size that was asked for.

    Args:
      asked: studies `paper`, no model. Its assignments replace those of the parts; `size=NAME` chooses the parts.

    Raises:
      UsageError: an unknown size, or weights, which belong to one model.
    """
    given = {text.partition("=")[0].strip(): text for text in asked.assignments}
    size = given.pop(SIZE, f"{SIZE}={STANDARD}").partition("=")[2].strip()
    sizes = _sizes()
    if size not in sizes:
        raise UsageError(f"--set {SIZE}={size}: sizes are {', '.join(sizes)}.")
    if asked.weights is not None:
        raise UsageError(
            f"--weights {asked.weights} goes with one --model, and {PAPER} without one asks several."
        )
    return [_part(asked, part, given) for part in sizes[size]]


def is_of_shipped(names: list[str], models: list[str] | None) -> bool:
    """Whether the whole paper is asked for and no model is named."""
    return names == [PAPER] and not models


def check_no_size(assignments: list[str]) -> None:
    """Refuse (UsageError) a size where not the whole paper is asked of the models that come with taba."""
    for text in assignments:
        if text.partition("=")[0].strip() == SIZE:
            raise UsageError(
                f"--set {text}: a size belongs to `taba run {PAPER}` alone and without --model. Here, give the number "
                "of images: --set num_samples=N."
            )


def _part(asked: Asked, part: Mapping[str, Any], given: Mapping[str, str]) -> Asked:
    """One model's part of a size; what the user gave replaces its settings."""
    own = {name: f"{name}={value}" for name, value in part.get("settings", {}).items()}
    return replace(asked, model=part["model"], studies=part["studies"], assignments=[*(own | given).values()])


@cache
def _sizes() -> dict[str, list[dict[str, Any]]]:
    text = (Path(__file__).parent / "shipped.yaml").read_text(encoding="utf-8")
    sizes: dict[str, list[dict[str, Any]]] = yaml.safe_load(text)
    return sizes
