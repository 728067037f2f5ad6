"""Generations: noise sampled to images, with the states of the path where they are wanted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from taba_core import rng
from taba_core.artifacts.generation import Generation
from taba_core.diffusion.sampling import StepRecord, generate
from workflows.compute.batch import Arrays, Batch, computes
from workflows.compute.conditioning import condition, draw
from workflows.compute.decoding import decoded_rgb


@computes(Generation)
def compute(batch: Batch) -> Arrays:
    """Noise, images and conditions of a batch; x_t, eps_t and decoded images where they are asked."""
    model = batch.model
    drawn = draw(batch.artifact, batch.ids, len(getattr(model, "class_names", ())))
    path, image = walk(batch, batch.artifact, condition(model, drawn, batch.worker.device), batch.variables)
    decoded = {"decoded": decoded_rgb(model, image)} if "decoded" in batch.variables else {}
    return {"image": image.cpu().numpy(), **drawn, **path, **decoded}


def walk(
    batch: Batch, generation: Generation, cond: dict[str, torch.Tensor], variables: tuple[str, ...]
) -> tuple[Arrays, torch.Tensor]:
    """The sampling path of a batch: noise, those of x_t and eps_t that are in `variables`, and the images."""
    noise = rng.normal(batch.ids, batch.model.sample_shape, seed=generation.seed, stream="noise")
    steps = generation.num_inference_steps
    on_step, path = _recorder((len(noise), steps, *noise.shape[1:]), variables)
    image = generate(
        batch.denoiser(generation.guidance_scale),
        batch.tensor(noise),
        batch.grid(steps),
        cond,
        x0_rule=generation.x0_rule,
        on_step=on_step,
    )
    return {"noise": noise, **path}, image


def path_of(batch: Batch, generation: Generation) -> Arrays:
    """x_t and eps_t of a batch: from memory where this unit has walked the path, else by walking it again.

    The path starts from the same noise in the same batch, so both have the same bits.
    """
    held = batch.worker.made(generation, batch.start)
    if not {"x_t", "eps_t"} <= held.keys():
        path, _ = walk(batch, generation, batch.cond(), ("x_t", "eps_t"))
        batch.worker.remember(generation, batch.start, path)
        held = path
    return {name: held[name] for name in ("x_t", "eps_t")}


def _recorder(
    shape: tuple[int, ...], variables: tuple[str, ...]
) -> tuple[Callable[[StepRecord], None] | None, Arrays]:
    """Row l of x_t and eps_t is what sampling step l read and predicted (l = 1..T)."""
    path = {name: np.empty(shape, dtype=np.float32) for name in ("x_t", "eps_t") if name in variables}
    if not path:
        return None, path

    def record(step: StepRecord) -> None:
        for name, value in (("x_t", step.x_from), ("eps_t", step.eps_t)):
            if name in path:
                path[name][:, step.step - 1] = value.cpu().numpy()

    return record, path
