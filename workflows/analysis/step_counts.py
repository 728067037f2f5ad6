"""Numbers of steps that studies compare, T and the K first steps that forward diffusion replaces, on a model's grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taba_core.errors import UsageError
from workflows.configuration.context import Context
from workflows.configuration.options import Options

if TYPE_CHECKING:
    from taba_core.diffusion.grid import TimestepGrid


def replaced_steps(
    context: Context, num_inference_steps: int, options: Options, option: str
) -> tuple[int, ...]:
    """K of a sweep, ascending and without repeats.

    Args:
      num_inference_steps: T of the inversion whose first K steps are replaced.
      options, option: the study's options, and which of them is the list of K: counts or percentages of T. Of a list
        that the user did not give only what is a whole step at this T counts, and K = 1 if nothing is.

    Raises:
      UsageError: a fraction that is no whole step at this T, or a K outside 1..T-1.
    """
    name, given = f"{options.study}.{option}", option in options.model_fields_set
    grid = context.grid(num_inference_steps)
    steps = sorted(set(_whole_steps(grid, name, getattr(options, option), keep_all=given)))
    if steps[0] < 1 or steps[-1] >= num_inference_steps:
        bad = steps[0] if steps[0] < 1 else steps[-1]
        raise UsageError(
            f"{name}: K={bad} of T={num_inference_steps}; the sweep needs 1 <= K < T "
            f"(K=0, plain inversion, is always in the table)."
        )
    return tuple(steps)


def _whole_steps(grid: TimestepGrid, name: str, counts: tuple[str, ...], *, keep_all: bool) -> list[int]:
    found = []
    for text in counts:
        try:
            found.append(grid.steps_of(text))
        except UsageError as error:
            if keep_all:
                raise UsageError(f"--set {name}, entry {text}: {error}") from None
    return found or [1]


def check_divides(context: Context, name: str, num_inference_steps: int) -> None:
    """Refuse (UsageError) a T that the schedule cannot have, or that does not divide its training timesteps.

    `name` is the option or symbol that the message gives T.
    """
    try:
        grid = context.grid(num_inference_steps)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None
    N = grid.schedule.num_train_timesteps
    if N % num_inference_steps:
        divisors = [t for t in range(1, N + 1) if N % t == 0 and _has_grid(context, t)]
        near = [
            *[t for t in divisors if t < num_inference_steps][-1:],
            *[t for t in divisors if t > num_inference_steps][:1],
        ]
        raise UsageError(
            f"{name}: T={num_inference_steps} does not divide the {N} training timesteps of {context.card.title}, "
            f"so its last level would be another than that of the other T; use {' or '.join(map(str, near))}."
        )


def divides(context: Context, num_inference_steps: int) -> bool:
    """Whether the model's schedule has this T, and it divides the training timesteps."""
    try:
        check_divides(context, "T", num_inference_steps)
    except UsageError:
        return False
    return True


def _has_grid(context: Context, num_inference_steps: int) -> bool:
    try:
        context.grid(num_inference_steps)
    except UsageError:
        return False
    return True
