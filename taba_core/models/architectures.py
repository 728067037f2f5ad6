"""Full-size networks with random weights, built from their configuration alone: for timing, never for samples."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, cast

import torch
import yaml
from torch import Tensor

from taba_core.errors import unknown_name
from taba_core.models.cards import Card
from taba_core.models.catalog import load_card
from taba_core.models.network import Network
from taba_core.models.profile import Profile
from taba_core.models.torchvision_import import repair_torchvision


def architectures() -> list[str]:
    """Models whose true architecture can be built without weights: the ADM cards and those of the data file."""
    return ["adm-32", "adm-64", "adm-256", *_configurations()]


def build_module(name: str) -> Any:
    """The torch module of a model's true architecture; put it under `torch.device("meta")` to cost nothing.

    Raises:
      UsageError: no architecture is known under this name.
    """
    if name not in architectures():
        raise unknown_name("architecture", name, architectures())
    card = load_card(name)
    repair_torchvision()
    if card.family == "adm":
        from taba_core.models.adm import build_unet
        from taba_core.models.adm_flags import adm_flags

        return build_unet(adm_flags(card.name, card.network))
    import diffusers

    described = _configurations()[name]
    return getattr(diffusers, described["class"])(**described["config"])


def random_network(name: str, *, device: str, profile: Profile) -> Network:
    """A model's network with random weights, as a Denoiser. Raises UsageError as `build_module`."""
    card = load_card(name)
    with torch.device(device):
        module = build_module(name)
    module = profile.prepare(module, card.precision, device)

    def predict(x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return cast(Tensor, module(x, t, **nested(cond), return_dict=False)[0])

    return Network.of_card(card, predict, device=device, profile=profile)


def random_condition(card: Card, batch: int, device: str) -> dict[str, Tensor]:
    """Conditioning of the right shapes for a random network; batch-first, nested names joined by dots."""
    generator = torch.Generator(device="cpu").manual_seed(0)
    described = _configurations().get(card.name, {}).get("inputs", {})
    shapes = {
        key: shape
        for name, value in described.items()
        for key, shape in (
            {f"{name}.{inner}": s for inner, s in value.items()} if isinstance(value, dict) else {name: value}
        ).items()
    }
    made = {
        key: torch.zeros(batch, dtype=torch.int64)
        if shape == "class"
        else torch.randn(batch, *shape, generator=generator)
        for key, shape in shapes.items()
    }
    return {key: value.to(device) for key, value in made.items()}


def nested(cond: Mapping[str, Tensor]) -> dict[str, Any]:
    """{"a": x, "b.c": y} -> {"a": x, "b": {"c": y}}, the form diffusers' networks take."""
    out: dict[str, Any] = {}
    for key, value in cond.items():
        name, _, inner = key.partition(".")
        if inner:
            out.setdefault(name, {})[inner] = value
        else:
            out[name] = value
    return out


@cache
def _configurations() -> dict[str, Any]:
    text = files("taba_core.models").joinpath("architectures.yaml").read_text(encoding="utf-8")
    return cast(dict[str, Any], yaml.safe_load(text))
