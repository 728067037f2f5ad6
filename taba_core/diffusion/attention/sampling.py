"""Edits with control of the attention, behind any inversion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from taba_core.conventions import UNGUIDED, X0Rule
from taba_core.diffusion.attention.controlled import Controlled, CorrectedNoise
from taba_core.diffusion.attention.editor import AttentionEditor, Prompts
from taba_core.diffusion.denoiser import Denoiser
from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.guidance import Guided
from taba_core.diffusion.inversion.driver import reconstruct
from taba_core.diffusion.inversion.method import Carried, Method
from taba_core.diffusion.inversion.registry import inversion_method_named
from taba_core.diffusion.sampling import (
    Conditioning,
    check_levels,
    ddim_transition,
    last_state,
    walk,
    working_precision,
)
from taba_core.errors import UsageError

# Axes: B images, C channels, H rows, W columns; T steps.


@dataclass(frozen=True, eq=False)
class EditStart:
    """Where edits start, and which way their sources go.

    Attributes:
      latent: x̂_T of the sources, (B, C, H, W): what an inversion returned, or the noise of a generation.
      method: the inversion method, whose sampler is taken; a name, or a method with options.
      carried: what the inversion carried beside the latent.
      states: x*_0..x*_{T-1} below the latent, (B, T, C, H, W): the sources are pinned to them. None: they go their own
        way, by the sampler. A method that keeps its path (direct inversion) brings them in `carried`.
    """

    latent: Tensor
    method: Method | str = "ddim"
    carried: Carried = field(default_factory=dict)
    states: Tensor | None = None


@torch.no_grad()
def sample_edit(
    model: Denoiser,
    start: EditStart,
    grid: TimestepGrid,
    editor: AttentionEditor,
    prompts: Prompts,
    *,
    guidance_scale: float = UNGUIDED,
    x0_rule: X0Rule = "none",
    sample_ids: Sequence[int] | None = None,
) -> Tensor:
    """Edits of B images, (B, C, H, W): sources and targets are sampled side by side under the editor's control.

    Every step evaluates 2 B states, under guidance in both halves: twice the evaluations of plain sampling. Where the
    editor controls nothing the targets have the bits of plain sampling from the same start.

    Args:
      grid: levels of the sampler.
      prompts: of the sources and of the targets.
      guidance_scale: w of sources and targets; 1 of a method that guides its own sampler.
      sample_ids: B ids that random numbers belong to; None is 0..B-1.
    Raises:
      UsageError: a network whose attention cannot be controlled, prompts or a method that the editor cannot take, or
        pinned sources of a method with a sampler of its own.
    """
    method = inversion_method_named(start.method) if isinstance(start.method, str) else start.method
    editor.check_method(method)
    controlled = Controlled(model, editor, prompts, grid)
    denoiser: Denoiser = controlled if guidance_scale == UNGUIDED else Guided(controlled, guidance_scale)
    if controlled.corrects_noise:
        denoiser = CorrectedNoise(denoiser, controlled)
    ids = list(range(len(start.latent)) if sample_ids is None else sample_ids)
    latent = working_precision(start.latent)
    states = _pinned(method, start)
    sources = latent
    if editor.source_one_below:
        if states is None:
            raise UsageError(sources_not_pinned(editor.name))
        # Of each step the state that the inversion asked the network at, one below the level of the targets.
        sources = states[:, -1].to(latent)
        states = torch.cat([states[:, :1], states[:, :-1]], dim=1)
    both = torch.cat([sources, editor.target_start(latent, ids)])
    if method.own_sampler and states is None:
        carried = {name: torch.cat([value, value]) for name, value in start.carried.items()}
        own = {name: value[: len(latent)] for name, value in controlled.cond.items()}
        image = reconstruct(
            denoiser,
            both,
            grid,
            method,
            controlled.cond,
            carried=carried,
            source_cond={name: torch.cat([value, value]) for name, value in own.items()},
            x0_rule=x0_rule,
            sample_ids=[*ids, *ids],
        )
    else:
        image = _side_by_side(denoiser, both, grid, controlled.cond, x0_rule, states)
    return image[len(latent) :]


def sources_not_pinned(editor: str) -> str:
    """The message for an editor that reads the states of an inversion and is not given them."""
    return (
        f"editor '{editor}' reads the states of the inversion, so its sources are pinned to them; use "
        "source_path=pinned, and an inversion method whose steps are those of the sampler."
    )


def _pinned(method: Method, start: EditStart) -> Tensor | None:
    """The states that the sources are pinned to, or None. Raises UsageError: there can be none."""
    if method.keeps_path:
        return start.carried["states"]
    if start.states is not None and method.own_sampler:
        raise UsageError(
            f"inversion method '{method.name}' has a sampler of its own, which cannot be pinned to the states of the "
            "inversion; let the sources go their own way (source_path=own)."
        )
    return start.states


def _side_by_side(
    denoiser: Denoiser,
    both: Tensor,
    grid: TimestepGrid,
    cond: Conditioning,
    x0_rule: X0Rule,
    states: Tensor | None,
) -> Tensor:
    """DDIM sampling of all rows; the sources are put back on their states after every step, where there are some."""
    check_levels(denoiser, grid)

    def step(
        denoiser: Denoiser, x: Tensor, move: Transition, cond: Conditioning, rule: X0Rule
    ) -> tuple[Tensor, Tensor]:
        x_to, eps = ddim_transition(denoiser, x, move, cond, rule)
        if states is not None:
            x_to = torch.cat([states[:, move.step - 1].to(x_to), x_to[len(states) :]])
        return x_to, eps

    return last_state(
        both, walk(denoiser, both, grid.downward(), x0_rule=x0_rule, cond=cond, step=step), None
    )
