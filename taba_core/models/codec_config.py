"""What an autoencoder's `config.json` says about the latents it stores, and whether a card agrees. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from math import isclose
from pathlib import Path
from typing import Any

from taba_core.errors import UsageError
from taba_core.models.cards import Card
from taba_core.models.corrections import correction
from taba_core.models.json_file import read_json

# Defaults of diffusers' classes.
_CHANNELS = {"VQModel": 3, "AutoencoderKL": 4}
_KL_SCALING = 0.18215


def codec_folder(directory: Path) -> Path | None:
    """The folder of a pipeline directory's autoencoder, None for a pixel model."""
    return next((directory / name for name in ("vqvae", "vae") if (directory / name).is_dir()), None)


def latent_channels(config: Mapping[str, Any]) -> int:
    """Channels of the latents: those of the codes for a VQ autoencoder."""
    default = _CHANNELS.get(str(config.get("_class_name")), _CHANNELS["AutoencoderKL"])
    return int(config.get("vq_embed_dim") or config.get("latent_channels", default))


def enlargement(config: Mapping[str, Any]) -> int:
    """Pixels of a side that one latent position stands for."""
    return int(2 ** (len(config.get("block_out_channels", (64,))) - 1))


def scaling_factor(config: Mapping[str, Any]) -> float:
    """The factor that the file states. Silent files mean the original's: 1 for VQ (LDM), 0.18215 for KL."""
    silent = 1.0 if config.get("_class_name") == "VQModel" else _KL_SCALING
    return float(config.get("scaling_factor", silent))


def shift_factor(config: Mapping[str, Any]) -> float:
    """What is taken off the encoder's output before it is scaled; 0 where the file states none."""
    return float(config.get("shift_factor") or 0.0)


def latent_statistics(config: Mapping[str, Any]) -> tuple[list[float], list[float]] | None:
    """(mean, standard deviation) of each channel of the encoder's latents, None if the latents are not centred.

    Raises:
      ValueError: one of the two without the other, another number of them than of channels, or a standard
        deviation that is not positive.
    """
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None and std is None:
        return None
    count = latent_channels(config)
    if mean is None or std is None or len(mean) != count or len(std) != count or not min(std) > 0:
        raise ValueError(
            f"latents_mean={mean}, latents_std={std}: both must list {count} numbers, one for each channel, those of "
            "latents_std positive; or both must be null"
        )
    return [float(value) for value in mean], [float(value) for value in std]


def check_codec(card: Card, directory: Path) -> None:
    """Refuse an autoencoder whose latents are not those of the card. A directory without one passes.

    Raises:
      UsageError: other channels, another enlargement, another scaling or shift, or impossible statistics.
    """
    folder = codec_folder(directory)
    if card.domain == "pixel" or folder is None or not (folder / "config.json").is_file():
        return
    config = read_json(folder / "config.json")
    _check_statistics(folder, config)
    channels, height = card.sample_shape[:2]
    if latent_channels(config) != channels:
        raise UsageError(
            f"{folder} has latents of {latent_channels(config)} channels and the card of {card.name} has states of "
            f"{channels}. Use the card's weights, or the directory by itself: --model {directory}."
        )
    size = enlargement(config) * height
    # The other families run at any size, and the image's is what comes out.
    if card.conditional == "text" and size != card.image_size:
        raise UsageError(
            f"{folder} enlarges {enlargement(config)} times, so latents of {height} make images of {size}; the card "
            f"says {card.image_size}. {correction(card, directory, f'image_size: {size}')}."
        )
    silent = config.get("_class_name") == "VQModel" and "scaling_factor" not in config
    stated = scaling_factor(config)
    if not silent and not isclose(stated, card.scaling_factor, rel_tol=1e-6):
        raise UsageError(
            f"{folder} states scaling_factor={stated:g} and the card {card.scaling_factor:g}; latents would "
            f"be of another size than the network knows. {correction(card, directory, f'scaling_factor: {stated:g}')}; "
            "or correct the file if it is wrong."
        )
    _check_shift(card, directory, folder, config)


def _check_shift(card: Card, directory: Path, folder: Path, config: Mapping[str, Any]) -> None:
    if card.family in ("sd3", "flux") and not isinstance(config.get("shift_factor"), int | float):
        raise UsageError(
            f"{folder}/config.json states shift_factor={config.get('shift_factor')}; the latents of {card.title} are "
            "shifted, and without the number they would be others. Fetch the directory again."
        )
    stated = shift_factor(config)
    if not isclose(stated, card.shift_factor, rel_tol=1e-6, abs_tol=1e-9):
        raise UsageError(
            f"{folder} states shift_factor={stated:g} and the card {card.shift_factor:g}; latents would be others than "
            f"the network knows. {correction(card, directory, f'shift_factor: {stated:g}')}; or correct the file if it "
            "is wrong."
        )


def _check_statistics(folder: Path, config: Mapping[str, Any]) -> None:
    path = folder / "config.json"
    try:
        latent_statistics(config)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}: {error}. Correct the file.") from None
    inside, outside = config.get("in_channels", 3), config.get("out_channels", 3)
    if inside != outside:
        raise UsageError(
            f"{path}: in_channels={inside}, out_channels={outside}; an image must come out of the autoencoder with the "
            "channels it went in with. Use a model whose autoencoder does."
        )
