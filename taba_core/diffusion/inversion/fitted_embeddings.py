"""DDIM inversion, then an embedding for each step that brings guided sampling back on its path."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taba_core.diffusion.descent import descend
from taba_core.diffusion.ends import Ends
from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.guidance import guided_ends, null_condition
from taba_core.diffusion.inversion.method import Between, Record, Shape, Whole, WholeMethod
from taba_core.diffusion.inversion.problem import Dynamics, Problem
from taba_core.diffusion.sampling import Conditioning, StepRecord
from taba_core.errors import UsageError

# Axes: B samples in a batch, R rows of a batch, C channels, H rows, W columns; T steps; L tokens of width D.

EMBEDS = "prompt_embeds"  # the entry of a text condition that is optimised
# Above 1: at 1 the guided prediction is the conditional one, whatever the null embedding, and there is nothing to do.
Scale = Annotated[float, Field(gt=1, allow_inf_nan=False)]


@dataclass(frozen=True)
class FittedEmbeddings(WholeMethod):
    """DDIM inversion at guidance 1, then one of guidance's two embeddings, fitted in each step.

    The latent is DDIM inversion's (target times), to the bit. Downwards from it, i = 0 at the noisiest step, the
    embedding of each image is moved by Adam (rate `learning_rate` (1 - i/100), at most `num_inner_steps` updates) to
    lower the mean squared distance of the guided DDIM step from the inversion's own x_{l-1}, until it is below
    `tolerance` + `tolerance_growth` i; the next step starts from it. Subclasses say which embedding, and sample.

    Class attributes:
      carried_name: of the carried tensor (B, T, L, D), entry l-1 the embedding of step l.

    Attributes:
      guidance_scale: w of the sampler, above 1.
      num_inner_steps: updates of a step.
      learning_rate: of Adam in the first step downwards.
      tolerance, tolerance_growth: of the mean squared distance.
    """

    needs_gradient = True
    needs_text = True
    own_sampler = True
    own_guidance = True
    carried_name = ""

    guidance_scale: Scale = 7.5
    num_inner_steps: Annotated[int, Field(ge=1)] = 10
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.01
    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-5
    tolerance_growth: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2e-5

    @abstractmethod
    def fitted_and_fixed(self, cond: Conditioning, null: Conditioning) -> tuple[Conditioning, Conditioning]:
        """Which of the two conditions has the embedding that is fitted, and which stays."""

    @abstractmethod
    def combined(self, fitted: Ends, fixed: Ends) -> Ends:
        """The guided prediction, of the predictions under both conditions."""

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
        """An embedding for each step."""
        if EMBEDS not in cond_shapes:
            raise needs_prompts(self.name)
        return {self.carried_name: (grid.num_inference_steps, *cond_shapes[EMBEDS])}

    def invert_whole(self, problem: Problem, record: Record) -> Whole:
        """DDIM inversion, then the optimisation downwards.

        Raises:
          UsageError: the model reads no text, or the condition is no prompt.
        """
        check_text(self.name, problem)
        null = null_condition(problem.denoiser, len(problem.x_0))
        fitted, fixed = self.fitted_and_fixed(problem.cond, null)
        states = [problem.x_0]
        for move in problem.grid.upward():
            x, eps = problem.move(states[-1], problem.predict(states[-1], move.asked), move)
            record(StepRecord(move.step, states[-1], eps, x))
            states.append(x)
        x, embeds, found = states[-1], fitted[EMBEDS].to(problem.x_0), {}
        for i, move in enumerate(problem.grid.downward()):
            other = problem.predict(x, move.asked, cond=fixed)
            x, embeds = self._fit(problem, other, states[move.step - 1], move, i, {**fitted, EMBEDS: embeds})
            found[move.step] = embeds
        return Whole(states[-1], {self.carried_name: torch.stack([found[s] for s in sorted(found)], dim=1)})

    def _fit(
        self,
        problem: Problem,
        fixed: Ends,
        wanted: Tensor,
        move: Transition,
        i: int,
        fitted: Mapping[str, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """One step downwards from the state of `fixed` towards `wanted`: (the state it reaches, its embedding)."""
        x = fixed.x

        def take(embeds: Tensor, rows: Tensor) -> Tensor:
            # Entries of the condition are read at `rows`; the embeddings are given for these rows already.
            whole = torch.zeros(len(x), *embeds.shape[1:]).to(embeds).index_copy(0, rows, embeds)
            ends = problem.predict(x[rows], move.asked, rows=rows, cond={**fitted, EMBEDS: whole})
            guided = self.combined(ends, fixed.rows(rows))
            return problem.move(guided.x, guided, move)[0]

        def loss(embeds: Tensor, rows: Tensor) -> Tensor:
            return (take(embeds, rows) - wanted[rows]).flatten(1).square().mean(1)

        embeds = descend(
            fitted[EMBEDS],
            loss,
            # The published rate would turn negative after 100 steps.
            learning_rate=self.learning_rate * max(1 - i / 100, 0.01),
            num_steps=self.num_inner_steps,
            enough=self.tolerance + self.tolerance_growth * i,
        ).last
        return take(embeds, torch.arange(len(x), device=x.device)), embeds


def guided_sampling(
    dynamics: Dynamics,
    x: Tensor,
    scale: float,
    conditions: Callable[[int], tuple[Conditioning, Conditioning]],
    record: Record,
) -> Tensor:
    """DDIM sampling under guidance, from x to images, (B, C, H, W).

    Args:
      scale: w.
      conditions: step l to the condition and the null condition of that step.
      record: called with each step.
    """
    for move in dynamics.grid.downward():
        cond, null = conditions(move.step)
        ends_cond = dynamics.predict(x, move.asked, cond=cond)
        ends_null = dynamics.predict(x, move.asked, cond=null)
        lower, eps = dynamics.move(x, guided_ends(ends_cond, ends_null, scale), move)
        record(StepRecord(move.step, x, eps, lower))
        x = lower
    return x


def check_text(name: str, dynamics: Dynamics) -> None:
    """Refuse (UsageError) a model that reads no text, and a condition that is no prompt."""
    if EMBEDS not in dynamics.cond or getattr(dynamics.denoiser, "text", None) is None:
        raise needs_prompts(name)


def needs_prompts(name: str) -> UsageError:
    """The error of a method that works on a text condition, where there is none."""
    return UsageError(
        f"inversion method '{name}' works on a text condition; use a text-conditional model, and "
        "cond = model.text.encode(prompts)."
    )
