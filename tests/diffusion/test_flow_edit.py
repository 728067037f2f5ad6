"""FlowEdit on Gaussians, where what it does to an image is known, and its identities."""

from __future__ import annotations

import pytest
import torch
from analytic_denoisers import Analytic
from torch.testing import assert_close

from taba_core.diffusion import NoiseSchedule, TimestepGrid
from taba_core.diffusion.ends import Held
from taba_core.diffusion.flow_edit import flow_edit
from taba_core.errors import UsageError

SHAPE = (3, 2, 2)
LAM = torch.tensor([1e-4, 1e-2, 1.0], dtype=torch.float64).view(1, 3, 1, 1)
MEANS = {
    "src": torch.zeros(1, 3, 1, 1).double(),
    "tar": torch.tensor([0.5, -1.0, 2.0]).double().view(1, 3, 1, 1),
}
GRIDS = {
    "q=1": TimestepGrid.build(NoiseSchedule.flow(1000, 1.0), 8, "shifted"),
    "q=3": TimestepGrid.build(NoiseSchedule.flow(1000, 3.0), 28, "shifted"),
    "sd3": TimestepGrid.build(NoiseSchedule.flow(1000, 3.0), 28, "sd3-default"),
}


class Shifted(Analytic):
    """The best velocity of N(mean, LAM), whose mean is that of the condition: g (x - (1 - s) mean) - mean."""

    held = Held.VELOCITY

    def __init__(self, schedule):
        super().__init__(None, schedule, SHAPE)
        self.asked = []

    def predict(self, x, level, cond):
        s, mean = level.sigma, MEANS[cond["name"]]
        self.asked.append(cond["name"])
        V = (1 - s) ** 2 * LAM + s**2
        g = (s - (1 - s) * LAM) / V
        return Held.VELOCITY.ends(g * (x - (1 - s) * mean) - mean, x, level)


def draw(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)


def images():
    return torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(99), dtype=torch.float64)


def edited(name, first_step, target="tar", **options):
    grid = GRIDS[name]
    model = Shifted(grid.schedule)
    conds = {"cond": {"name": "src"}, "target_cond": {"name": target}}
    x = flow_edit(model, model, images(), grid, draw=draw, first_step=first_step, **conds, **options)
    return model, x


@pytest.mark.parametrize("name", GRIDS)
def test_a_mean_is_moved_exactly_on_every_grid(name):
    # d_l = (1 - s_l) mean solves the recursion: d_{l-1} = d_l - D (g (d_l - (1 - s_l) mean) - mean), d_T = 0.
    model, x = edited(name, GRIDS[name].num_inference_steps)
    assert_close(x, images() + MEANS["tar"], rtol=0, atol=1e-12)
    # One prediction of either condition a step.
    assert model.asked.count("src") == model.asked.count("tar") == GRIDS[name].num_inference_steps


def test_from_a_lower_step_it_moves_by_the_recursion():
    grid, mean = GRIDS["q=1"], MEANS["tar"]
    shift = torch.zeros_like(mean)
    for step in (3, 2, 1):
        s, below = step / 8, (step - 1) / 8
        g = (s - (1 - s) * LAM) / ((1 - s) ** 2 * LAM + s**2)
        shift = shift - (s - below) * (g * (shift - (1 - s) * mean) - mean)
    assert_close(edited("q=1", 3)[1], images() + shift, rtol=0, atol=1e-12)
    assert (shift - mean).abs().max() > 0.1 and grid.num_inference_steps == 8


def test_under_its_own_condition_an_image_comes_back_bit_for_bit():
    assert torch.equal(edited("sd3", 20, target="src")[1], images())


def test_levels_that_are_no_flow_and_steps_that_are_none_are_refused():
    with pytest.raises(UsageError, match="use a model of a flow"):
        flow_edit(
            None,
            None,
            images(),
            TimestepGrid.build(NoiseSchedule.linear(), 10),
            cond={},
            target_cond={},
            draw=draw,
            first_step=5,
        )
    for step in (0, 9):
        with pytest.raises(UsageError, match=rf"FlowEdit from step {step} of 8; use 1 to 8\."):
            edited("q=1", step)
