"""Edits: the start of an image sampled under another condition."""

from __future__ import annotations

import torch

from taba_core import rng
from taba_core.artifacts.edit import Edit
from taba_core.artifacts.inversion import Inversion
from taba_core.diffusion.inversion import reconstruct
from taba_core.diffusion.sampling import generate
from workflows.compute.batch import Arrays, Batch, computes
from workflows.compute.conditioning import condition, draw_targets, prompts_from_bytes
from workflows.compute.decoding import decoded_rgb
from workflows.compute.edited import edited, from_image
from workflows.compute.kinds.inversion import method_of


@computes(Edit)
def sample_edits(batch: Batch) -> Arrays:
    """Edits of a batch, their targets, and decoded edits where they are asked."""
    artifact: Edit = batch.artifact
    samples, model = artifact.samples, batch.worker.model(artifact.predictor)
    own = batch.read(samples, *samples.condition_variables)
    target = draw_targets(artifact, batch.ids, own, getattr(model, "class_names", ()))
    if artifact.editor and not artifact.starts_from_image:
        image = edited(
            batch, artifact, prompts_from_bytes(own["prompt"]), prompts_from_bytes(target["prompt"])
        )
    else:
        image = _sampled(batch, artifact, condition(model, target, batch.worker.device))
    decoded = {"decoded": decoded_rgb(batch.model, image)} if "decoded" in batch.variables else {}
    (values,) = target.values()
    return {"edit": image.cpu().numpy(), artifact.target_variable: values, **decoded}


def _sampled(batch: Batch, artifact: Edit, cond: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the sampler makes of the start under a condition."""
    source, denoiser = artifact.source, batch.denoiser(artifact.guidance_scale)
    if artifact.starts_from_image:
        return from_image(batch, artifact, denoiser, cond)
    if isinstance(source, Inversion):
        read = batch.read(source, "latent", *source.carried)
        return reconstruct(
            denoiser,
            batch.tensor(read.pop("latent")),
            batch.grid(source.num_inference_steps),
            method_of(source),
            cond,
            carried={name: batch.tensor(value) for name, value in read.items()},
            x0_rule=artifact.x0_rule,
            sample_ids=batch.ids.tolist(),
        )
    if artifact.noise_seed is None:
        noise = batch.read(source, "noise")["noise"]
    else:
        noise = rng.normal(batch.ids, batch.model.sample_shape, seed=artifact.noise_seed, stream="noise")
    grid = batch.grid(artifact.num_steps)
    return generate(denoiser, batch.tensor(noise), grid, cond, x0_rule=artifact.x0_rule)
