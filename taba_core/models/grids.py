"""From a card to its noise schedule and timestep grid. Needs no weights and no torch."""

from __future__ import annotations

from taba_core.diffusion.grid import TimestepGrid
from taba_core.diffusion.schedule import NoiseSchedule
from taba_core.models.cards import Card


def noise_schedule(card: Card) -> NoiseSchedule:
    """The training schedule of a card."""
    return NoiseSchedule.named(
        card.schedule.kind,
        zero_terminal_snr=card.schedule.zero_terminal_snr,
        timestep_scale=card.timestep_scale,
        **card.schedule.betas(),
    )


def timestep_grid(card: Card, num_inference_steps: int) -> TimestepGrid:
    """The sampler's grid of a card. Raises UsageError for a T that the schedule cannot have.

    >>> grid = taba_core.timestep_grid(taba_core.load_card("dit"), 50)
    >>> grid.num_inference_steps, grid.timesteps[:4].tolist()
    (50, [0, 20, 40, 60])
    """
    return TimestepGrid.build(
        noise_schedule(card),
        num_inference_steps,
        card.grid.style,
        steps_offset=card.grid.steps_offset,
        final_alpha_bar=card.grid.final_alpha_bar,
    )
