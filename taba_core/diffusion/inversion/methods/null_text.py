"""Inversions for sampling under guidance: null-text optimisation and the negative prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from taba_core.diffusion.descent import descend
from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.guidance import guided_ends, null_condition
from taba_core.diffusion.inversion.method import (
    Between,
    Carried,
    Record,
    Shape,
    Step,
    StepMethod,
    Whole,
    WholeMethod,
)
from taba_core.diffusion.inversion.problem import Dynamics, Problem
from taba_core.diffusion.inversion.registry import inversion_method
from taba_core.diffusion.sampling import StepRecord
from taba_core.errors import UsageError

# Axes: B samples in a batch, C channels, H rows, W columns; T steps; L tokens of width D.

EMBEDS = "prompt_embeds"  # the entry of a text condition that is optimised
# Above 1: at 1 the guided prediction is the conditional one, whatever the null embedding, and there is nothing to do.
Scale = Annotated[float, Field(gt=1, allow_inf_nan=False)]


@inversion_method("null-text")
@dataclass(frozen=True)
class NullText(WholeMethod):
    """DDIM inversion at guidance 1, then a null embedding for each step    (Mokady et al., CVPR 2023, Sec. 3.2-3.3).

    The latent is DDIM inversion's (target times), to the bit. Downwards from it, i = 0 at the noisiest step, the null
    embedding of each image is moved by Adam (rate `learning_rate` (1 - i/100), at most `num_inner_steps` updates) to
    lower the mean squared distance of the guided DDIM step from the inversion's own x_{l-1}, until it is below
    `tolerance` + `tolerance_growth` i; the next step starts from it. `reconstruct` samples under guidance with these.

    Carries null_embeds, (B, T, L, D), entry l-1 of step l: for SD 77 * 768 numbers a step, 12 MB an image at T = 50.
    The pooled embedding of SDXL stays that of the null condition.

    Attributes:
      guidance_scale: w of the sampler, above 1.
      Others as published.
    """

    needs_gradient = True
    needs_text = True
    own_sampler = True
    own_guidance = True

    guidance_scale: Scale = 7.5
    num_inner_steps: Annotated[int, Field(ge=1)] = 10
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.01
    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-5
    tolerance_growth: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2e-5

    def evaluations(self, grid: TimestepGrid, forward_steps: int = 0) -> Between:
        """T upwards; downwards 2 a step and 1 an update, which has a backward pass besides."""
        T = grid.num_inference_steps
        return Between(T + 3 * T, T + (2 + self.num_inner_steps) * T)

    def sampling_evaluations(self, grid: TimestepGrid) -> int:
        """Two a step."""
        return 2 * grid.num_inference_steps

    def carried_shapes(
        self, grid: TimestepGrid, sample_shape: Shape, cond_shapes: Mapping[str, Shape]
    ) -> dict[str, Shape]:
        """A null embedding for each step."""
        if EMBEDS not in cond_shapes:
            raise _needs_prompts(self.name)
        return {"null_embeds": (grid.num_inference_steps, *cond_shapes[EMBEDS])}

    def invert_whole(self, problem: Problem, record: Record) -> Whole:
        """DDIM inversion, then the optimisation downwards.

        Raises:
          UsageError: the model reads no text, or the condition is no prompt.
        """
        _check_text(self.name, problem)
        null, states = null_condition(problem.denoiser, len(problem.x_0)), [problem.x_0]
        for move in problem.grid.upward():
            x, eps = problem.move(states[-1], problem.predict(states[-1], move.asked), move)
            record(StepRecord(move.step, states[-1], eps, x))
            states.append(x)
        x, embeds, found = states[-1], null[EMBEDS].to(problem.x_0), {}
        for i, move in enumerate(problem.grid.downward()):
            x, embeds = self._fit(problem, x, states[move.step - 1], move, i, null, embeds)
            found[move.step] = embeds
        return Whole(states[-1], {"null_embeds": torch.stack([found[s] for s in sorted(found)], dim=1)})

    def _fit(
        self,
        problem: Problem,
        x: Tensor,
        wanted: Tensor,
        move: Transition,
        i: int,
        null: Mapping[str, Tensor],
        embeds: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """One step downwards from x towards `wanted`: (the state it reaches, its null embedding)."""
        ends_cond = problem.predict(x, move.asked)

        def take(embeds: Tensor, rows: Tensor) -> Tensor:
            # Entries of the null condition are read at `rows`; the embeddings are given for these rows already.
            whole = torch.zeros(len(x), *embeds.shape[1:]).to(embeds).index_copy(0, rows, embeds)
            ends_null = problem.predict(x[rows], move.asked, rows=rows, cond={**null, EMBEDS: whole})
            ends = guided_ends(ends_cond.rows(rows), ends_null, self.guidance_scale)
            return problem.move(ends.x, ends, move)[0]

        def loss(embeds: Tensor, rows: Tensor) -> Tensor:
            return (take(embeds, rows) - wanted[rows]).flatten(1).square().mean(1)

        embeds = descend(
            embeds,
            loss,
            # The published rate would turn negative after 100 steps.
            learning_rate=self.learning_rate * max(1 - i / 100, 0.01),
            num_steps=self.num_inner_steps,
            enough=self.tolerance + self.tolerance_growth * i,
        ).last
        return take(embeds, torch.arange(len(x), device=x.device)), embeds

    def reconstruct(self, dynamics: Dynamics, latent: Tensor, carried: Carried, record: Record) -> Tensor:
        """Guided DDIM sampling with the null embedding of each step.

        Raises:
          UsageError: the model reads no text.
        """
        null = null_condition(dynamics.denoiser, len(latent))
        return _guided_sampling(
            dynamics,
            latent,
            self.guidance_scale,
            lambda step: {**null, EMBEDS: carried["null_embeds"][:, step - 1]},
            record,
        )


@inversion_method("negative-prompt")
@dataclass(frozen=True)
class NegativePrompt(StepMethod):
    """DDIM inversion whose guided sampler takes the source prompt for the null prompt    (Miyake et al. 2023).

    Both predictions are then the same, so guidance cancels for the source prompt at any scale: reconstruction is the
    sampler's at guidance 1, with two evaluations a step. An edit under another prompt is guided away from the source.

    Attributes:
      guidance_scale: w of the sampler, above 1.
    """

    needs_text = True
    own_sampler = True
    own_guidance = True
    implicit = True

    guidance_scale: Scale = 7.5

    def sampling_evaluations(self, grid: TimestepGrid) -> int:
        """Two a step."""
        return 2 * grid.num_inference_steps

    def step(self, problem: Problem, x: Tensor, move: Transition, state: Any) -> Step:
        """One DDIM move upwards.

        Raises:
          UsageError: the model reads no text, or the condition is no prompt.
        """
        _check_text(self.name, problem)
        return Step(*problem.move(x, problem.predict(x, move.asked), move))

    def reconstruct(self, dynamics: Dynamics, latent: Tensor, carried: Carried, record: Record) -> Tensor:
        """Guided DDIM sampling away from the prompt of the inversion, which an edit replaces by its own."""
        source = dict(dynamics.cond if dynamics.source_cond is None else dynamics.source_cond)
        return _guided_sampling(dynamics, latent, self.guidance_scale, lambda step: source, record)


def _guided_sampling(
    dynamics: Dynamics,
    x: Tensor,
    scale: float,
    null_of: Callable[[int], Mapping[str, Tensor]],
    record: Record,
) -> Tensor:
    """DDIM sampling under guidance, with the null condition of each step."""
    for move in dynamics.grid.downward():
        ends_cond = dynamics.predict(x, move.asked)
        ends_null = dynamics.predict(x, move.asked, cond=null_of(move.step))
        lower, eps = dynamics.move(x, guided_ends(ends_cond, ends_null, scale), move)
        record(StepRecord(move.step, x, eps, lower))
        x = lower
    return x


def _check_text(name: str, dynamics: Dynamics) -> None:
    if EMBEDS not in dynamics.cond or getattr(dynamics.denoiser, "text", None) is None:
        raise _needs_prompts(name)


def _needs_prompts(name: str) -> UsageError:
    return UsageError(
        f"inversion method '{name}' works on a text condition; use a text-conditional model, and "
        "cond = model.text.encode(prompts)."
    )
