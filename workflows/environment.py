"""Whole numbers that a scheduler puts into the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping

from taba_core.errors import UsageError


def count_in_environment(name: str, default: int, environ: Mapping[str, str] = os.environ) -> int:
    """The value of a variable that Slurm sets, or the default where it is not set.

    Raises:
      UsageError: it is no whole number of 0 or more; the text names the variable.
    """
    text = environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal():
        raise UsageError(
            f"the variable {name} is '{text}'; Slurm sets it to a whole number. Outside of a Slurm job: unset {name}."
        )
    return int(text)
