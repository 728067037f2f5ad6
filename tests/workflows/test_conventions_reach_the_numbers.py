"""Every convention reaches every artifact: nothing is measured under another convention than is printed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from taba_core.diffusion.inversion import invert, step_predictions
from taba_core.diffusion.sampling import generate
from taba_core.models.base import load_model
from taba_core.models.cards import Card
from taba_core.models.catalog import load_card
from taba_core.models.grids import timestep_grid
from workflows.analysis import step_rows
from workflows.analysis.study import find_studies
from workflows.configuration.context import Context
from workflows.configuration.settings import parse_settings

CHOICES = [("target", "exact"), ("source", "exact"), ("source", "shifted")]


@pytest.mark.parametrize(("network_time", "levels"), CHOICES)
def test_a_step_prediction_is_the_inversions_own_from_the_true_state(network_time, levels):
    """The first inversion step stands on x_0, a true state: there the two must agree bit for bit."""
    card: Card = load_card("gaussian")
    model, grid = load_model("gaussian"), timestep_grid(card, 8)
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((2, *card.sample_shape), np.float32))
    path, inverted = [], []
    x_0 = generate(model, noise, grid, on_step=path.append)
    invert(model, x_0, grid, network_time=network_time, levels=levels, on_step=inverted.append)
    rules = {"network_time": network_time, "levels": levels}
    first = step_predictions(model, x_0[:, None], grid, [1], **rules)[:, 0]
    assert torch.equal(first, inverted[0].eps_t)
    if levels == "shifted":
        # Same label as the sampler's step l, another state: not the sampler's prediction of the step before.
        eps_t = {record.step: record.eps_t for record in path}
        state = {record.step: record.x_from for record in path}
        third = step_predictions(model, state[2][:, None], grid, [3], **rules)[:, 0]
        assert not torch.allclose(third, eps_t[2])
        at_label = model.eps(state[2], float(grid.network_times[2]), {})
        assert torch.equal(third, at_label)


def context(model, *sets):
    return Context(model, "ddim", parse_settings(list(sets)))


def test_levels_reach_the_step_predictions_key():
    exact, shifted = (
        context("gaussian", "network_time=source", f"levels={levels}") for levels in ("exact", "shifted")
    )
    keys = {step_rows.step_predictions(c, c.generation(10)).key for c in (exact, shifted)}
    assert len(keys) == 2


def test_shifted_levels_have_one_forward_rule():
    (fix,) = find_studies(["fix"])
    both = fix.requests(context("gaussian", "num_inference_steps=50"))
    one = fix.requests(context("gaussian", "num_inference_steps=50", "network_time=source", "levels=shifted"))
    # Generation, K = 0 latent and image, then four K of latent and image for each rule.
    assert (len(both), len(one)) == (3 + 2 * 8, 3 + 8)


def test_options_of_a_method_named_like_fields_of_a_spec_stay_in_the_key():
    from taba_core.artifacts.inversion import Inversion

    source = context("gaussian").generation(10)
    first, second = (
        Inversion(source=source, num_inference_steps=10, method_options={"location": x, "draws": "counter"})
        for x in ("a", "b")
    )
    assert first.key != second.key and '"draws"' in first.canonical()
