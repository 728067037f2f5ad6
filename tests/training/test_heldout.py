"""Errors on held-out crops: the Wiener filter is exact for Gaussian data, and all sides see the same noise."""

from __future__ import annotations

import pytest
import torch

from taba_core.models.base import load_model
from taba_core.models.catalog import load_card
from taba_core.models.grids import timestep_grid
from taba_core.training.data import PHOTOGRAPHS, open_source
from taba_core.training.heldout import LEVELS, compare, errors_of
from taba_core.training.wiener import WienerFilter


def test_the_wiener_filter_has_the_error_of_its_formula_on_gaussian_data():
    # Independent entries of variance v and mean 0.3: the error is a v / (a v + 1 - a).
    generator = torch.Generator().manual_seed(0)
    variance = torch.tensor([0.01, 0.25, 1.0, 4.0]).view(1, 1, 2, 2)
    data = 0.3 + variance.sqrt() * torch.randn(40_000, 1, 2, 2, generator=generator)
    wiener, grid = WienerFilter(data), timestep_grid(load_card("gaussian"), 50)
    found = errors_of(lambda x_t, level, rows: wiener.eps(x_t, grid.levels[level]), data[:8000], grid, seed=1)
    for level, error in zip(LEVELS, found, strict=True):
        a = float(grid.alpha_bar[level])
        assert error == pytest.approx(float((a * variance / (a * variance + 1 - a)).mean()), rel=0.03)


def test_a_network_of_latents_is_compared_in_its_latents_and_not_with_the_mixture():
    card, model, photos = load_card("photo-dit"), load_model("photo-dit"), open_source(PHOTOGRAPHS)
    wiener = WienerFilter(torch.randn(50, *card.sample_shape, generator=torch.Generator().manual_seed(0)))
    found = compare(model, card, photos, wiener, count=10, seed=7)
    assert found.mixture is None
    assert len(found.network) == len(found.wiener) == len(found.alpha_bar) == len(LEVELS)
    # The trained network knows its latents; a Gaussian of noise does not.
    assert all(0 < mine < other for mine, other in zip(found.network[2:8], found.wiener[2:8], strict=True))
