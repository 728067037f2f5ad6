"""What inversion steps carry: closed forms, a flow beside its variance-preserving twin, methods without a choice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from analytic_denoisers import LINEAR, flow_twin, gaussian, gaussian_ends, normal, waves
from test_flow_closed_forms import EULER, LAM, FlowModes, flow_grid, std_and_rmse

from taba_core.diffusion import TimestepGrid, invert, step_predictions
from taba_core.diffusion.ends import Ends, Held
from taba_core.diffusion.holding import holding
from taba_core.errors import UsageError
from taba_core.theory import GaussianModes


@pytest.mark.parametrize("held", ["auto", "velocity", "noise", "noise-vp"])
@pytest.mark.parametrize("name", ["q=3 28", "SD3 50"])
def test_the_closed_form_of_taba_is_what_the_engine_does(name, held):
    modes, options = GaussianModes(np.array(LAM), flow_grid(name)), {"held": held, "forward_steps": 1}
    for given in ({"held": held}, options, options | {"network_time": "source"}):
        latent, measured = modes.latent(**given), std_and_rmse(name, EULER, **given)
        assert latent.std == pytest.approx(measured[0], rel=1e-11)
        assert latent.reconstruction_rmse == pytest.approx(measured[1], rel=1e-8)


def test_carried_noise_is_p_and_q_of_the_noise_and_does_nothing_in_the_last_step():
    grid = flow_grid("q=3 28")
    g = [1 + (b - a) * (1 - b) / (1 - a) * _gain(b) for a, b in _steps(grid)]
    expected = np.prod(g, axis=0)
    found = GaussianModes(np.array(LAM), grid).inversion_gain(held="noise")
    assert found == pytest.approx(expected, rel=1e-12) and g[-1] == pytest.approx(1.0, abs=1e-15)


def _steps(grid):
    s = [0.0, *(level.sigma for level in grid.upper_levels)]
    return list(itertools.pairwise(s))


def _gain(s):
    lam = np.array(LAM)
    return (s - (1 - s) * lam) / ((1 - s) ** 2 * lam + s**2)


def test_one_step_carries_less_than_the_velocity_and_undoes_unit_modes_better():
    """What study `flows` measures on samples: the rest comes back with half the error, plain areas are narrower."""
    for name in ("q=3 28", "FLUX 50"):
        (v_std, v_error), (std, error) = (std_and_rmse(name, EULER, held=h) for h in ("velocity", "noise-vp"))
        assert std[0] < v_std[0] and error[2] < v_error[2] / 2


class TestTwins:
    """A flow and the variance-preserving model on levels of the same ratio of signal to noise are one model."""

    @pytest.fixture(params=[("diffusers-trailing", 20), ("diffusers-leading", 25)], ids=str)
    def grids(self, request):
        style, T = request.param
        twin = flow_twin(LINEAR)
        return tuple(TimestepGrid.build(schedule, T, style) for schedule in (LINEAR, twin))

    @pytest.mark.parametrize("forward_steps", [0, 2])
    @pytest.mark.parametrize("network_time", ["target", "source"])
    def test_states_at_equal_levels_are_the_same_to_1e_10(self, grids, network_time, forward_steps):
        vp, flow = grids
        f = waves().f

        class Twin:
            held, schedule = Held.VELOCITY, flow.schedule
            sample_shape, value_range = (3, 4, 4), (-1.0, 1.0)

            def predict(self, x, level, cond):
                eps = f(x / level.size, level.time)  # the network of the VP model, on its scale
                return Ends(x, level, eps, (x - level.sigma * eps) / level.alpha)

        x_0, noise = normal((2, 3, 4, 4), 0), normal((2, 3, 4, 4), 1)
        seen: list[dict[int, torch.Tensor]] = [{}, {}]
        for model, grid, states in ((waves(), vp, seen[0]), (Twin(), flow, seen[1])):
            latent = invert(
                model, x_0, grid, network_time=network_time, forward_steps=forward_steps, forward_noise=noise,
                held="noise-vp", on_step=lambda record, into=states: into.update({record.step: record.x_to}),
            )  # fmt: skip
            assert torch.equal(latent, states[grid.num_inference_steps])
        for step, level in enumerate(flow.upper_levels, start=1):
            if step > forward_steps:
                assert (seen[1][step] / level.size - seen[0][step]).abs().max() < 1e-10

    def test_at_target_times_the_velocity_is_another_inversion(self, grids):
        _, flow = grids
        model = gaussian_ends(0.3, flow.schedule, "velocity")
        x_0 = normal((2, 3, 4, 4), 0)
        carried = [invert(model, x_0, flow, held=held) for held in ("velocity", "noise", "noise-vp")]
        assert all((a - b).abs().max() > 1e-4 for a, b in itertools.pairwise(carried))

    def test_at_source_times_all_are_one(self, grids):
        _, flow = grids
        model = gaussian_ends(0.3, flow.schedule, "velocity")
        x_0 = normal((2, 3, 4, 4), 0)
        first = invert(model, x_0, flow, network_time="source", forward_steps=1, forward_noise=x_0)
        for held in ("velocity", "noise", "noise-vp"):
            other = invert(
                model, x_0, flow, network_time="source", forward_steps=1, forward_noise=x_0, held=held
            )
            assert (other - first).abs().max() < 1e-12


def test_the_models_own_choice_changes_no_bit():
    x_0, flow = normal((2, 3, 1, 1), 0), flow_grid("q=3 28")
    model, vp = FlowModes(flow.schedule), TimestepGrid.build(LINEAR, 10)
    assert torch.equal(invert(model, x_0, flow), invert(model, x_0, flow, held="velocity"))
    for held in ("noise", "noise-vp"):
        assert torch.equal(invert(gaussian(0.3), x_0, vp), invert(gaussian(0.3), x_0, vp, held=held))
        assert holding(gaussian(0.3), held).__class__.__name__ == "Analytic"


def test_predictions_of_single_steps_read_the_noise_where_it_is_carried_from():
    flow = flow_grid("q=3 28")
    model, x = FlowModes(flow.schedule), normal((1, 1, 3, 1, 1), 2)
    found = step_predictions(model, x, flow, (5,), held="noise")[0, 0].ravel()
    level = flow.upper_levels[4]
    expected = GaussianModes(np.array(LAM), flow).eps_gain(level) * x.ravel().numpy()
    assert found.numpy() == pytest.approx(expected, rel=1e-12)
    other = step_predictions(model, x, flow, (5,))[0, 0].ravel()
    assert (other - found).abs().max() > 1e-3


def test_methods_that_solve_steps_take_no_other_choice():
    x_0, flow = normal((1, 3, 1, 1), 0), flow_grid("q=3 28")
    model = FlowModes(flow.schedule)
    for method in ("fixed-point", "rf-solver", "edict"):
        with pytest.raises(UsageError, match=rf"^held=noise: inversion method '{method}' solves steps"):
            invert(model, x_0, flow, method, held="noise")
        invert(model, x_0, flow, method, held="auto")
    for method in ("ddim", "ddim-source", "source-first"):
        assert torch.isfinite(invert(model, x_0, flow, method, held="noise")).all()


def test_a_network_of_the_noise_alone_has_no_velocity_to_carry():
    vp = TimestepGrid.build(LINEAR, 10)
    x_0 = normal((1, 3, 4, 4), 0)
    with pytest.raises(UsageError, match=r"^held=velocity: the network predicts the noise alone"):
        invert(gaussian(0.3), x_0, vp, held="velocity")
    for held in ("noise", "auto"):
        assert torch.isfinite(invert(gaussian(0.3), x_0, vp, held=held)).all()
    model = gaussian_ends(0.3, LINEAR, "v")
    assert torch.isfinite(invert(model, x_0, vp, held="velocity")).all()
