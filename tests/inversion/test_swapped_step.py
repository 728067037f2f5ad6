"""One step of an inversion by what the sampler carried in it: exact there, and what the loss of that step is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from analytic_denoisers import LINEAR, normal, waves
from test_flow_closed_forms import LAM, NUM_MODES, FlowModes, flow_grid

from taba_core.diffusion import TimestepGrid, generate, invert_with_report
from taba_core.diffusion.denoiser import held_by
from taba_core.diffusion.inversion import DDIMInversion, inversion_method_named
from taba_core.diffusion.inversion.oracle import SwappedStep
from taba_core.errors import UsageError


def path_of(model, grid, noise):
    """Images, and the states of levels 0..T."""
    states = {grid.num_inference_steps: noise}
    image = generate(model, noise, grid, on_step=lambda record: states.update({record.step - 1: record.x_to}))
    return image, [states[level] for level in range(grid.num_inference_steps + 1)]


def swapped(model, grid, image, states, step, inner="ddim"):
    move = grid.upward()[step - 1]
    f = held_by(model).implied(states[step - 1], states[step], move.start, move.stop)
    method = SwappedStep(inversion_method_named(inner), step)
    seen = {}
    report = invert_with_report(
        model, image, grid, method, reference={step: f},
        on_step=lambda record: seen.update({record.step: record.x_to}),
    )  # fmt: skip
    return report, seen


@pytest.mark.parametrize("kind", ["flow", "vp"])
def test_the_first_step_is_undone_exactly_and_the_rest_is_plain_inversion(kind):
    grid = flow_grid("q=3 28") if kind == "flow" else TimestepGrid.build(LINEAR, 20)
    model = FlowModes(grid.schedule) if kind == "flow" else waves()
    noise = normal((2, NUM_MODES, 1, 1), 3)
    image, states = path_of(model, grid, noise)
    report, seen = swapped(model, grid, image, states, 1)
    assert (seen[1] - states[1]).abs().max() < 1e-12
    x = states[1]
    for move in grid.upward(1):
        from taba_core.diffusion.ddim import move as ddim_move
        from taba_core.diffusion.denoiser import predict_ends

        x, _ = ddim_move(predict_ends(model, x, move.asked, {}), move.stop)
    assert (report.latent - x).abs().max() < 1e-12
    assert report.evaluations.tolist() == [grid.num_inference_steps - 1] * 2


@pytest.mark.parametrize(
    ("name", "step", "share"),
    [("q=1 28", 1, 0.76), ("q=3 28", 1, 0.90), ("q=1 50", 1, 0.62), ("q=3 50", 1, 0.85),
     ("FLUX 28", 1, 0.90), ("FLUX 50", 1, 0.85), ("SD3 28", 2, 0.74), ("SD3 50", 2, 0.65)],
)  # fmt: skip
def test_the_share_of_the_worst_step_is_the_closed_form(name, step, share):
    """log of exact over target gain of a mode of variance 1e-4, over the log of what its latent lacks."""
    grid = flow_grid(name)
    model, one = FlowModes(grid.schedule), torch.ones(1, NUM_MODES, 1, 1, dtype=torch.float64)
    image, states = path_of(model, grid, one)
    plain = invert_with_report(model, image, grid).latent.numpy().ravel()[LAM.index(1e-4)]
    regained = []
    for one_step in (1, 2, 3):
        with_swap = swapped(model, grid, image, states, one_step)[0].latent.numpy().ravel()[0]
        regained.append(1 - np.log(with_swap) / np.log(plain))
    assert regained[step - 1] == pytest.approx(share, abs=0.0051) and max(regained) == regained[step - 1]


def test_evaluations_are_one_less_and_the_reference_is_needed():
    grid = flow_grid("q=1 28")
    method = SwappedStep(DDIMInversion(), 3)
    assert (method.evaluations(grid), method.evaluations(grid, 5)) == (27, 23)
    model, x = FlowModes(grid.schedule), normal((1, NUM_MODES, 1, 1), 0)
    with pytest.raises(UsageError, match=r"^step 3 is to carry what the sampler carried") as refused:
        invert_with_report(model, x, grid, method)
    assert "reference={step: f}" in str(refused.value)
    given = invert_with_report(model, x, grid, method, reference={3: torch.zeros_like(x)})
    assert torch.isfinite(given.latent).all()
