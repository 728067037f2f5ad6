"""Network families: the `family` of a card names the function that loads its networks."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from taba_core.errors import unknown_name

if TYPE_CHECKING:
    from taba_core.models.cards import Card
    from taba_core.models.network import Network
    from taba_core.models.profile import Profile

# Family -> module:function of `load(card, source, *, device, profile) -> Network`.
FAMILIES: dict[str, str] = {
    "adm": "taba_core.models.adm:load",
    "unet": "taba_core.models.unet:load",
    "ldm": "taba_core.models.unet:load",
    "dit": "taba_core.models.dit:load",
    "if": "taba_core.models.deepfloyd_if:load",
    "sd": "taba_core.models.stable_diffusion:load",
    "sdxl": "taba_core.models.stable_diffusion:load",
    "sd3": "taba_core.models.stable_diffusion_3:load",
    "flux": "taba_core.models.flux:load",
    "sit": "taba_core.models.sit:load",
}


def load_network(card: Card, source: Path | None, *, device: str, profile: Profile) -> Network:
    """Load a network from local weights, by the loader of its card's family; one thread of a process at a time.

    Args:
      card: says family, shape, schedule and architecture.
      source: the weights: a file, or a directory in the hub's layout.
      device: cpu, cuda or cuda:N.
      profile: numerical profile.
    Raises:
      UsageError: no such family, or weights that do not fit the card.
    """
    if card.family not in FAMILIES:
        raise unknown_name("network family", card.family, FAMILIES)
    from taba_core.models.loading import loading

    module, _, function = FAMILIES[card.family].partition(":")
    with loading():
        load = cast("Callable[..., Network]", getattr(importlib.import_module(module), function))
        return load(card, source, device=device, profile=profile)
