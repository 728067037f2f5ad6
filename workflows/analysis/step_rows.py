"""What studies of single steps ask for: rows of the errors of step predictions, and a few paths to look at."""

from __future__ import annotations

from taba_core.artifacts.request import Request
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
        ROWS: context.request(context.step_errors(generation), STEP_ERROR_ROWS),
        **context.path_requests(generation, at_least),
    }
