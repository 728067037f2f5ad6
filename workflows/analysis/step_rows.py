"""What studies of single steps ask for: rows of the errors of step predictions, and a few paths to look at."""

from __future__ import annotations

from typing import Any

from taba_core.artifacts.generation import Generation
from taba_core.artifacts.request import Request
from taba_core.artifacts.step_errors import StepErrors
from taba_core.artifacts.step_predictions import StepPredictions
from workflows.configuration.context import Context

# Names of the request and of the rows it stores.
ROWS = "rows"
STEP_ERROR_ROWS = ("entries", "error", "magnitude", "u", "uu", "v", "vv")


def step_error_requests(context: Context, num_steps: int, at_least: int = 0) -> dict[str, Request]:
    """Sums over every sample's predictions by region.

    Args:
      at_least: how many paths the study reads itself.
    """
    generation = context.generation(num_steps)
    return {
        "generation": context.request(generation, ("noise", "image")),
        ROWS: context.request(step_errors(context, generation), STEP_ERROR_ROWS),
        **path_requests(context, generation, at_least),
    }


def path_requests(
    context: Context, generation: Generation, at_least: int = 0, *, predictions: bool = True
) -> dict[str, Request]:
    """The sampling paths that are kept to be looked at: those of the first `trajectories` samples, or of all.

    Args:
      at_least: how many paths a study reads itself.
      predictions: whether the inversion's predictions from their states are kept too.
    """
    kept = context.settings.trajectories
    first = None if kept == "all" else max(kept, at_least)
    if first == 0:
        return {}
    paths = {"paths": context.request(generation, ("x_t", "eps_t"), first)}
    if predictions:
        paths["predictions"] = context.request(step_predictions(context, generation), ("eps_hat",), first)
    return paths


def step_predictions(context: Context, generation: Generation) -> StepPredictions:
    """Inversion predictions from the cached states of the sampling path."""
    return StepPredictions(source=generation, **_rules(context))


def step_errors(context: Context, generation: Generation) -> StepErrors:
    """Rows of the errors of `step_predictions` over the regions."""
    return StepErrors(source=context.regions(generation), **_rules(context))


def _rules(context: Context) -> dict[str, Any]:
    rules = context.conventions
    return {
        "network_time": rules.network_time,
        "levels": rules.levels,
        "first_time": rules.first_time,
        "held": rules.held,
        "x0_rule": rules.inversion_x0_rule,
        "guidance_scale": context.guidance.inversion,
    }
