"""Edits: the start of an image sampled under another condition."""

from __future__ import annotations

import torch

from taba_core import rng
from taba_core.artifacts.edit import Edit
from taba_core.artifacts.generation import Generation
from taba_core.artifacts.inversion import Inversion
from taba_core.diffusion.flow_edit import flow_edit
from taba_core.diffusion.inversion import reconstruct
from taba_core.diffusion.sampling import generate, generate_switching
from workflows.compute.batch import Arrays, Batch, computes
from workflows.compute.conditioning import draw_targets, prompts_from_bytes
from workflows.compute.decoding import decoded_rgb
from workflows.compute.edited import edited, from_image
from workflows.compute.kinds.inversion import method_of

FLOW_EDIT_STREAM = "flow-edit"  # of taba_core.rng; a stream for each step


@computes(Edit)
def sample_edits(batch: Batch) -> Arrays:
    """Edits of a batch, their targets, and decoded edits where they are asked."""
    artifact: Edit = batch.artifact
    samples, model = artifact.samples, batch.worker.model(artifact.predictor)
    own = batch.read(samples, *samples.condition_variables)
    target = draw_targets(artifact, batch.ids, own, getattr(model, "class_names", ()))
    if artifact.flow_edit_steps is not None:
        image = _led(batch, artifact, batch.worker.condition(artifact.predictor, target))
    elif artifact.editor and not artifact.starts_from_image:
        image = edited(
            batch, artifact, prompts_from_bytes(own["prompt"]), prompts_from_bytes(target["prompt"])
        )
    else:
        # The own condition is encoded only where the sampler reads it.
        by_method = isinstance(artifact.source, Inversion) and method_of(artifact.source).own_sampler
        read = bool(artifact.switch_share) or by_method
        before = batch.worker.condition(artifact.predictor, own) if read else {}
        image = _sampled(batch, artifact, before, batch.worker.condition(artifact.predictor, target))
    decoded = {"decoded": decoded_rgb(batch.model, image)} if "decoded" in batch.variables else {}
    (values,) = target.values()
    return {"edit": image.cpu().numpy(), artifact.target_variable: values, **decoded}


def _led(batch: Batch, artifact: Edit, cond: dict[str, torch.Tensor]) -> torch.Tensor:
    """The images led to a condition by FlowEdit."""
    source, seed, first = artifact.source, artifact.noise_seed, artifact.flow_edit_steps
    assert isinstance(source, Generation) and seed is not None and first is not None

    def draw(step: int) -> torch.Tensor:
        stream = f"{FLOW_EDIT_STREAM}/{step}"
        return batch.tensor(rng.normal(batch.ids, batch.model.sample_shape, seed=seed, stream=stream))

    return flow_edit(
        batch.denoiser(source.guidance_scale),
        batch.denoiser(artifact.guidance_scale),
        batch.tensor(batch.read(source, "image")["image"]),
        batch.grid(source.num_inference_steps),
        cond=batch.cond(),
        target_cond=cond,
        draw=draw,
        first_step=first,
    )


def _sampled(
    batch: Batch, artifact: Edit, own: dict[str, torch.Tensor], target: dict[str, torch.Tensor]
) -> torch.Tensor:
    """What the sampler makes of the start under the target, after a share of the steps under the own condition."""
    denoiser, grid = batch.denoiser(artifact.guidance_scale), batch.grid(artifact.num_steps)
    source, rule = artifact.source, artifact.x0_rule
    if artifact.starts_from_image:
        return from_image(batch, artifact, denoiser, target)
    if isinstance(source, Inversion) and method_of(source).own_sampler:
        read = batch.read(source, "latent", *source.carried)
        return reconstruct(
            denoiser,
            batch.tensor(read.pop("latent")),
            grid,
            method_of(source),
            target,
            carried={name: batch.tensor(value) for name, value in read.items()},
            source_cond=own,
            x0_rule=rule,
            sample_ids=batch.ids.tolist(),
        )
    start = _start(batch, artifact)
    if artifact.switch_share:
        return generate_switching(denoiser, start, grid, (own, target), artifact.switch_share, x0_rule=rule)
    return generate(denoiser, start, grid, target, x0_rule=rule)


def _start(batch: Batch, artifact: Edit) -> torch.Tensor:
    """The state that sampling starts from: a latent, the noise of a generation, or noise of another seed."""
    if isinstance(artifact.source, Inversion):
        return batch.tensor(batch.read(artifact.source, "latent")["latent"])
    if artifact.noise_seed is None:
        return batch.tensor(batch.read(artifact.source, "noise")["noise"])
    shape = batch.model.sample_shape
    return batch.tensor(rng.normal(batch.ids, shape, seed=artifact.noise_seed, stream="noise"))
