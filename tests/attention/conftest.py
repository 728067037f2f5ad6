"""Tiny Stable Diffusion and SDXL networks with random weights, and what editors start from on them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "models"))

from tiny_text_checkpoints import save_tiny_sd, save_tiny_sdxl, tiny_card

from taba_core.models.families import load_network
from taba_core.models.grids import timestep_grid
from taba_core.models.profile import profile_named

STEPS = 5


class Tiny(NamedTuple):
    network: object
    card: object
    grid: object
    x_0: torch.Tensor

    @property
    def unet(self):
        return self.network.unet[0]


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    base = tmp_path_factory.mktemp("attention")
    found = {}
    for name, save in (("sd", save_tiny_sd), ("sdxl", save_tiny_sdxl)):
        card = tiny_card(name)
        directory = save(base / f"tiny-{name}")
        network = load_network(card, directory, device="cpu", profile=profile_named("exact"))
        # The scale of latents: 1 or so.
        x_0 = 0.7 * torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        found[name] = Tiny(network, card, timestep_grid(card, STEPS), x_0)
    return found


@pytest.fixture(params=["sd", "sdxl"])
def tiny(made, request):
    return made[request.param]


@pytest.fixture(scope="session")
def sd(made):
    return made["sd"]
