"""DeepFloyd IF, stage I: a pixel U-Net of 64 x 64 images conditioned by T5 (Saharia et al. 2022; DeepFloyd 2023).

The card holds its conventions: dynamic thresholding of x_0 when sampling, clipping when inverting. Of the six
output channels the last three are the learned variance, which DDIM does not use; Network drops them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from taba_core.models.cards import Card
from taba_core.models.conditional_unet import (
    check_width,
    condition,
    load_conditional_unet,
    pipeline_directory,
)
from taba_core.models.network import Network
from taba_core.models.pipeline_dir import check_directory
from taba_core.models.profile import Profile
from taba_core.models.text import load_t5_encoder

# Axes: B samples in a batch, C = 3 channels, H rows, W columns; L = 77 tokens of width D.


def load(card: Card, source: Path | None, *, device: str, profile: Profile) -> Network:
    """Stage I with its T5 encoder; no codec. `cond` is `network.text.encode(prompts)`: prompt_embeds (B, L, D).

    Args:
      card: a card of family if.
      source: the pipeline's directory in the hub's layout.
      device: cpu, cuda or cuda:N.
      profile: numerical profile; `reference` is half weights, and the state stays float32.
    Raises:
      UsageError: no such directory, components that are missing or of another model, or a scheduler that
        contradicts the card.
    """
    directory = pipeline_directory(card, source)
    check_directory(card, directory)
    unet = load_conditional_unet(card, directory, profile=profile)
    text = load_t5_encoder(directory, card, device=device, profile=profile)
    read = unet.config.encoder_hid_dim or unet.config.cross_attention_dim
    check_width(card, directory, "prompt_embeds", reads=read, makes=text.embedding_width)
    unet = profile.prepare(unet, card.precision, device)

    def predict(x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        embeds = condition(card, cond, "prompt_embeds")
        return unet(x, t, encoder_hidden_states=embeds, return_dict=False)[0]

    return Network.of_card(card, predict, device=device, profile=profile, text=text)
