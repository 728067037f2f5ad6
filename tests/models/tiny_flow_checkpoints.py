"""Tiny flows that read text, with random weights, saved in the hub's layout: Stable Diffusion 3 and FLUX.1.

Transformers in several files, tokenizers and encoders as published, autoencoders of 16 channels with a shift.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tiny_checkpoints import fixed_weights
from tiny_text_checkpoints import clip_config, save_clip_tokenizer, save_sentencepiece

T5_WIDTH, POOLED_WIDTH = 48, 12  # CLIP's width in `clip_config` is chosen; its projection has 12
CLIP_WIDTHS = (16, 24)
CHANNELS, FACTOR = 16, 4
SHARDS = "20KB"


def save_tiny_sd3(directory: Path, *, t5: bool = True, **transformer: Any) -> Path:
    """SD3.5-like: states of 8 x 8, images of 32 x 32, dual attention in the first layer, norms of queries and keys.

    Args:
      t5: whether the pipeline has the third encoder.
      transformer: fields of the transformer.
    """
    from diffusers import SD3Transformer2DModel
    from transformers import CLIPTextModelWithProjection

    fields = {
        "sample_size": 8, "patch_size": 2, "in_channels": CHANNELS, "out_channels": CHANNELS, "num_layers": 2,
        "attention_head_dim": 8, "num_attention_heads": 4, "caption_projection_dim": 32,
        "joint_attention_dim": T5_WIDTH, "pooled_projection_dim": 2 * POOLED_WIDTH, "pos_embed_max_size": 8,
        "dual_attention_layers": (0,), "qk_norm": "rms_norm",
    }  # fmt: skip
    with fixed_weights(7):
        model = SD3Transformer2DModel(**fields | transformer)
        model.save_pretrained(directory / "transformer", max_shard_size=SHARDS)
        for number, width in zip(("", "_2"), CLIP_WIDTHS, strict=True):
            network = CLIPTextModelWithProjection(clip_config(width))
            network.save_pretrained(directory / f"text_encoder{number}")
        save_clip_tokenizer(directory / "tokenizer", pad_token="<|endoftext|>")
        save_clip_tokenizer(directory / "tokenizer_2", pad_token="!")
        if t5:
            _save_t5(directory, "_3")
        _save_vae(directory / "vae", scaling_factor=1.5305, shift_factor=0.0609)
    third = {
        "text_encoder_3": ["transformers", "T5EncoderModel"] if t5 else [None, None],
        "tokenizer_3": ["transformers", "T5TokenizerFast"] if t5 else [None, None],
    }
    _save_index(
        directory,
        "StableDiffusion3Pipeline",
        text_encoder=["transformers", "CLIPTextModelWithProjection"],
        text_encoder_2=["transformers", "CLIPTextModelWithProjection"],
        tokenizer_2=["transformers", "CLIPTokenizer"],
        transformer=["diffusers", "SD3Transformer2DModel"],
        image_encoder=[None, None],
        feature_extractor=[None, None],
        **third,
    )
    save_flow_scheduler(directory, shift=3.0)
    return directory


def save_tiny_flux(directory: Path, *, guidance: bool = True, **transformer: Any) -> Path:
    """FLUX.1 [dev], or [schnell] without guidance; its directory says no size of a state, so see `flux_card`."""
    from diffusers import FluxTransformer2DModel
    from transformers import CLIPTextModel

    fields = {
        "patch_size": 1, "in_channels": 4 * CHANNELS, "num_layers": 1, "num_single_layers": 1,
        "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": T5_WIDTH,
        "pooled_projection_dim": CLIP_WIDTHS[0], "guidance_embeds": guidance, "axes_dims_rope": (4, 4, 8),
    }  # fmt: skip
    with fixed_weights(8):
        model = FluxTransformer2DModel(**fields | transformer)
        model.save_pretrained(directory / "transformer", max_shard_size=SHARDS)
        CLIPTextModel(clip_config(CLIP_WIDTHS[0])).save_pretrained(directory / "text_encoder")
        save_clip_tokenizer(directory / "tokenizer", pad_token="<|endoftext|>")
        _save_t5(directory, "_2")
        _save_vae(directory / "vae", scaling_factor=0.3611, shift_factor=0.1159)
    _save_index(
        directory,
        "FluxPipeline",
        text_encoder=["transformers", "CLIPTextModel"],
        text_encoder_2=["transformers", "T5EncoderModel"],
        tokenizer_2=["transformers", "T5TokenizerFast"],
        transformer=["diffusers", "FluxTransformer2DModel"],
        image_encoder=[None, None],
        feature_extractor=[None, None],
    )
    dynamic = {
        "base_image_seq_len": 256, "base_shift": 0.5, "max_image_seq_len": 4096, "max_shift": 1.15, "shift": 3.0,
        "use_dynamic_shifting": True,
    }  # fmt: skip
    save_flow_scheduler(directory, **dynamic if guidance else {"shift": 1.0, "use_dynamic_shifting": False})
    return directory


def flux_card(
    directory: Path,
    shape: tuple[int, int, int] = (CHANNELS, 8, 8),
    *,
    folder: Path | None = None,
    **fields: Any,
) -> Path:
    """A card of states of another size than 1024 pixels, in a folder or beside the directory that it extends."""
    stated = {
        "extends": str(directory),
        "sample_shape": list(shape),
        "image_size": FACTOR * shape[1],
        **fields,
    }
    path = (folder or directory.parent) / f"{directory.name}-small.yaml"
    path.write_text(json.dumps(stated), encoding="utf-8")
    return path


def module_of(model: Any) -> torch.nn.Module:
    """The torch module that a network of a flow calls."""
    cells = (cell.cell_contents for cell in model.output.__closure__)
    return next(content for content in cells if isinstance(content, torch.nn.Module))


def save_flow_scheduler(directory: Path, **fields: Any) -> None:
    path = directory / "scheduler" / "scheduler_config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
    path.write_text(json.dumps(config | fields), encoding="utf-8")


def _save_t5(directory: Path, number: str) -> None:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=80, d_model=T5_WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=3, feed_forward_proj="gated-gelu"
    )  # fmt: skip
    T5EncoderModel(config).save_pretrained(directory / f"text_encoder{number}", max_shard_size=SHARDS)
    save_sentencepiece(directory / f"tokenizer{number}")


def _save_vae(directory: Path, **fields: float) -> None:
    from diffusers import AutoencoderKL

    levels = 3
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(4, 4, 4),
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        **fields,
    ).save_pretrained(directory)


def _save_index(directory: Path, pipeline: str, **components: list[str | None]) -> None:
    index = {
        "_class_name": pipeline,
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    }
    (directory / "model_index.json").write_text(json.dumps(index | components), encoding="utf-8")
