"""What is made of whole sampling paths: predictions from their states, and rows of per-step statistics."""

from __future__ import annotations

import numpy as np

from taba_core.artifacts.path_distances import PathDistances
from taba_core.artifacts.self_interpolation import SelfInterpolation
from taba_core.artifacts.step_errors import StepErrors
from taba_core.artifacts.step_predictions import StepPredictions
from taba_core.blas import use_one_blas_thread
from taba_core.diffusion.interpolation import self_interpolation
from taba_core.diffusion.inversion import step_predictions
from taba_core.stats.step_error import StepError
from taba_core.stats.trajectory import PathDistance
from workflows.compute.arrays import AnyArray, Arrays, DeviceArray, in_memory
from workflows.compute.batch import Batch, computes
from workflows.compute.kinds.generation import path_of


@computes(StepPredictions)
def predict(batch: Batch) -> dict[str, AnyArray]:
    """eps_hat (B, T, C, H, W) of a batch, from every state of its path."""
    return {"eps_hat": _predictions(batch, batch.artifact)}


def _predictions(batch: Batch, artifact: StepPredictions) -> DeviceArray:
    image = batch.tensor(batch.read(artifact.source, "image")["image"])
    x_t = path_of(batch, artifact.source)["x_t"].tensor
    cond, steps = batch.cond(), artifact.num_steps
    grid, eps_hat = batch.grid(steps), batch.worker.empty(tuple(x_t.shape))
    denoiser = batch.denoiser(artifact.guidance_scale)
    for step in range(1, steps + 1):
        # x_{l-1}: the image for l = 1, else what sampling step l-1 read.
        state = image if step == 1 else x_t[:, step - 2]
        eps = step_predictions(
            denoiser,
            state[:, None].to(batch.worker.device).contiguous(),
            grid,
            (step,),
            cond,
            network_time=artifact.network_time,
            levels=artifact.levels,
            first_time=artifact.first_time,
            held=artifact.held,
            x0_rule=artifact.x0_rule,
        )
        eps_hat.tensor[:, step - 1].copy_(eps[:, 0])
    return eps_hat


@computes(StepErrors)
def step_errors(batch: Batch) -> dict[str, AnyArray]:
    """Sums of the errors of predictions by region."""
    artifact: StepErrors = batch.artifact
    made = batch.worker.made(artifact.predictions, batch.start)
    eps_hat = made["eps_hat"] if made else _predictions(batch, artifact.predictions)
    eps_t = path_of(batch, artifact.source.source)["eps_t"]
    region = batch.read(artifact.source, "region")

    def rows() -> Arrays:
        use_one_blas_thread()  # as in a reduction
        return StepError().rows({"eps_t": in_memory(eps_t), "eps_hat": in_memory(eps_hat), **region})

    return batch.worker.rows(rows, batch.variables)


@computes(PathDistances)
def path_distances(batch: Batch) -> dict[str, AnyArray]:
    """Inner products of the path with the segment from noise to latent."""
    inversion = batch.artifact.source
    ends = batch.read(inversion.source, "noise", "image") | batch.read(inversion, "latent")
    x_t = path_of(batch, inversion.source)["x_t"]
    return batch.worker.rows(lambda: PathDistance().rows(ends | {"x_t": in_memory(x_t)}), batch.variables)


@computes(SelfInterpolation)
def interpolate(batch: Batch) -> Arrays:
    """Distances to each image of what the arc from noise to latent gives."""
    artifact: SelfInterpolation = batch.artifact
    generation = artifact.source.source
    ends = batch.read(generation, "noise", "image") | batch.read(artifact.source, "latent")
    distance = self_interpolation(
        batch.denoiser(generation.guidance_scale),
        *(batch.tensor(ends[name]) for name in ("noise", "latent", "image")),
        batch.grid(artifact.num_steps),
        np.linspace(0, 1, artifact.num_weights).tolist(),
        batch.cond(),
        x0_rule=generation.x0_rule,
    )
    return {"distance": distance.cpu().numpy()}
