"""How a network is evaluated: on which device, under which profile, and the profile it has where none is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taba_core.models.cards import Card
from taba_core.models.profile import GPU_PROFILE, profile_in_key
from workflows.configuration.settings import Settings

if TYPE_CHECKING:
    from workflows.configuration.context import Context


def settings_on(device: str, card: Card, settings: Settings) -> Settings:
    """Settings of a run on a device, cpu or cuda: a network on a GPU has the paper's profile unless the user names one.

    On a CPU, and of a model that is a closed form, they are as given.
    """
    if device == "cpu" or card.embedded or "profile" in settings.model_options:
        return settings
    options = {"profile": GPU_PROFILE, **settings.model_options}
    return settings.model_copy(update={"model_options": options})


def profile_of(context: Context) -> tuple[str, bool]:
    """Name of a network's profile, and whether the network is compiled; ("", False) of a closed form."""
    if context.card.embedded:
        return "", False
    options = context.model_spec.options
    return profile_in_key(str(options["profile"])), bool(options["compile"])


def numerics_line(context: Context, device: str) -> str:
    """Device and profile of a network, as plans and runs say them; "" of a closed form."""
    profile, compiled = profile_of(context)
    return f"network: device={device}, profile={profile}{', compiled' if compiled else ''}" if profile else ""
