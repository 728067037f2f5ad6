"""Stable Diffusion 3 and 3.5 (Esser et al. 2024): latent flows of a transformer that reads image and text together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taba_core.models.cards import Card
from taba_core.models.codec import load_kl_codec
from taba_core.models.component import load_component
from taba_core.models.conditional_unet import condition, pipeline_directory
from taba_core.models.flow_text import check_text_widths, load_sd3_encoder
from taba_core.models.network import Network, Predict
from taba_core.models.pipeline_dir import check_directory, check_shape
from taba_core.models.profile import Profile

# Axes: B samples in a batch, C = 16 channels, H rows, W columns of the latent; L tokens of width D.


def load(card: Card, source: Path | None, *, device: str, profile: Profile) -> Network:
    """An SD3Transformer2DModel with its autoencoder, which computes in float32 whatever the profile, and encoders.

    `cond` is `network.text.encode(prompts)`: prompt_embeds (B, L, D) and pooled (B, P).

    Args:
      card: a card of family sd3.
      source: the pipeline's directory in the hub's layout; T5 may be missing.
      device: cpu, cuda or cuda:N.
      profile: numerical profile.

    Raises:
      UsageError: no such directory, components that are missing or of another model, or a scheduler that
        contradicts the card.
    """
    from diffusers import SD3Transformer2DModel

    directory = pipeline_directory(card, source)
    check_directory(card, directory)
    folder = directory / "transformer"
    transformer = load_component(SD3Transformer2DModel, folder, profile.loading_dtype(card.precision))
    config = transformer.config
    check_shape(card, folder, config)
    width = int(config["joint_attention_dim"])
    text = load_sd3_encoder(directory, card, width=width, device=device, profile=profile)
    check_text_widths(card, directory, config, text)
    codec = load_kl_codec(
        directory / "vae", card.scaling_factor, device=device, dtype=torch.float32, shift=card.shift_factor
    )
    predict = predict_with(card, profile.prepare(transformer, card.precision, device))
    return Network.of_card(card, predict, device=device, profile=profile, codec=codec, text=text)


def predict_with(card: Card, transformer: Any) -> Predict:
    """The velocity eps - x_0 of a prepared transformer, (B, C, H, W), at times 1000 s."""

    def predict(x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        velocity: Tensor = transformer(
            x,
            timestep=t,
            encoder_hidden_states=condition(card, cond, "prompt_embeds"),
            pooled_projections=condition(card, cond, "pooled"),
            return_dict=False,
        )[0]
        return velocity

    return predict
