"""FLUX.1 [dev] and [schnell] (Black Forest Labs 2024): latent flows of a transformer over packed latents.

States, stores and statistics have latents (C, H, W); the network alone sees them packed. [dev] was distilled under
guidance: it is given w and makes one guided prediction, so inverting at another w inverts another flow, and both
directions have the card's `distilled_guidance`. [schnell] is given none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from taba_core.models.cards import Card
from taba_core.models.codec import load_kl_codec
from taba_core.models.component import load_component
from taba_core.models.conditional_unet import condition, pipeline_directory
from taba_core.models.flow_patches import PATCH
from taba_core.models.flow_text import check_text_widths, load_flux_encoder
from taba_core.models.network import Network, Predict
from taba_core.models.null_condition import why_no_null_condition
from taba_core.models.pipeline_dir import check_directory
from taba_core.models.profile import Profile

# Axes: B samples in a batch, C = 16 channels, H rows, W columns of the latent; n = H/2 * W/2 tokens of the image, L of
# the text, of width D.

_TIMES = 1000.0  # the network's own time is s, and it multiplies it by so much itself


def load(card: Card, source: Path | None, *, device: str, profile: Profile) -> Network:
    """A FluxTransformer2DModel with its autoencoder, which computes in float32 whatever the profile, and encoders.

    `cond` is `network.text.encode(prompts)`: prompt_embeds (B, L, D) and pooled (B, P).

    Args:
      card: a card of family flux.
      source: the pipeline's directory in the hub's layout.
      device: cpu, cuda or cuda:N.
      profile: numerical profile; in 16 bits the network rounds its time and guidance to them, as published images
        were made.

    Raises:
      UsageError: no such directory, components that are missing or of another model, or a scheduler that
        contradicts the card.
    """
    from diffusers import FluxTransformer2DModel

    directory = pipeline_directory(card, source)
    check_directory(card, directory)
    folder = directory / "transformer"
    transformer = load_component(FluxTransformer2DModel, folder, profile.loading_dtype(card.precision))
    config = transformer.config
    text = load_flux_encoder(
        directory, card, why_no_null=why_no_null_condition(card), device=device, profile=profile
    )
    check_text_widths(card, directory, config, text)
    codec = load_kl_codec(
        directory / "vae", card.scaling_factor, device=device, dtype=torch.float32, shift=card.shift_factor
    )
    network = profile.prepare(FluxOnLatents(transformer), card.precision, device)
    predict = predict_with(card, network)
    return Network.of_card(card, predict, device=device, profile=profile, codec=codec, text=text)


def predict_with(card: Card, network: Any) -> Predict:
    """The velocity eps - x_0 of a prepared `FluxOnLatents`, (B, C, H, W), at times 1000 s."""

    def predict(x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        velocity: Tensor = network(
            x,
            timestep=t,
            encoder_hidden_states=condition(card, cond, "prompt_embeds"),
            pooled_projections=condition(card, cond, "pooled"),
            guidance=None if card.distilled_guidance is None else torch.full_like(t, card.distilled_guidance),
            return_dict=False,
        )[0]
        return velocity

    return predict


class FluxOnLatents(nn.Module):
    """A FluxTransformer2DModel that takes and returns latents as they are.

    Args:
      transformer: of packed latents.
    """

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        dtype: torch.dtype = self.transformer.dtype
        return dtype

    def forward(self, x: Tensor, timestep: Tensor, **inputs: Any) -> tuple[Tensor]:
        """The velocity of latents x, (B, C, H, W), H and W even.

        Args:
          timestep: 1000 s, (B,).
          inputs: of the transformer, batch-first.
        """
        height, width = x.shape[2] // PATCH, x.shape[3] // PATCH
        places = token_places(height, width, x.device)
        text = places.new_zeros(inputs["encoder_hidden_states"].shape[1], places.shape[1])
        # The publisher's code rounds the time to the type of the state.
        time = timestep.to(x.dtype) / _TIMES
        velocity = self.transformer(pack(x), timestep=time, img_ids=places, txt_ids=text, **inputs)[0]
        return (unpack(velocity, height, width),)

    def compile_repeated_blocks(self, **options: Any) -> None:
        """Compile the transformer's blocks, as diffusers' networks do."""
        self.transformer.compile_repeated_blocks(**options)


def pack(x: Tensor) -> Tensor:
    """Tokens of latents, (B, C, H, W) to (B, n, 4 C): patches of 2 x 2, row by row.

    The numbers of a token are in the order (channel, row, column).
    """
    batch, channels, height, width = x.shape
    patches = x.reshape(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    tokens = (height // PATCH) * (width // PATCH)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, tokens, channels * PATCH**2)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Latents of `height` x `width` tokens: what `pack` undoes, bit for bit."""
    batch, _, size = tokens.shape
    patches = tokens.reshape(batch, height, width, size // PATCH**2, PATCH, PATCH)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(batch, size // PATCH**2, height * PATCH, width * PATCH)


def token_places(height: int, width: int, device: torch.device) -> Tensor:
    """Where the tokens of an image lie, (n, 3) float32: 0, row and column."""
    places = (torch.arange(side, device=device, dtype=torch.float32) for side in (height, width))
    rows, columns = torch.meshgrid(*places, indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3)
