"""Levels are (alpha, sigma): what is held between them, schedules that end in pure noise, a model as a flow."""

import itertools
import math

import numpy as np
import pytest
import torch
from analytic_denoisers import LINEAR, ZERO, constant, flow_twin, gaussian, gaussian_ends, normal
from numpy.testing import assert_allclose
from torch.testing import assert_close

from taba_core.diffusion import NoiseSchedule, TimestepGrid, generate, invert
from taba_core.diffusion.ends import Ends, Held
from taba_core.diffusion.inversion import inversion_method_named, reconstruct
from taba_core.diffusion.level import Level
from taba_core.errors import UsageError

SHAPE = (2, 3, 4, 4)


class TestLevel:
    def test_powers_give_alpha_and_sigma(self):
        vp, flow = Level.vp(0.36, 7.0), Level.flow(0.25)
        assert (vp.alpha, vp.sigma, vp.time) == (0.6, 0.8, 7.0)
        assert (flow.alpha, flow.sigma, flow.time) == (0.75, 0.25, None)
        assert flow.alpha_bar == pytest.approx(0.5625 / 0.625, rel=1e-15)
        assert flow.noise_to_signal == pytest.approx(1 / 3, rel=1e-15)

    def test_a_schedules_alpha_bar_comes_back_to_the_bit(self):
        table = NoiseSchedule.cosine(4000).alpha_bar
        assert all(Level.vp(float(a)).alpha_bar == a for a in table)
        np.testing.assert_array_equal(NoiseSchedule.of_alpha_bar(table).alpha_bar, table)

    def test_the_ends_are_infinite_in_the_right_direction(self):
        clean, noise = Level.vp(1.0), Level.vp(0.0)
        assert (clean.noise_to_signal, clean.log_snr) == (0, math.inf)
        assert (noise.noise_to_signal, noise.log_snr) == (math.inf, -math.inf)

    @pytest.mark.parametrize(
        "make, text",
        [
            (lambda: Level.vp(1.5), "alpha_bar=1.5 must be in [0, 1]."),
            (lambda: Level.flow(-0.1), "s=-0.1 must be in [0, 1]."),
            (
                lambda: Level(0.0, 0.0),
                "a level of alpha^2=0.0 and sigma^2=0.0: both must be at least 0, and one of them above it.",
            ),
        ],
    )
    def test_impossible_levels(self, make, text):
        with pytest.raises(ValueError) as error:
            make()
        assert str(error.value) == text


LEVELS = [Level.vp(0.9), Level.vp(0.2), Level.flow(0.3), Level.flow(0.8), Level.vp(1.0), Level(0.25, 2.25)]


class TestHeld:
    @pytest.mark.parametrize("held", Held)
    @pytest.mark.parametrize("start", LEVELS)
    @pytest.mark.parametrize("stop", [*LEVELS, Level.vp(0.0)])
    def test_a_line_through_two_levels(self, held, start, stop):
        # x = alpha x_0 + sigma eps at both levels, so P x + Q f leads from one to the other
        x_0, eps = normal(SHAPE, 0), normal(SHAPE, 1)
        x = start.alpha * x_0 + start.sigma * eps
        f = held.of(Ends(x, start, eps, x_0))
        P, Q = held.coefficients(start, stop)
        assert_close(P * x + Q * f, stop.alpha * x_0 + stop.sigma * eps, rtol=0, atol=1e-13)
        assert_close(tuple(held.ends(f, x, start)), (x_0, eps), rtol=0, atol=1e-13)
        if Q and P:
            assert_close(held.implied(x, P * x + Q * f, start, stop), f, rtol=0, atol=1e-11)

    @pytest.mark.parametrize("held", Held)
    def test_moves_are_euler_steps_in_the_clock(self, held):
        # y = x / scale: y_b - y_a = (clock_b - clock_a) f
        for a, b in itertools.pairwise(LEVELS):
            P, Q = held.coefficients(a, b)
            assert P * held.scale(a) == pytest.approx(held.scale(b), rel=1e-14)
            assert Q / held.scale(b) == pytest.approx(held.clock(b) - held.clock(a), rel=1e-12, abs=1e-15)

    def test_on_a_straight_flow_the_velocity_moves_the_state_as_it_is(self):
        P, Q = Held.VELOCITY.coefficients(Level.flow(0.2), Level.flow(0.9))
        assert (pytest.approx(1, rel=1e-15), pytest.approx(0.7, rel=1e-14)) == (P, Q)

    def test_noise_cannot_be_held_from_pure_noise(self):
        with pytest.raises(
            ValueError,
            match=r"^at alpha=0 the clean image cannot be recovered from pure noise and its prediction\.$",
        ):
            Held.NOISE.coefficients(Level.vp(0.0), Level.vp(0.5))


class TestZeroTerminalSnr:
    def test_the_last_level_is_pure_noise_and_the_first_stays(self):
        assert ZERO.alpha_bar[-1] == 0 and ZERO.level(-1) == Level(0.0, 1.0, 999.0)
        assert ZERO.alpha_bar[0] == pytest.approx(LINEAR.alpha_bar[0], rel=1e-12)

    @pytest.mark.parametrize("kind", ["linear", "scaled-linear", "cosine"])
    def test_it_is_the_rescaling_of_diffusers(self, kind):
        from diffusers import DDIMScheduler

        names = {"linear": "linear", "scaled-linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
        betas = {} if kind == "cosine" else {"beta_start": 0.00085, "beta_end": 0.012}
        theirs = DDIMScheduler(beta_schedule=names[kind], rescale_betas_zero_snr=True, **betas)
        ours = NoiseSchedule.named(kind, N=1000, zero_terminal_snr=True, **betas)
        # theirs is float32
        assert_allclose(ours.alpha_bar, theirs.alphas_cumprod.numpy(), rtol=1e-4, atol=1e-6)

    def test_a_network_that_predicts_the_noise_is_refused(self):
        grid, x = TimestepGrid.build(ZERO, 5, "diffusers-trailing"), normal(SHAPE, 0)
        text = (
            "the noise schedule ends at alpha=0 (zero terminal SNR), where a network that predicts epsilon says "
            "nothing of the image; use a network that predicts v or x_0, or a schedule that ends above 0."
        )
        for call in (generate, invert, lambda *given: reconstruct(*given, "edict")):
            with pytest.raises(UsageError) as error:
                call(constant(0.3), x, grid)
            assert str(error.value) == text

    def test_a_grid_that_does_not_reach_the_last_level_is_not_refused(self):
        grid = TimestepGrid.build(ZERO, 5)  # leading: timesteps 0, 200, .., 800
        assert torch.isfinite(generate(constant(0.3), normal(SHAPE, 0), grid)).all()


PATHS = {
    # the same levels as a variance-preserving process and as a flow, and the model's output on each
    "v": (ZERO, "v", "diffusers-trailing"),
    "epsilon": (LINEAR, "epsilon", "diffusers-leading"),
}
# what is the same on both paths: asked at the state's own level, or solved to the end
METHODS = {
    "ddim-source": {},
    "fixed-point": {"num_evaluations": 2000, "tolerance": 1e-14},
    "aidi-a": {"num_iterations": 40, "tolerance": 1e-14},
    "exact-dpm-1": {"tolerance": 1e-13, "max_iterations": 2000},
}


@pytest.mark.parametrize("variance", [1e-2, 1.0, 4.0])
@pytest.mark.parametrize("path", PATHS)
class TestTheSameModelAsAFlow:
    """x / sqrt(alpha^2 + sigma^2) is the state of the variance-preserving twin at the same ratio of signal to noise."""

    @pytest.fixture
    def twins(self, path, variance):
        schedule, output, style = PATHS[path]
        flow = flow_twin(schedule)
        vp_model = (
            gaussian(variance, schedule) if output == "epsilon" else gaussian_ends(variance, schedule, output)
        )
        grids = [TimestepGrid.build(each, 10, style) for each in (schedule, flow)]
        return [(vp_model, grids[0]), (gaussian_ends(variance, flow, "velocity"), grids[1])]

    def states(self, twin, run):
        """{step: state after it, brought to unit power} of a run."""
        model, grid = twin
        found = {}
        run(model, grid, lambda r: found.update({r.step: r.x_to}))
        return found, grid.levels

    def compare(self, twins, run, level_of):
        (vp, vp_levels), (flow, flow_levels) = (self.states(twin, run) for twin in twins)
        assert vp.keys() == flow.keys() and vp
        for step in vp:
            a, b = vp_levels[level_of(step)], flow_levels[level_of(step)]
            assert a.noise_to_signal == pytest.approx(b.noise_to_signal, rel=1e-12)
            assert_close(flow[step] / math.hypot(b.alpha, b.sigma), vp[step], rtol=0, atol=1e-10)

    def test_sampling_visits_the_same_states(self, twins):
        def run(model, grid, note):
            top = grid.levels[-1]
            generate(model, math.hypot(top.alpha, top.sigma) * normal(SHAPE, 3), grid, on_step=note)

        self.compare(twins, run, lambda step: step - 1)

    @pytest.mark.parametrize("name", METHODS)
    def test_inversion_visits_the_same_states(self, twins, name):
        image, noise = generate(*(twins[0][0], normal(SHAPE, 3), twins[0][1])), normal(SHAPE, 4)
        method = inversion_method_named(name, **METHODS[name])

        def run(model, grid, note):
            # the first step is replaced: without a time of its own level 0 is asked at that of level 1
            invert(model, image, grid, method, forward_steps=1, forward_noise=noise, on_step=note)

        self.compare(twins, run, lambda step: step)


# asked at the state's own level too, and moved by the clock of eps - x_0, which both paths have where v is predicted
OF_FLOWS = ("heun", "rf-solver", "fireflow", "uni-inv", "dnaedit", "rf-inversion", "predictor-corrector")


@pytest.mark.parametrize("variance", [1e-2, 1.0, 4.0])
@pytest.mark.parametrize("name", OF_FLOWS)
def test_methods_made_for_flows_visit_the_same_states_on_a_variance_preserving_path(name, variance):
    schedules = (ZERO, flow_twin(ZERO))
    image, noise, found = normal(SHAPE, 3), normal(SHAPE, 4), []
    for schedule, output in zip(schedules, ("v", "velocity"), strict=True):
        grid = TimestepGrid.build(schedule, 10, "diffusers-trailing")
        model, states = gaussian_ends(variance, schedule, output), {}
        options = dict(forward_steps=1, forward_noise=noise)
        invert(model, image, grid, name, on_step=lambda r, s=states: s.update({r.step: r.x_to}), **options)
        levels = grid.levels
        found.append(
            {step: x / math.hypot(levels[step].alpha, levels[step].sigma) for step, x in states.items()}
        )
    vp, flow = found
    assert vp.keys() == flow.keys() == set(range(2, 11))
    for step in vp:
        assert_close(flow[step], vp[step], rtol=0, atol=1e-10)


def test_a_flow_grid_made_of_its_own_levels():
    # s_1..s_4 of a shifted grid with times 1000 s, as published flow models are asked
    s = np.array([0.5, 0.75, 0.9, 1.0])
    schedule = NoiseSchedule((1 - s) ** 2, s**2, timestep_scale=250.0, times=1000 * s)
    grid = TimestepGrid(schedule, np.arange(4), np.arange(4) - 1, Level(1.0, 0.0))
    assert [level.sigma for level in grid.levels] == [0.0, 0.5, 0.75, 0.9, 1.0]
    assert [move.network_time for move in grid.downward()] == [1000.0, 900.0, 750.0, 500.0]
    assert schedule.duration == 1000 and schedule.level_of_noise(0.25) == Level.flow(0.25)
    assert [move.network_time for move in grid.upward(network_time="source")] == [500.0, 500.0, 750.0, 900.0]


def test_tables_that_are_no_levels():
    with pytest.raises(UsageError) as error:
        NoiseSchedule(np.array([0.9, 0.5]), np.array([0.5, 0.1]))
    assert str(error.value) == (
        "signal_power, noise_power and times of shapes (2,), (2,) and (2,) are no noise schedule: they must be "
        "one-dimensional and equally long, the signal falling to 0 or above, the noise rising from above 0, the times "
        "rising."
    )
    with pytest.raises(
        UsageError, match=r"^t=1200 is no time of a noise schedule whose times go from 0 to 999\.$"
    ):
        LINEAR.level_at(1200)
    with pytest.raises(
        UsageError, match=r"^sigma=0\.1: levels between timesteps are known of schedules with"
    ):
        NoiseSchedule(np.array([0.9, 0.5]), np.array([0.5, 0.7])).level_of_noise(0.1)
