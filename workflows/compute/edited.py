"""Edits by an editor: what it starts from, and the states that its sources are pinned to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch

from taba_core.artifacts.edit import Edit
from taba_core.artifacts.inversion import Inversion
from taba_core.diffusion.attention.editor import AttentionEditor, Prompts
from taba_core.diffusion.attention.editors.sdedit import SDEdit
from taba_core.diffusion.attention.registry import editor_named
from taba_core.diffusion.attention.sampling import EditStart, sample_edit
from taba_core.diffusion.forward import forward_diffuse
from taba_core.diffusion.sampling import StepRecord
from taba_core.errors import UsageError
from workflows.compute.batch import Batch
from workflows.compute.kinds.inversion import inverted, method_of, start_of

# Axes: B images, C channels, H rows, W columns; T steps.


def edited(batch: Batch, artifact: Edit, sources: Sequence[str], targets: Sequence[str]) -> torch.Tensor:
    """Edits of a batch under control of their sources, (B, C, H, W).

    Args:
      sources, targets: a prompt for each sample.
    """
    editor = cast("AttentionEditor", editor_named(artifact.editor, **artifact.editor_options))
    return sample_edit(
        batch.worker.model(artifact.predictor),
        _start(batch, artifact),
        batch.grid(artifact.num_steps),
        editor,
        Prompts(sources, targets),
        guidance_scale=artifact.guidance_scale,
        x0_rule=artifact.x0_rule,
        sample_ids=batch.ids.tolist(),
    )


def from_image(batch: Batch, artifact: Edit, denoiser: Any, cond: dict[str, torch.Tensor]) -> torch.Tensor:
    """Edits of a batch by an editor that needs no inversion, (B, C, H, W)."""
    editor = cast("SDEdit", editor_named(artifact.editor, **artifact.editor_options))
    return editor.sample(
        denoiser,
        batch.tensor(batch.read(artifact.samples, "image")["image"]),
        batch.grid(artifact.num_steps),
        cond,
        x0_rule=artifact.x0_rule,
        sample_ids=batch.ids.tolist(),
    )


def _start(batch: Batch, artifact: Edit) -> EditStart:
    source = artifact.source
    if not isinstance(source, Inversion):
        return EditStart(batch.tensor(batch.read(source, "noise")["noise"]))
    read = batch.read(source, "latent", *source.carried)
    latent = batch.tensor(read.pop("latent"))
    carried = {name: batch.tensor(value) for name, value in read.items()}
    states = _states(batch, source) if artifact.source_path == "pinned" else None
    return EditStart(latent, method_of(source), carried, states)


def _states(batch: Batch, inversion: Inversion) -> torch.Tensor:
    """x*_0..x*_{T-1} of an inversion, (B, T, C, H, W), by inverting once more: they are T times what is stored.

    The states below K replaced steps are the image with the same forward noise at their own levels, so that the source
    ends at the image whatever was replaced.

    Raises:
      UsageError: the method does not tell its states.
    """
    steps, found = inversion.num_inference_steps, {}

    def keep(record: StepRecord) -> None:
        found[record.step - 1] = record.x_from

    inverted(batch, inversion, batch.denoiser(inversion.guidance_scale), on_step=keep)
    image, noise = start_of(batch, inversion)
    levels = batch.grid(steps).lower_levels
    for lower in range(inversion.forward_steps):
        # Level 0 may hold noise of its own (alpha below 1); the clean image is what the source came from.
        found[lower] = image if lower == 0 or noise is None else forward_diffuse(image, noise, levels[lower])
    if missing := set(range(steps)) - set(found):
        raise UsageError(
            f"inversion method '{inversion.method}' does not tell its states of {len(missing)} steps, so no source can "
            "be pinned to them; use source_path=own."
        )
    return torch.stack([found[step] for step in range(steps)], dim=1)
