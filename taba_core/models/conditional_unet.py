"""Text-conditional U-Nets of pipeline directories (diffusers `UNet2DConditionModel`): loading and checks.

What Stable Diffusion and DeepFloyd IF share; how each calls its network is in its own module.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from taba_core.errors import UsageError
from taba_core.models.cards import Card
from taba_core.models.component import load_component
from taba_core.models.pipeline_dir import check_shape
from taba_core.models.profile import Profile

# Axes: B samples in a batch, C channels, H rows, W columns.


def pipeline_directory(card: Card, source: Path | None) -> Path:
    """The directory of a card's pipeline, in the hub's layout.

    Raises:
      UsageError: none was given (the message says what to fetch and which licence to accept first), or it is a
        file or does not exist.
    """
    if source is None:
        weights = card.weights
        page = weights.licence_page or f"https://huggingface.co/{weights.location}"
        licence = f"accept the licence at {page} and set HF_TOKEN, then " if weights.gated else ""
        raise UsageError(
            f"weights of {card.title} are not here: {licence}run `taba fetch {card.name}` on a machine with "
            "internet, or give --weights DIRECTORY."
        )
    if not source.is_dir():
        what = "is a file" if source.exists() else "does not exist"
        raise UsageError(
            f"{source} {what}; the weights of {card.title} are a directory in the hub's layout, with model_index.json "
            "and a folder for each component (unet or transformer, text_encoder, tokenizer, scheduler)."
        )
    return source


def load_conditional_unet(card: Card, directory: Path, *, profile: Profile) -> Any:
    """The U-Net of a pipeline directory in the profile's precision, on the CPU, checked against the card.

    Raises:
      UsageError: the directory does not hold it, or its channels are not the card's.
    """
    from diffusers import UNet2DConditionModel

    unet = load_component(UNet2DConditionModel, directory / "unet", profile.loading_dtype(card.precision))
    check_shape(card, directory / "unet", unet.config)
    return unet


def check_width(card: Card, directory: Path, what: str, *, reads: int | None, makes: int) -> None:
    """The widths a network reads and its text encoder makes must agree. Raises UsageError if not."""
    if reads != makes:
        raise UsageError(
            f"{directory}: the network of {card.title} reads {what} of width {reads} and the text encoder makes "
            f"{makes}: the components are not of one model. Fetch the directory again."
        )


def condition(card: Card, cond: Mapping[str, Tensor], key: str) -> Tensor:
    """One entry of the conditioning. Raises UsageError if it is missing."""
    if key not in cond:
        given = ", ".join(sorted(cond)) or "nothing"
        raise UsageError(
            f"{card.title} is conditioned by text: cond['{key}'] is missing, given is {given}. "
            "Use cond = model.text.encode(prompts), one prompt a sample."
        )
    return cond[key]
