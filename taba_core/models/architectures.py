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
from taba_core.models.profile import Profile, usable_device
from taba_core.models.torchvision_import import repair_torchvision


def architectures() -> list[str]:
    """Models whose true architecture can be built without weights."""
    return list(_described())


def architecture_card(name: str, *, tiny: bool = False) -> Card:
    """The card of a model, with the shape of the state its toy size has if `tiny`. Raises UsageError: unknown name."""
    _check(name)
    card = load_card(name)
    if not tiny:
        return card
    toy = _described()[name]["tiny"]
    shape = tuple(toy["shape"])
    network = card.network | toy["config"] if card.family == "adm" else card.network
    return card.model_copy(update={"sample_shape": shape, "image_size": shape[-1], "network": network})


def build_module(name: str, *, tiny: bool = False) -> Any:
    """The torch module of a model's true architecture; put it under `torch.device("meta")` to cost nothing.

    Args:
      tiny: the same kind of network at toy size.
    Raises:
      UsageError: no architecture is known under this name.
    """
    card = architecture_card(name, tiny=tiny)
    repair_torchvision()
    if card.family == "adm":
        from taba_core.models.adm import build_unet
        from taba_core.models.adm_flags import adm_flags

        return build_unet(adm_flags(card.name, card.network))
    import diffusers

    described = _described()[name]
    config = described["config"] | (described["tiny"]["config"] if tiny else {})
    module = getattr(diffusers, described["class"])(**config)
    if card.family != "flux":
        return module
    from taba_core.models.flux import FluxOnLatents

    return FluxOnLatents(module)


def random_module(name: str, *, device: str, tiny: bool = False, seed: int = 0) -> Any:
    """`build_module` with torch's initial weights of a seed, float32, made on the device: the same ones each time."""
    place = usable_device(device)
    # The state of the draws before is restored, on the device too where it draws.
    drawing = [place.index or torch.cuda.current_device()] if place.type == "cuda" else []
    with torch.random.fork_rng(devices=drawing), place:
        torch.manual_seed(seed)
        return build_module(name, tiny=tiny)


def network_of_module(card: Card, module: Any, *, device: str, profile: Profile) -> Network:
    """A module of `build_module` as a Denoiser that takes `random_condition`; the module is changed in place."""
    prepared = profile.prepare(module, card.precision, device)

    def predict(x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return cast(Tensor, prepared(x, timestep=t, **nested(cond), return_dict=False)[0])

    return Network.of_card(card, predict, device=device, profile=profile)


def random_network(name: str, *, device: str, profile: Profile, tiny: bool = False) -> Network:
    """A model's network with random weights, as a Denoiser. Raises UsageError as `build_module`."""
    module = random_module(name, device=device, tiny=tiny)
    return network_of_module(architecture_card(name, tiny=tiny), module, device=device, profile=profile)


def random_condition(name: str, batch: int, device: str, *, tiny: bool = False) -> dict[str, Tensor]:
    """Conditioning of the right shapes for a random network; batch-first, nested names joined by dots."""
    generator = torch.Generator(device="cpu").manual_seed(0)
    described = _described()[name]
    inputs = (described["tiny"] if tiny and "inputs" in described["tiny"] else described).get("inputs", {})
    shapes = {
        key: shape
        for name, value in inputs.items()
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


def _check(name: str) -> None:
    if name not in architectures():
        raise unknown_name("architecture", name, architectures())


@cache
def _described() -> dict[str, Any]:
    text = files("taba_core.models").joinpath("architectures.yaml").read_text(encoding="utf-8")
    return cast(dict[str, Any], yaml.safe_load(text))
