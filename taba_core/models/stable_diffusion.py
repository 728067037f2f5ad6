"""Stable Diffusion 1.x (Rombach et al. 2022) and SDXL base (Podell et al. 2023): latent U-Nets conditioned by CLIP.

Both decode with a KL autoencoder in float32, whatever the profile (SDXL's overflows in half precision).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taba_core.errors import UsageError
from taba_core.models.cards import Card
from taba_core.models.codec import KLCodec, load_kl_codec
from taba_core.models.conditional_unet import (
    check_width,
    condition,
    load_conditional_unet,
    pipeline_directory,
)
from taba_core.models.network import Network, Predict
from taba_core.models.pipeline_dir import check_directory
from taba_core.models.profile import Profile
from taba_core.models.text import load_clip_encoder, load_clip_pair_encoder

# Axes: B samples in a batch, C = 4 channels, H rows, W columns of the latent; L = 77 tokens of width D.


def load(card: Card, source: Path | None, *, device: str, profile: Profile) -> Network:
    """A Stable Diffusion network of family sd or sdxl with its codec and text encoder.

    `cond` is `network.text.encode(prompts)`: prompt_embeds (B, L, D), for SDXL also pooled (B, P) and
    time_ids (B, 6).

    Args:
      card: a card of family sd or sdxl.
      source: the pipeline's directory in the hub's layout.
      device: cpu, cuda or cuda:N.
      profile: numerical profile; `reference` is half weights for SDXL, and the state stays float32.
    Raises:
      UsageError: no such directory, components that are missing or of another model, or a scheduler that
        contradicts the card.
    """
    directory = pipeline_directory(card, source)
    check_directory(card, directory)
    unet = load_conditional_unet(card, directory, profile=profile)
    # Float32, whatever the profile.
    codec = load_kl_codec(directory / "vae", card.scaling_factor, device=device, dtype=torch.float32)
    if card.family == "sdxl":
        return _sdxl(card, directory, unet, codec, device=device, profile=profile)
    return _sd(card, directory, unet, codec, device=device, profile=profile)


def _sd(card: Card, directory: Path, unet: Any, codec: KLCodec, *, device: str, profile: Profile) -> Network:
    text = load_clip_encoder(directory, card, device=device, profile=profile)
    read = unet.config.cross_attention_dim
    check_width(card, directory, "prompt_embeds", reads=read, makes=text.embedding_width)
    unet = profile.prepare(unet, card.precision, device)

    def predict_with(unet: Any) -> Predict:
        def predict(x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
            embeds = condition(card, cond, "prompt_embeds")
            return unet(x, t, encoder_hidden_states=embeds, return_dict=False)[0]

        return predict

    network = Network.of_card(
        card, predict_with(unet), device=device, profile=profile, codec=codec, text=text
    )
    return replace(network, unet=(unet, predict_with))


def _sdxl(
    card: Card, directory: Path, unet: Any, codec: KLCodec, *, device: str, profile: Profile
) -> Network:
    if unet.config.addition_embed_type != "text_time":
        raise UsageError(
            f"{directory / 'unet'} is no SDXL network: its addition_embed_type is "
            f"{unet.config.addition_embed_type}, not text_time. Use the weights of {card.title}, or the directory by "
            f"itself: --model {directory}."
        )
    text = load_clip_pair_encoder(directory, card, device=device, profile=profile)
    read = unet.config.cross_attention_dim
    check_width(card, directory, "prompt_embeds", reads=read, makes=text.embedding_width)
    # The network embeds the six sizes one by one and reads them behind the pooled embedding.
    pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
    check_width(card, directory, "the pooled embedding", reads=pooled, makes=text.pooled_width)
    unet = profile.prepare(unet, card.precision, device)

    def predict_with(unet: Any) -> Predict:
        def predict(x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
            embeds, pooled, time_ids = (
                condition(card, cond, k) for k in ("prompt_embeds", "pooled", "time_ids")
            )
            added = {"text_embeds": pooled, "time_ids": time_ids}
            return unet(x, t, encoder_hidden_states=embeds, added_cond_kwargs=added, return_dict=False)[0]

        return predict

    network = Network.of_card(
        card, predict_with(unet), device=device, profile=profile, codec=codec, text=text
    )
    return replace(network, unet=(unet, predict_with))
