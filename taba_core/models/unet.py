"""Unconditional and class-conditional U-Nets of diffusers (UNet2DModel): LDM, and pipelines of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from taba_core.errors import UsageError
from taba_core.models.cards import Card
from taba_core.models.codec import KLCodec, VQCodec, load_kl_codec, load_vq_codec
from taba_core.models.component import load_component
from taba_core.models.corrections import correction
from taba_core.models.network import Network, Predict
from taba_core.models.pipeline_dir import check_directory, check_shape, class_names_of
from taba_core.models.profile import Profile

# Axes: B samples in a batch, C channels, H rows, W columns.

# Class ids that were looked at: as which version, and beside which classes.
_CHECKED: MutableMapping[Tensor, tuple[int, int, int | None]] = WeakTensorKeyDictionary()


def load(card: Card, source: Path | None, *, device: str, profile: Profile) -> Network:
    """Load a UNet2DModel and, for a latent card, its autoencoder (`vqvae` or `vae`).

    Args:
      card: schedule, shape, prediction and scaling factor.
      source: a directory in the hub's layout (`unet/`, `vqvae/` or `vae/`, `scheduler/`).
      device: cpu, cuda or cuda:N.
      profile: numerical profile.

    Raises:
      UsageError: an incomplete directory, or one that contradicts the card.
    """
    from diffusers import UNet2DModel

    directory = pipeline_directory(card, source)
    check_directory(card, directory)
    unet = load_component(UNet2DModel, directory / "unet", profile.loading_dtype(card.precision))
    check_shape(card, directory / "unet", unet.config)
    names = _class_names(directory, unet.config)
    check_conditioning(card, directory, "class" if names else "none")
    learned_time = _learned_time(card, directory, unet.config)
    return Network.of_card(
        card,
        _predict(profile.prepare(unet, card.precision, device), len(names), learned_time),
        device=device,
        profile=profile,
        class_names=names,
        codec=load_codec(card, directory, device=device, profile=profile),
    )


def pipeline_directory(card: Card, source: Path | None) -> Path:
    """The directory to load from. Raises UsageError if there is none."""
    if source is None or not source.is_dir():
        given = "no weights were given" if source is None else f"{source} is no directory"
        raise UsageError(
            f"{card.name}: {given}; it loads from a diffusers pipeline directory (hub layout). "
            f"Give weights=DIRECTORY, or run `taba fetch {card.name}`."
        )
    return source


def load_codec(card: Card, directory: Path, *, device: str, profile: Profile) -> VQCodec | KLCodec | None:
    """The autoencoder beside a denoiser, scaled as the card says; None for pixel models.

    Raises:
      UsageError: a latent card, and the directory has no autoencoder.
    """
    if card.domain == "pixel":
        return None
    dtype = profile.loading_dtype(card.precision)
    if (directory / "vqvae").is_dir():
        path = directory / "vqvae"
        return load_vq_codec(path, card.scaling_factor, device=device, dtype=dtype, profile=profile)
    if (directory / "vae").is_dir():
        path = directory / "vae"
        return load_kl_codec(path, card.scaling_factor, device=device, dtype=dtype, profile=profile)
    raise UsageError(
        f"{directory} holds no autoencoder (vqvae/ or vae/), and {card.name} is a latent model. "
        "Fetch the whole pipeline directory."
    )


def check_conditioning(card: Card, directory: Path, found: str) -> None:
    """Refuse weights conditioned otherwise than the card says. Raises UsageError."""
    if card.conditional != found:
        raise UsageError(
            f"{card.name}: its card says conditional={card.conditional}, and its network's conditioning is "
            f"'{found}'. {correction(card, directory, f'conditional: {found}')}."
        )


def class_labels(cond: Mapping[str, Tensor], num_classes: int, null_class: int | None = None) -> Tensor:
    """Class ids of a batch, int64 (B,), from its conditioning; the null class is allowed beside the others.

    A tensor of ids is looked at once, however many evaluations it conditions: to look makes the processor wait for the
    device.

    Raises:
      UsageError: there are none, or one names no class of the network.
    """
    if "class_id" not in cond:
        raise UsageError(
            f"a class-conditional network needs cond['class_id'], int64 (B,), 0 to {num_classes - 1}."
        )
    given = cond["class_id"]
    labels = given.long()
    asked = (given._version, num_classes, null_class)
    if _CHECKED.get(given) == asked:
        return labels
    # A kernel that reads beyond its table ends the process on a GPU, so look before.
    named = labels if null_class is None else labels[labels != null_class]
    if named.numel() and not 0 <= int(named.min()) <= int(named.max()) < num_classes:
        raise UsageError(
            f"cond['class_id'] spans {int(labels.min())} to {int(labels.max())}; "
            f"the network has classes 0 to {num_classes - 1}."
        )
    _CHECKED[given] = asked
    return labels


def _predict(unet: Callable[..., Any], num_classes: int, learned_time: bool) -> Predict:
    def predict(x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        time = t.round().long() if learned_time else t
        labels = class_labels(cond, num_classes) if num_classes else None
        output: Tensor = unet(x, time, class_labels=labels, return_dict=False)[0]
        return output

    return predict


def _class_names(directory: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classes; () for an unconditional network."""
    count = config.get("num_class_embeds")
    if count is None and config.get("class_embed_type") is None:
        return ()
    if count is None:
        raise UsageError(
            f"{directory}/unet/config.json: class_embed_type={config['class_embed_type']}, num_class_embeds=null; the "
            "number of classes is not known. State it as num_class_embeds in this file."
        )
    return class_names_of(directory, int(count))


def _learned_time(card: Card, directory: Path, config: Mapping[str, Any]) -> bool:
    """Whether the time is looked up in a table (an integer), not expanded in sines."""
    if config.get("time_embedding_type", "positional") != "learned":
        return False
    rows = int(config["num_train_timesteps"])
    if rows < card.schedule.N:
        raise UsageError(
            f"{directory}/unet/config.json: num_train_timesteps={rows}, and the schedule of {card.name} has "
            f"{card.schedule.N} training timesteps: the network has no embedding of the last ones. "
            f"{correction(card, directory, f'schedule: {{..., N: {rows}}}')}."
        )
    return True
