"""Generations: noise sampled to images, with the states of the path where they are wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from taba_core import rng
from taba_core.artifacts.generation import Generation
from taba_core.diffusion.sampling import StepRecord, generate
from workflows.compute.arrays import AnyArray, DeviceArray
from workflows.compute.batch import Batch, computes
from workflows.compute.conditioning import draw
from workflows.compute.decoding import decoded_rgb

PATH = ("x_t", "eps_t")


@computes(Generation)
def compute(batch: Batch) -> dict[str, AnyArray]:
    """Noise, images and conditions of a batch; x_t, eps_t and decoded images where they are asked."""
    model = batch.model
    drawn = draw(batch.artifact, batch.ids, len(getattr(model, "class_names", ())))
    path, image = walk(
        batch, batch.artifact, batch.worker.condition(batch.artifact.model, drawn), batch.variables
    )
    decoded = {"decoded": decoded_rgb(model, image)} if "decoded" in batch.variables else {}
    return {"image": image.cpu().numpy(), **drawn, **path, **decoded}


def walk(
    batch: Batch, generation: Generation, cond: dict[str, torch.Tensor], variables: tuple[str, ...]
) -> tuple[dict[str, AnyArray], torch.Tensor]:
    """The sampling path of a batch: noise, those of x_t and eps_t that are in `variables`, and the images."""
    noise = rng.normal(batch.ids, batch.model.sample_shape, seed=generation.seed, stream="noise")
    steps = generation.num_inference_steps
    shape = (len(noise), steps, *noise.shape[1:])
    path = {name: batch.worker.empty(shape) for name in PATH if name in variables}
    image = generate(
        batch.denoiser(generation.guidance_scale),
        batch.tensor(noise),
        batch.grid(steps),
        cond,
        x0_rule=generation.x0_rule,
        on_step=_recorder(path) if path else None,
    )
    return {"noise": noise, **path}, image


def path_of(batch: Batch, generation: Generation) -> dict[str, DeviceArray]:
    """x_t and eps_t of a batch, where they were made, if this unit has walked the path, else by walking it again.

    The path starts from the same noise in the same batch, so both have the same bits.
    """
    held = batch.worker.made(generation, batch.start)
    if not held.keys() >= set(PATH):
        held, _ = walk(batch, generation, batch.cond(), PATH)
        batch.worker.remember(generation, batch.start, held)
    return {name: value for name in PATH if isinstance(value := held[name], DeviceArray)}


def _recorder(path: Mapping[str, DeviceArray]) -> Callable[[StepRecord], None]:
    """Row l of x_t and eps_t is what sampling step l read and predicted (l = 1..T); no step waits for the device."""

    def record(step: StepRecord) -> None:
        for name, value in (("x_t", step.x_from), ("eps_t", step.eps_t)):
            if name in path:
                path[name].tensor[:, step.step - 1].copy_(value)

    return record
