"""DiT, the class-conditional latent transformer (Peebles & Xie 2023; facebook/DiT-XL-2-256)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from taba_core.errors import UsageError
from taba_core.models.cards import Card
from taba_core.models.component import load_component
from taba_core.models.corrections import correction
from taba_core.models.imagenet import class_names
from taba_core.models.network import Network, Predict
from taba_core.models.pipeline_dir import check_directory, check_shape, class_names_of
from taba_core.models.profile import Profile
from taba_core.models.unet import check_conditioning, class_labels, load_codec, pipeline_directory

# Axes: B samples in a batch, C channels, H rows, W columns.


def load(card: Card, source: Path | None, *, device: str, profile: Profile) -> Network:
    """Load a DiTTransformer2DModel and its autoencoder.

    The null class of guidance is the embedding after those of the classes, and is never drawn. Second norm and
    time sinusoid are diffusers' (eps 1e-5, frequency shift 1), which differ from the original's in the last
    digits; the paper's numbers were made with them.

    Args:
      card: schedule, shape, prediction and scaling factor.
      source: a directory in the hub's layout (`transformer/`, `vae/`, `scheduler/`).
      device: cpu, cuda or cuda:N.
      profile: numerical profile.

    Raises:
      UsageError: an incomplete directory, or one that contradicts the card.
    """
    from diffusers import DiTTransformer2DModel

    directory = pipeline_directory(card, source)
    check_directory(card, directory)
    check_conditioning(card, directory, "class")
    folder = directory / "transformer"
    transformer = load_component(DiTTransformer2DModel, folder, profile.loading_dtype(card.precision))
    check_shape(card, folder, transformer.config)
    _check_size(card, folder, transformer.config)
    capacity = int(transformer.config["num_embeds_ada_norm"])
    names = class_names_of(directory, capacity, fallback=class_names())
    return Network.of_card(
        card,
        _predict(profile.prepare(transformer, card.precision, device), len(names), capacity),
        device=device,
        profile=profile,
        class_names=names,
        codec=load_codec(card, directory, device=device, profile=profile),
        null_class=capacity,
    )


def _predict(transformer: Callable[..., Any], num_classes: int, null_class: int) -> Predict:
    def predict(x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        labels = class_labels(cond, num_classes, null_class)
        output: Tensor = transformer(x, timestep=t, class_labels=labels, return_dict=False)[0]
        return output

    return predict


def _check_size(card: Card, folder: Path, config: Mapping[str, Any]) -> None:
    # Unlike a U-Net, a transformer has position embeddings for one size.
    size = config["sample_size"]
    if card.sample_shape[1:] != (size, size):
        raise UsageError(
            f"{folder}/config.json: sample_size={size}; the card of {card.name} has states of "
            f"{card.sample_shape[1]} x {card.sample_shape[2]}. "
            f"{correction(card, folder.parent, f'sample_shape: [{card.sample_shape[0]}, {size}, {size}]')}."
        )
