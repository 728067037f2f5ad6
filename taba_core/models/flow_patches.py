"""What the configuration of a flow's transformer says of states: channels and sides in patches of 2 x 2. No torch.

Stable Diffusion 3 cuts the state into patches inside its network, FLUX.1 is given them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taba_core.errors import UsageError
from taba_core.models.cards import Card
from taba_core.models.corrections import correction
from taba_core.models.json_file import read_json

PATCH = 2
FLUX_SIDE = 128  # positions of a side of the states that FLUX.1's pipeline makes: images of 1024 pixels
_SD3_TOKENS = 256  # that diffusers' pipelines let T5 make of a prompt
_FLUX_TOKENS = {True: 512, False: 256}  # FLUX.1 [dev], [schnell]
_UNGUIDED = 1.0


def flow_fields(family: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a card that a transformer's configuration decides: tokens of T5, and w of a distilled guidance.

    Args:
      family: sd3 or flux.
      config: of the transformer.
    """
    if family == "sd3":
        return {"max_tokens": _SD3_TOKENS}
    distilled = bool(config.get("guidance_embeds", False))
    return {
        "max_tokens": _FLUX_TOKENS[distilled],
        "distilled_guidance": _UNGUIDED if distilled else None,
    }


def flux_channels(folder: Path, config: Mapping[str, Any]) -> int:
    """Channels of FLUX.1's states, of which a token has PATCH^2 positions.

    Raises:
      UsageError: a network that is given more than a state, or returns another number of channels.
    """
    inside, outside = config.get("in_channels", 64), config.get("out_channels")
    if not isinstance(inside, int) or inside % PATCH**2 or outside not in (None, inside):
        raise UsageError(
            f"{folder}/config.json: in_channels={inside}, out_channels={outside}; FLUX.1 returns as many as it is "
            "given, four for each channel of a state. Use a model that is given nothing beside the state and the text."
        )
    return inside // PATCH**2


def check_patches(card: Card, directory: Path) -> None:
    """Refuse states that a flow's transformer cannot cut into patches, and a card of other channels.

    Families without patches, and directories without a configuration, pass.

    Raises:
      UsageError: other channels, an odd side, a side beyond the network's positions, or a guidance that the network
        is not given.
    """
    path = directory / "transformer" / "config.json"
    if card.family not in ("sd3", "flux") or not path.is_file():
        return
    config = read_json(path)
    channels, *sides = card.sample_shape
    flux = card.family == "flux"
    found = flux_channels(path.parent, config) if flux else config.get("in_channels", 16)
    if found != channels:
        line = f"sample_shape: [{found}, {sides[0]}, {sides[1]}]"
        raise UsageError(
            f"{path}: the network has states of {found} channels, the card of {card.name} of {channels}. "
            f"{correction(card, directory, line)}."
        )
    patch = PATCH if flux else int(config.get("patch_size", PATCH))
    largest = None if flux else patch * int(config.get("pos_embed_max_size", 96))
    if any(side % patch or (largest and side > largest) for side in sides):
        bound = f", at most {largest}" if largest else ""
        raise UsageError(
            f"{card.name}: states of {sides[0]} x {sides[1]}; the network of {path.parent} cuts a state into patches "
            f"of {patch} x {patch}, so its sides are multiples of {patch}{bound} (an image is larger by the factor of "
            "its autoencoder, mostly 8). State such a sample_shape and image_size in the card."
        )
    if flux:
        _check_guidance(card, directory, bool(config.get("guidance_embeds", False)))


def _check_guidance(card: Card, directory: Path, embedded: bool) -> None:
    if embedded and card.distilled_guidance is None:
        raise UsageError(
            f"{directory}/transformer is given a guidance (guidance_embeds), and the card of {card.name} states none. "
            f"{correction(card, directory, 'distilled_guidance: 1.0')}."
        )
    if not embedded and card.distilled_guidance is not None:
        raise UsageError(
            f"{directory}/transformer is given no guidance (guidance_embeds is false), and the card of {card.name} "
            f"states distilled_guidance={card.distilled_guidance:g}. "
            f"{correction(card, directory, 'distilled_guidance: null')}."
        )
