"""Interpolations: what the sampler makes of points between two noises, or between two latents."""

from __future__ import annotations

from taba_core.artifacts.interpolation import Interpolation
from taba_core.artifacts.reconstruction import Reconstruction
from taba_core.diffusion.interpolation import between
from taba_core.diffusion.sampling import generate
from workflows.compute.batch import Arrays, Batch, computes
from workflows.compute.kinds.inversion import sampled


@computes(Interpolation)
def interpolate(batch: Batch) -> Arrays:
    """Images of the points between the starting states, by the sampler of the first end."""
    artifact: Interpolation = batch.artifact
    states = [batch.tensor(batch.read(of, name)[name]) for of, name in artifact.starts]
    start = between(*states, artifact.weight, by_row=artifact.by_row)
    end = artifact.first
    if isinstance(end, Reconstruction):
        return {"interpolated": sampled(batch, end, start, {}).cpu().numpy()}
    image = generate(
        batch.denoiser(end.guidance_scale),
        start,
        batch.grid(end.num_inference_steps),
        batch.cond(),
        x0_rule=end.x0_rule,
    )
    return {"interpolated": image.cpu().numpy()}
