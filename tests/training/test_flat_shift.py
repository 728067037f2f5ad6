"""A pixel network must see a flat shift of its input, or its samples have the colours of their noise."""

from __future__ import annotations

import pytest
import torch

from taba_core.training.networks import build_network
from taba_core.training.recipe import Recipe, recipe_named


def response(recipe: Recipe) -> float:
    """Change of the mean of an untrained network's output by a flat shift of its input, over that of its input.

    Away from the border, where zero padding tells the shift to whatever network.
    """
    module = build_network(recipe, 0, vocabulary=50)
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    x = torch.randn(4, 3, 32, 32, generator=generator)
    shift = torch.tensor([0.5, -0.5, 0.5])[:, None, None]

    def centre(images: torch.Tensor) -> torch.Tensor:
        time = torch.full((4,), 500.0)
        if recipe.family == "if":
            ids, mask = torch.ones((4, 5), dtype=torch.int64), torch.ones((4, 5), dtype=torch.int64)
            text = module.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
            output = module.unet(images, time, encoder_hidden_states=text, return_dict=False)[0]
        else:
            output = module(images, time, return_dict=False)[0]
        return output[:, :3, 12:20, 12:20].mean((2, 3))

    with torch.no_grad():
        change = centre(x + shift) - centre(x)
    return float(change.square().mean().sqrt())


@pytest.mark.parametrize("name", ["photo-adm", "photo-tiny", "photo-if"])
def test_a_recipe_of_pixels_sees_a_flat_shift(name):
    found = response(recipe_named(name))
    recipe = recipe_named("photo-adm")
    one_channel = {"num_channels": 32, "channel_mult": [1, 2, 2], "attention_resolutions": [8]}
    blind = response(recipe.model_copy(update={"network": recipe.network | one_channel}))
    assert found > 2.5 * blind  # which hears of the shift from the border alone, through its attention
