"""Rows of `StepError` of every sample: what studies of single steps read where whole sampling paths do not fit."""

from __future__ import annotations

from collections.abc import Mapping

from workflows.context import Context
from workflows.inputs import ROWS, Request

STEP_ERROR_ROWS = ("entries", "error", "magnitude", "u", "uu", "v", "vv")


def fused_step_errors(context: Context, num_steps: int, at_least: int = 0) -> Mapping[str, Request]:
    """Rows of `StepError`, and the paths of the first `trajectory_samples` images, or of `at_least` so many."""
    generation = context.generation(num_steps)
    first = max(context.settings.trajectory_samples, at_least)
    return {
        "generation": Request(generation, ("noise", "image")),
        "paths": Request(generation, ("x_t", "eps_t"), first=first),
        ROWS: Request(context.step_errors(generation), STEP_ERROR_ROWS),
    }
