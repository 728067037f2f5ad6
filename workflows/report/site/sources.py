"""The tables of text that pages are filled from: the argument, the paper's items, its evidence, the glossary."""

from __future__ import annotations

import functools
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

_DATA = Path(__file__).parent / "data"


@functools.cache
def source(name: str) -> Any:
    """The content of a file of `data`, by its name without the ending."""
    return yaml.safe_load((_DATA / f"{name}.yaml").read_text(encoding="utf-8"))


def evidence(claim: str) -> str:
    """What the paper shows for a claim, by the claim's own id; "" where nothing is known of it."""
    return next(
        (str(text) for pattern, text in source("evidence").items() if fnmatchcase(claim, pattern)), ""
    )
