"""Tiny checkpoints with random weights from a fixed seed, saved by diffusers in the hub's layout.

`tiny_X(directory)` writes a whole pipeline directory and returns it; same bits on every call.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

LDM_SCHEDULER = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "clip_sample": False,
}
DIT_SCHEDULER = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "clip_sample": False}
DIT_LABELS = (
    "tench, Tinca tinca", "goldfish", "great white shark", "tiger shark", "hammerhead",
    "electric ray", "stingray", "cock", "hen", "ostrich",
)  # fmt: skip


@contextmanager
def fixed_weights(seed: int = 0):
    """Weights drawn inside depend on the seed only; the caller's random state is left alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def ddim_scheduler(**fields: Any):
    from diffusers import DDIMScheduler

    return DDIMScheduler(**fields)


def save_pipeline(
    directory: Path, pipeline_class: str, components: dict[str, Any], extra: dict[str, Any] | None = None
) -> Path:
    """Save components in their folders, and the model_index.json that lists them."""
    directory.mkdir(parents=True, exist_ok=True)
    index: dict[str, Any] = {"_class_name": pipeline_class, "_diffusers_version": "0.35.0", **(extra or {})}
    for name, component in components.items():
        library = type(component).__module__.split(".")[0]
        index[name] = [library, type(component).__name__]
        component.save_pretrained(directory / name)
    (directory / "model_index.json").write_text(json.dumps(index, indent=2))
    return directory


def edit_json(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file; None as a value is written as null, ... removes the field."""
    value = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: item for key, item in value.items() if item is not ...}))


def tiny_unet2d(**overrides: Any):
    """UNet2DModel of 0.1 M parameters with attention on its lower level."""
    from diffusers import UNet2DModel

    fields = {
        "sample_size": 16, "in_channels": 3, "out_channels": 3, "block_out_channels": (16, 32),
        "layers_per_block": 1, "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "attention_head_dim": 8, "norm_num_groups": 8,
    }  # fmt: skip
    return UNet2DModel(**fields | overrides)


def tiny_vq(**overrides: Any):
    """VQModel with factor 4, 3 latent channels, 64 codes."""
    from diffusers import VQModel

    fields = {
        "block_out_channels": (8, 16, 16), "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3, "latent_channels": 3, "num_vq_embeddings": 64,
        "norm_num_groups": 8, "scaling_factor": 1.0,
    }  # fmt: skip
    model = VQModel(**fields | overrides)
    # The class starts with codes within 1/64 of zero, which all decode to the same image.
    model.quantize.embedding.weight.data.normal_()
    return model


def tiny_kl(**overrides: Any):
    """AutoencoderKL with factor 4, 4 latent channels."""
    from diffusers import AutoencoderKL

    fields = {
        "block_out_channels": (8, 16, 16), "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3, "latent_channels": 4, "norm_num_groups": 8,
        "sample_size": 32, "scaling_factor": 0.18215,
    }  # fmt: skip
    return AutoencoderKL(**fields | overrides)


def tiny_unet(directory: Path, scheduler: Any = None, **overrides: Any) -> Path:
    """Unconditional pixel U-Net, 3x16x16, a DDPM pipeline."""
    with fixed_weights():
        unet = tiny_unet2d(**overrides)
    return save_pipeline(
        directory, "DDPMPipeline", {"unet": unet, "scheduler": scheduler or ddim_scheduler()}
    )


def tiny_class_unet(directory: Path, num_classes: int = 5, labels: dict[str, str] | None = None) -> Path:
    """Class-conditional pixel U-Net, 3x16x16."""
    with fixed_weights():
        unet = tiny_unet2d(num_class_embeds=num_classes)
    extra = {} if labels is None else {"id2label": labels}
    return save_pipeline(directory, "DDPMPipeline", {"unet": unet, "scheduler": ddim_scheduler()}, extra)


def tiny_ldm(directory: Path) -> Path:
    """Unconditional latent U-Net, 3x8x8, with a VQ autoencoder: images of 32x32."""
    with fixed_weights():
        parts = {"unet": tiny_unet2d(sample_size=8), "vqvae": tiny_vq()}
    return save_pipeline(directory, "LDMPipeline", parts | {"scheduler": ddim_scheduler(**LDM_SCHEDULER)})


def tiny_dit(directory: Path, **overrides: Any) -> Path:
    """Class-conditional latent transformer, 4x8x8, 10 classes, learned variance, a KL autoencoder: 32x32."""
    from diffusers import DiTTransformer2DModel

    fields = {
        "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 8, "num_layers": 2,
        "sample_size": 8, "patch_size": 2, "num_embeds_ada_norm": len(DIT_LABELS),
    }  # fmt: skip
    with fixed_weights():
        parts = {"transformer": DiTTransformer2DModel(**fields | overrides), "vae": tiny_kl()}
    labels = {"id2label": {str(i): name for i, name in enumerate(DIT_LABELS)}}
    return save_pipeline(
        directory, "DiTPipeline", parts | {"scheduler": ddim_scheduler(**DIT_SCHEDULER)}, labels
    )
