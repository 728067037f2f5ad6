"""The true architectures can be built from configuration alone, and have the published number of parameters."""

import pytest
import torch

from taba_core.errors import UsageError
from taba_core.models.architectures import (
    architectures,
    build_module,
    nested,
    random_condition,
    random_network,
)
from taba_core.models.catalog import load_card
from taba_core.models.profile import profile_named

# Million parameters (model cards of the original releases).
PARAMETERS = {
    "adm-32": 52.55, "adm-64": 121.06, "adm-256": 552.81,
    "ldm": 274.06, "dit": 749.83, "if": 4304.70, "sdxl": 2567.46, "sd": 859.52,
    "sd3-medium": 2028.33, "sd35-medium": 2243.17, "sd35-large": 8056.63,
    "flux-dev": 11901.41, "flux-schnell": 11891.18,
}  # fmt: skip


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_architecture_has_the_published_number_of_parameters(name):
    with torch.device("meta"):
        module = build_module(name)
    count = sum(p.numel() for p in module.parameters())
    assert count / 1e6 == pytest.approx(PARAMETERS[name], abs=0.01)
    assert count == pytest.approx(load_card(name).num_parameters, rel=1e-4)


@pytest.mark.parametrize("name", ["sd3-medium", "flux-dev", "flux-schnell"])
def test_tiny_flows_with_random_weights_take_their_conditions(name):
    network = random_network(name, device="cpu", profile=profile_named("exact"), tiny=True)
    cond = random_condition(name, 2, "cpu", tiny=True)
    x = torch.randn(2, *network.sample_shape, generator=torch.Generator().manual_seed(0))
    one, other = (network.eps(x, time, cond) for time in (200.0, 900.0))
    assert one.shape == x.shape and (one - other).abs().max() > 1e-3


def test_every_paper_model_has_an_architecture_and_others_are_refused():
    assert set(architectures()) == set(PARAMETERS)
    with pytest.raises(UsageError, match="did you mean adm-32"):
        build_module("adm-3")


def test_nested_conditioning():
    x, y = torch.zeros(1), torch.ones(1)
    assert nested({"a": x, "b.c": y}) == {"a": x, "b": {"c": y}}
