"""Inversions, by any method, and the reconstructions of their latents."""

from __future__ import annotations

import torch

from taba_core import rng
from taba_core.artifacts.generation import Generation
from taba_core.artifacts.inversion import Inversion
from taba_core.artifacts.reconstruction import Reconstruction
from taba_core.artifacts.variable import RESIDUAL_NOT_DEFINED
from taba_core.diffusion.denoiser import Denoiser, held_by
from taba_core.diffusion.ends import Held
from taba_core.diffusion.grid import TimestepGrid
from taba_core.diffusion.inversion import (
    InversionReport,
    Method,
    StepMethod,
    inversion_method_named,
    invert_with_report,
    reconstruct,
)
from taba_core.diffusion.inversion.oracle import SwappedStep
from taba_core.diffusion.sampling import OnStep
from workflows.compute.batch import Arrays, Batch, computes
from workflows.compute.decoding import round_trip
from workflows.compute.kinds.generation import path_of
from workflows.compute.own_module import check_own_module
from workflows.compute.timing import TimedDenoiser, processor


@computes(Inversion)
def invert(batch: Batch) -> Arrays:
    """Latents, what the method carries beside them, and what it took."""
    artifact: Inversion = batch.artifact
    # The clock is outermost: it sees what a prediction costs, both evaluations of a guided one.
    clock = TimedDenoiser(batch.denoiser(artifact.guidance_scale), batch.worker.wait)
    report = inverted(batch, artifact, clock, measure_residual="residual" in batch.variables)
    batch.worker.add_note("inversion_seconds", clock.seconds(int(report.evaluations.sum())))
    batch.worker.add_note("processor", processor(batch.worker.device))
    carried = {name: value.float().cpu().numpy() for name, value in report.carried.items()}
    return {"latent": report.latent.float().cpu().numpy(), **carried, **_facts(report)}


def inverted(
    batch: Batch,
    artifact: Inversion,
    denoiser: Denoiser,
    *,
    on_step: OnStep | None = None,
    measure_residual: bool = False,
) -> InversionReport:
    """The images of a batch inverted as the artifact says, whose samples are those of the batch."""
    image, noise = start_of(batch, artifact)
    grid, method, reference = batch.grid(artifact.num_inference_steps), method_of(artifact), None
    if step := artifact.swapped_step:
        assert isinstance(method, StepMethod), "a study swaps steps of DDIM inversion"
        reference = {step: _carried_by_the_sampler(batch, artifact, grid, held_by(denoiser))}
        method = SwappedStep(method, step)
    return invert_with_report(
        denoiser,
        image,
        grid,
        method,
        batch.cond(),
        network_time=artifact.network_time,
        levels=artifact.levels,
        first_time=artifact.first_time,
        held=artifact.held,
        x0_rule=artifact.x0_rule,
        forward_steps=artifact.forward_steps,
        forward_level=artifact.forward_level,
        forward_noise=noise,
        reference=reference,
        sample_ids=batch.ids.tolist(),
        on_step=on_step,
        measure_residual=measure_residual,
    )


def _carried_by_the_sampler(
    batch: Batch, artifact: Inversion, grid: TimestepGrid, held: Held
) -> torch.Tensor:
    """What the sampling step carried that the inversion's swapped step is to carry, (B, C, H, W)."""
    assert isinstance(artifact.source, Generation), "only generated images have a sampling path"
    step, states = artifact.swapped_step, path_of(batch, artifact.source)["x_t"]
    lower = batch.read(artifact.source, "image")["image"] if step == 1 else states[:, step - 2]
    move = grid.upward()[step - 1]
    return held.implied(batch.tensor(lower), batch.tensor(states[:, step - 1]), move.start, move.stop)


def start_of(batch: Batch, artifact: Inversion) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The images that are inverted, (B, C, H, W), and the forward noise where steps or the method need it."""
    ids, source = batch.ids, artifact.source
    image = batch.tensor(batch.read(source, "image")["image"])
    noise = None
    if artifact.forward_steps or artifact.draws_noise:
        noise = batch.tensor(
            rng.normal(ids, tuple(image.shape[1:]), seed=artifact.forward_seed, stream="forward")
        )
    if (
        artifact.round_trip != "none"
    ):  # asked for here, because another network may invert and this one be unloaded
        image = round_trip(batch.model, image, artifact.round_trip, ids, source.draw_seed)
    return image, noise


def _facts(report: InversionReport) -> Arrays:
    """What a report says of every image and step."""
    residual = report.residual
    if residual is None:
        residual = torch.full(report.fallback.shape, torch.nan)
    return {
        "evaluations": report.evaluations.double().cpu().numpy(),
        "residual": residual.nan_to_num(RESIDUAL_NOT_DEFINED).float().cpu().numpy(),
        "fallback": report.fallback.to(torch.uint8).cpu().numpy(),
    }


def method_of(artifact: Inversion) -> Method:
    """The inversion method with its options; a user's own file must be the one that was planned with."""
    check_own_module(artifact.method, artifact.method_location, artifact.method_fingerprint)
    return inversion_method_named(artifact.method, **artifact.method_options)


@computes(Reconstruction)
def sample_again(batch: Batch) -> Arrays:
    """Images sampled from latents."""
    artifact: Reconstruction = batch.artifact
    read = batch.read(artifact.source, "latent", *artifact.source.carried)
    latent = batch.tensor(read.pop("latent"))
    carried = {name: batch.tensor(value) for name, value in read.items()}
    return {"reconstruction": sampled(batch, artifact, latent, carried).cpu().numpy()}


def sampled(
    batch: Batch, artifact: Reconstruction, latent: torch.Tensor, carried: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Images of latents of a batch by the sampler of a reconstruction, (B, C, H, W)."""
    inversion = artifact.source
    return reconstruct(
        batch.denoiser(artifact.guidance_scale),
        latent,
        batch.grid(inversion.num_inference_steps),
        method_of(inversion),
        batch.cond(),
        carried=carried,
        x0_rule=artifact.x0_rule,
        sample_ids=batch.ids.tolist(),
    )
