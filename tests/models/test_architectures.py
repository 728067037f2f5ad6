"""The true architectures can be built from configuration alone, and have the published number of parameters."""

import pytest
import torch

from taba_core.errors import UsageError
from taba_core.models.architectures import architectures, build_module, nested
from taba_core.models.catalog import load_card

# Million parameters (model cards of the original releases).
PARAMETERS = {
    "adm-32": 52.55, "adm-64": 121.06, "adm-256": 552.81,
    "ldm": 274.06, "dit": 749.83, "if": 4304.70, "sdxl": 2567.46, "sd": 859.52,
}  # fmt: skip


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_architecture_has_the_published_number_of_parameters(name):
    with torch.device("meta"):
        module = build_module(name)
    count = sum(p.numel() for p in module.parameters())
    assert count / 1e6 == pytest.approx(PARAMETERS[name], abs=0.01)
    assert count == pytest.approx(load_card(name).num_parameters, rel=1e-4)


def test_every_paper_model_has_an_architecture_and_others_are_refused():
    assert set(architectures()) == set(PARAMETERS)
    with pytest.raises(UsageError, match="did you mean adm-32"):
        build_module("adm-3")


def test_nested_conditioning():
    x, y = torch.zeros(1), torch.ones(1)
    assert nested({"a": x, "b.c": y}) == {"a": x, "b": {"c": y}}
