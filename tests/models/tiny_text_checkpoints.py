"""Tiny text-conditional pipelines with random weights, saved in the hub's layout: DeepFloyd IF, SD, SDXL.

Tokenizers are as published: CLIP as vocab.json and merges.txt, T5 as a SentencePiece file only.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import torch
from transformers.convert_slow_tokenizer import import_protobuf

from taba_core.models.cards import Card
from taba_core.models.catalog import load_card

WORDS = ("▁a", "▁red", "▁boat", "▁cat", "▁the", "▁on", "▁white", "▁horse", "ing", "s")
LETTERS = "abcdefghijklmnopqrstuvwxyzéA.,'"
T5_WIDTH, CLIP_WIDTHS, POOLED_WIDTH = 24, (16, 24), 12
SDXL_BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def tiny_card(name: str, **fields) -> Card:
    """The card of if, sdxl or sd with a state of 8 x 8."""
    base = load_card("if" if name == "if" else "sdxl")
    small = {
        "if": {"sample_shape": (3, 8, 8), "image_size": 8},
        "sdxl": {"sample_shape": (4, 8, 8), "image_size": 16},
        "sd": {
            "name": "sd",
            "title": "SD",
            "family": "sd",
            "sample_shape": (4, 8, 8),
            "image_size": 16,
            "precision": "fp32",
            "scaling_factor": 0.18215,
        },
    }[name]
    return base.model_copy(update=small | fields)


def save_tiny_if(directory: Path, **unet_fields) -> Path:
    """Stage I: six output channels, T5 of width 24."""
    from diffusers import UNet2DConditionModel
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(1)
    config = {
        "sample_size": 8,
        "in_channels": 3,
        "out_channels": 6,
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "act_fn": "gelu",
        "attention_head_dim": 8,
        "cross_attention_dim": 16,
        "encoder_hid_dim": T5_WIDTH,
        "encoder_hid_dim_type": "text_proj",
        "resnet_time_scale_shift": "scale_shift",
    }
    UNet2DConditionModel(**config | unet_fields).save_pretrained(directory / "unet")
    text = T5Config(
        vocab_size=80,
        d_model=T5_WIDTH,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=3,
        feed_forward_proj="gated-gelu",
    )
    T5EncoderModel(text).save_pretrained(directory / "text_encoder")
    save_sentencepiece(directory / "tokenizer")
    save_scheduler(
        directory,
        "DDPMScheduler",
        beta_schedule="squaredcos_cap_v2",
        clip_sample=True,
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.5,
        variance_type="learned_range",
    )
    save_index(directory, "IFPipeline", T5_only=True)
    return directory


def save_tiny_sdxl(directory: Path) -> Path:
    """SDXL: two CLIP encoders of widths 16 and 24, pooled width 12, VAE of factor 2."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(2)
    UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        cross_attention_dim=sum(CLIP_WIDTHS),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + POOLED_WIDTH,
    ).save_pretrained(directory / "unet")
    CLIPTextModel(clip_config(CLIP_WIDTHS[0])).save_pretrained(directory / "text_encoder")
    CLIPTextModelWithProjection(clip_config(CLIP_WIDTHS[1])).save_pretrained(directory / "text_encoder_2")
    save_clip_tokenizer(directory / "tokenizer", pad_token="<|endoftext|>")
    save_clip_tokenizer(directory / "tokenizer_2", pad_token="!")
    save_vae(directory / "vae", scaling_factor=0.13025)
    save_scheduler(directory, "EulerDiscreteScheduler", steps_offset=1, **SDXL_BETAS)
    save_index(directory, "StableDiffusionXLPipeline")
    return directory


def save_tiny_sd(directory: Path) -> Path:
    """SD 1.x: one CLIP encoder of width 16, VAE of factor 2."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    torch.manual_seed(3)
    UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=2,
        cross_attention_dim=CLIP_WIDTHS[0],
    ).save_pretrained(directory / "unet")
    CLIPTextModel(clip_config(CLIP_WIDTHS[0])).save_pretrained(directory / "text_encoder")
    save_clip_tokenizer(directory / "tokenizer", pad_token="<|endoftext|>")
    save_vae(directory / "vae", scaling_factor=0.18215)
    save_scheduler(directory, "PNDMScheduler", steps_offset=1, skip_prk_steps=True, **SDXL_BETAS)
    save_index(directory, "StableDiffusionPipeline")
    return directory


def clip_config(width: int):
    from transformers import CLIPTextConfig

    vocabulary = clip_vocabulary()
    return CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        projection_dim=POOLED_WIDTH,
        bos_token_id=len(vocabulary) - 2,
        eos_token_id=2,  # as published: the end token is taken to be the largest id
        pad_token_id=len(vocabulary) - 1,
    )


@cache
def clip_vocabulary() -> tuple[str, ...]:
    """All bytes, all bytes at a word's end, two merges, start and end: the layout of CLIP's own 49,408."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = ["!", *sorted(set(ByteLevel.alphabet()) - {"!"})]
    ends = [letter + "</w>" for letter in letters]
    return (*letters, *ends, "th", "the</w>", "<|startoftext|>", "<|endoftext|>")


def save_clip_tokenizer(directory: Path, *, pad_token: str) -> None:
    directory.mkdir(parents=True)
    vocabulary = {token: index for index, token in enumerate(clip_vocabulary())}
    (directory / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (directory / "merges.txt").write_text("#version: 0.2\nt h\nth e</w>\n", encoding="utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": pad_token,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def sentencepiece_pieces() -> list[tuple[str, float, int]]:
    """(piece, score, type) in the order of T5's file: pad, end, unknown, then text."""
    special = [("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<unk>", 0.0, 2), ("▁", -3.0, 1)]
    words = [(word, -2.0 - 0.1 * index, 1) for index, word in enumerate(WORDS)]
    return [*special, *words, *((letter, -6.0, 1) for letter in LETTERS)]


def save_sentencepiece(directory: Path, *, charsmap: bytes = b"") -> None:
    directory.mkdir(parents=True, exist_ok=True)
    proto = import_protobuf().ModelProto()
    for piece, score, kind in sentencepiece_pieces():
        proto.pieces.add(piece=piece, score=score, type=kind)
    proto.trainer_spec.model_type = 1
    proto.normalizer_spec.precompiled_charsmap = charsmap
    (directory / "spiece.model").write_bytes(proto.SerializeToString())
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}', encoding="utf-8")


def save_vae(directory: Path, *, scaling_factor: float) -> None:
    from diffusers import AutoencoderKL

    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
        scaling_factor=scaling_factor,
    ).save_pretrained(directory)


def save_scheduler(directory: Path, kind: str, **fields) -> None:
    (directory / "scheduler").mkdir(parents=True, exist_ok=True)
    config = {"_class_name": kind, "num_train_timesteps": 1000, "prediction_type": "epsilon"} | fields
    (directory / "scheduler" / "scheduler_config.json").write_text(json.dumps(config), encoding="utf-8")


def save_index(directory: Path, pipeline: str, *, T5_only: bool = False) -> None:
    encoder = "T5EncoderModel" if T5_only else "CLIPTextModel"
    index = {
        "_class_name": pipeline,
        "text_encoder": ["transformers", encoder],
        "tokenizer": ["transformers", "T5Tokenizer" if T5_only else "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
    }
    if not T5_only:
        index["vae"] = ["diffusers", "AutoencoderKL"]
    if "XL" in pipeline:
        index["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
        index["tokenizer_2"] = ["transformers", "CLIPTokenizer"]
    (directory / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
