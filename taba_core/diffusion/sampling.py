"""The one loop over noise levels; generation is its downward direction."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from taba_core.conventions import X0Rule
from taba_core.diffusion.ddim import apply_x0_rule, move
from taba_core.diffusion.denoiser import Denoiser, held_by, predict_ends
from taba_core.diffusion.ends import Held
from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.record import Conditioning as Conditioning
from taba_core.diffusion.record import OnStep as OnStep
from taba_core.diffusion.record import StepRecord as StepRecord
from taba_core.errors import UsageError

# Axes: B samples in a batch, C channels, H rows, W columns.

Step = Callable[[Denoiser, Tensor, Transition, Conditioning, X0Rule], tuple[Tensor, Tensor]]


def ddim_transition(
    denoiser: Denoiser, x: Tensor, transition: Transition, cond: Conditioning, rule: X0Rule
) -> tuple[Tensor, Tensor]:
    """One evaluation and one DDIM move: (x_next, eps after the x_0 rule)."""
    ends = predict_ends(denoiser, x, transition.asked, cond)
    return move(apply_x0_rule(ends, rule), transition.stop)


def check_levels(denoiser: Denoiser, grid: TimestepGrid) -> None:
    """Refuse a grid with a level of pure noise for a denoiser that predicts the noise alone.

    Raises:
      UsageError: such a grid; the message says what can be used.
    """
    if held_by(denoiser) is Held.NOISE and not all(level.signal_power for level in grid.levels):
        raise UsageError(
            "the noise schedule ends at alpha=0 (zero terminal SNR), where a network that predicts epsilon says "
            "nothing of the image; use a network that predicts v or x_0, or a schedule that ends above 0."
        )


@torch.no_grad()
def walk(
    denoiser: Denoiser,
    x: Tensor,
    moves: Iterable[Transition],
    *,
    x0_rule: X0Rule = "none",
    cond: Conditioning | None = None,
    step: Step = ddim_transition,
) -> Iterator[StepRecord]:
    """Take the moves one after another, yielding a record of each.

    The direction is the order of the moves. The state keeps its dtype, float32 or float64; half precision is
    raised to float32, because sigma^2 of the first levels rounds to 0 in it.

    Args:
      x: starting state, (B, C, H, W).
      moves: from `TimestepGrid.downward` or `.upward`.
      cond: batch-first conditioning; None is {}.
      step: what one move does; a single DDIM step unless an inversion method says otherwise.
    """
    x = working_precision(x)
    cond = {} if cond is None else cond
    for transition in moves:
        x_to, eps_t = step(denoiser, x, transition, cond, x0_rule)
        yield StepRecord(transition.step, x, eps_t, x_to)
        x = x_to


def working_precision(x: Tensor) -> Tensor:
    """x itself if float32 or float64; half precision raised to float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.to(torch.float32)


def last_state(start: Tensor, records: Iterable[StepRecord], on_step: OnStep | None) -> Tensor:
    """Drain a walk, showing each record to `on_step`; the last state, or `start` if there was no step."""
    x = start
    for record in records:
        if on_step is not None:
            on_step(record)
        x = record.x_to
    return x


def generate(
    model: Denoiser,
    noise: Tensor,
    grid: TimestepGrid,
    cond: Conditioning | None = None,
    *,
    x0_rule: X0Rule = "none",
    on_step: OnStep | None = None,
) -> Tensor:
    """Deterministic DDIM sampling, eta = 0: x_T to x_0 in T evaluations    (paper, Eq. 1-2).

    Args:
      noise: x_T, (B, C, H, W), standard normal.
      grid: the sampler's levels.
      cond: batch-first conditioning; None is {}.
      x0_rule: what is done to the predicted x_0 at each step.
      on_step: called with the record of each step, l = T..1.

    Returns:
      x_0, (B, C, H, W), model units.

    Raises:
      UsageError: the grid has a level of pure noise, and the denoiser predicts the noise alone.

    >>> model = taba_core.load_model("gaussian", options={"size": 8})
    >>> grid = taba_core.timestep_grid(taba_core.load_card("gaussian"), 10)
    >>> noise = torch.from_numpy(rng.normal(range(4), model.sample_shape, seed=0, stream="noise"))
    >>> taba_core.generate(model, noise, grid).shape
    torch.Size([4, 3, 8, 8])
    """
    check_levels(model, grid)
    noise = working_precision(noise)
    return last_state(noise, walk(model, noise, grid.downward(), x0_rule=x0_rule, cond=cond), on_step)


def switch_step(share: float, num_inference_steps: int) -> int:
    """Sampling steps before the condition is exchanged, ceil(share T): 0..T for shares in 0..1.

    A share that is a whole number of steps up to rounding (.07 of 100) counts as that number.
    """
    return math.ceil(share * num_inference_steps - 1e-9)


def generate_switching(
    model: Denoiser,
    noise: Tensor,
    grid: TimestepGrid,
    conditions: tuple[Conditioning, Conditioning],
    share: float,
    *,
    x0_rule: X0Rule = "none",
) -> Tensor:
    """`generate` with one condition for a leading share of the steps, and another for the rest    (paper, App. M).

    Args:
      conditions: before and after the exchange, which is at `switch_step`.
      share: of the T steps under the first condition, 0..1.
      Others as `generate`.

    Returns:
      x_0, (B, C, H, W), model units. At share 0 it is `generate` under the second condition, at 1 under the first.

    Raises:
      UsageError: as `generate`.
    """
    check_levels(model, grid)
    x, moves = working_precision(noise), grid.downward()
    at = switch_step(share, len(moves))
    for cond, part in zip(conditions, (moves[:at], moves[at:]), strict=True):
        x = last_state(x, walk(model, x, part, x0_rule=x0_rule, cond=cond), None)
    return x
