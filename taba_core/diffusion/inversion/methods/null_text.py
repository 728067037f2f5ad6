"""Inversions for sampling under guidance: null-text optimisation, prompt tuning and the negative prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from taba_core.diffusion.ends import Ends
from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.guidance import guided_ends, null_condition
from taba_core.diffusion.inversion.fitted_embeddings import (
    EMBEDS,
    FittedEmbeddings,
    Scale,
    check_text,
    guided_sampling,
)
from taba_core.diffusion.inversion.method import Carried, Record, Step, StepMethod
from taba_core.diffusion.inversion.problem import Dynamics, Problem
from taba_core.diffusion.inversion.registry import inversion_method
from taba_core.diffusion.sampling import Conditioning

# Axes: B samples in a batch, C channels, H rows, W columns; T steps; L tokens of width D.


@inversion_method("null-text")
@dataclass(frozen=True)
class NullText(FittedEmbeddings):
    """DDIM inversion at guidance 1, then a null embedding for each step    (Mokady et al., CVPR 2023, Sec. 3.2-3.3).

    What is fitted, and how, is in `FittedEmbeddings`; all defaults are as published. `reconstruct` samples under
    guidance with the fitted null embeddings.

    Carries null_embeds, (B, T, L, D), entry l-1 of step l: for SD 77 * 768 numbers a step, 12 MB an image at T = 50.
    The pooled embedding of SDXL stays that of the null condition.
    """

    carried_name = "null_embeds"

    def fitted_and_fixed(self, cond: Conditioning, null: Conditioning) -> tuple[Conditioning, Conditioning]:
        """The null embedding is fitted."""
        return null, cond

    def combined(self, fitted: Ends, fixed: Ends) -> Ends:
        """eps_fitted + w (eps_prompt - eps_fitted)."""
        return guided_ends(fixed, fitted, self.guidance_scale)

    def reconstruct(self, dynamics: Dynamics, latent: Tensor, carried: Carried, record: Record) -> Tensor:
        """Guided DDIM sampling with the null embedding of each step.

        Raises:
          UsageError: the model reads no text.
        """
        null, embeds = null_condition(dynamics.denoiser, len(latent)), carried[self.carried_name]

        def conditions(step: int) -> tuple[Conditioning, Conditioning]:
            return dynamics.cond, {**null, EMBEDS: embeds[:, step - 1]}

        return guided_sampling(dynamics, latent, self.guidance_scale, conditions, record)


@inversion_method("prompt-tuning")
@dataclass(frozen=True)
class PromptTuning(FittedEmbeddings):
    """DDIM inversion at guidance 1, then a prompt embedding for each step    (Dong et al., ICCV 2023).

    Null-text inversion with the roles exchanged: the null embedding stays and the prompt's is fitted, from the
    prompt of the inversion on. `reconstruct` samples under guidance with the fitted embeddings c_l; an edit takes
    in step l

        (1 - `kept`) c_target + `kept` c_l,

    between the target and what brings the image back. Objective and interpolation are the source's. Where its
    fit starts, its rate and when it stops are not known for certain: they are those of null-text inversion, and `kept`
    is ours.

    Carries prompt_embeds, (B, T, L, D), entry l-1 of step l. The pooled embedding of SDXL stays that of the prompt.

    Attributes:
      kept: share of the fitted embedding in edits; 1 brings the image back, 0 is guided sampling under the target.
    """

    carried_name = "prompt_embeds"

    kept: Annotated[float, Field(ge=0, le=1)] = 0.5

    def fitted_and_fixed(self, cond: Conditioning, null: Conditioning) -> tuple[Conditioning, Conditioning]:
        """The prompt's embedding is fitted."""
        return cond, null

    def combined(self, fitted: Ends, fixed: Ends) -> Ends:
        """eps_null + w (eps_fitted - eps_null)."""
        return guided_ends(fitted, fixed, self.guidance_scale)

    def reconstruct(self, dynamics: Dynamics, latent: Tensor, carried: Carried, record: Record) -> Tensor:
        """Guided DDIM sampling with the embedding of each step, mixed with the target's in an edit.

        Images whose target is the prompt of the inversion are reconstructed.

        Raises:
          UsageError: the model reads no text.
        """
        null, embeds = null_condition(dynamics.denoiser, len(latent)), carried[self.carried_name]
        target = dynamics.cond[EMBEDS].to(embeds)
        source = target if dynamics.source_cond is None else dynamics.source_cond[EMBEDS].to(embeds)
        edited = (target != source).flatten(1).any(1).view(-1, 1, 1)

        def conditions(step: int) -> tuple[Conditioning, Conditioning]:
            fitted = embeds[:, step - 1]
            mixed = torch.where(edited, (1 - self.kept) * target + self.kept * fitted, fitted)
            return {**dynamics.cond, EMBEDS: mixed}, null

        return guided_sampling(dynamics, latent, self.guidance_scale, conditions, record)


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
        check_text(self.name, problem)
        return Step(*problem.move(x, problem.predict(x, move.asked), move))

    def reconstruct(self, dynamics: Dynamics, latent: Tensor, carried: Carried, record: Record) -> Tensor:
        """Guided DDIM sampling away from the prompt of the inversion, which an edit replaces by its own."""
        source = dict(dynamics.cond if dynamics.source_cond is None else dynamics.source_cond)
        both = dynamics.cond, source
        return guided_sampling(dynamics, latent, self.guidance_scale, lambda step: both, record)
