"""Indices, levels and conventions of the grids, and what the errors say."""

import math
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from taba_core.diffusion import NoiseSchedule, TimestepGrid
from taba_core.errors import UsageError

LINEAR = NoiseSchedule.linear()
SDXL = NoiseSchedule.scaled_linear(1000, 0.00085, 0.012)
COSINE_4000 = NoiseSchedule.cosine(4000, timestep_scale=1000 / 4000)

# Noise level sqrt(1 - alpha_bar) of forward replacement of K = 1, 2, 3, 4 steps (specification, T9).
FORWARD_LEVELS = [
    ((LINEAR, 50), "exact", [0.0100, 0.0791, 0.1422, 0.2042]),
    ((LINEAR, 50), "matched", [0.0791, 0.1422, 0.2042, 0.2648]),
    ((LINEAR, 100), "exact", [0.0100, 0.0468, 0.0791, 0.1109]),
    ((LINEAR, 100), "matched", [0.0468, 0.0791, 0.1109, 0.1422]),
    ((SDXL, 50, "diffusers-leading", 1, "first"), "exact", [0.0413, 0.1401, 0.1978, 0.2454]),
    ((SDXL, 50, "diffusers-leading", 1, "first"), "matched", [0.1401, 0.1978, 0.2454, 0.2879]),
    ((SDXL, 100, "diffusers-leading", 1, "first"), "exact", [0.0413, 0.1023, 0.1401, 0.1708]),
    ((SDXL, 100, "diffusers-leading", 1, "first"), "matched", [0.1023, 0.1401, 0.1708, 0.1978]),
    ((NoiseSchedule.scaled_linear(1000, 0.0015, 0.0195), 50), "exact", [0.0387, 0.1807, 0.2568, 0.3181]),
    ((NoiseSchedule.scaled_linear(1000, 0.0015, 0.0195), 50), "matched", [0.1807, 0.2568, 0.3181, 0.3718]),
    ((NoiseSchedule.cosine(), 50), "exact", [0.0064, 0.0434, 0.0753, 0.1066]),
    ((NoiseSchedule.cosine(), 50), "matched", [0.0434, 0.0753, 0.1066, 0.1377]),
    ((NoiseSchedule.cosine(), 100), "exact", [0.0064, 0.0269, 0.0434, 0.0594]),
    ((NoiseSchedule.cosine(), 100), "matched", [0.0269, 0.0434, 0.0594, 0.0753]),
    ((COSINE_4000, 50, "guided"), "exact", [0.0031, 0.0422, 0.0741, 0.1054]),
    ((COSINE_4000, 50, "guided"), "shifted", [0.0422, 0.0741, 0.1054, 0.1365]),
    ((COSINE_4000, 100, "guided"), "exact", [0.0031, 0.0256, 0.0422, 0.0583]),
    ((COSINE_4000, 100, "guided"), "shifted", [0.0256, 0.0422, 0.0583, 0.0741]),
]


@pytest.mark.parametrize("grid, rule, sigmas", FORWARD_LEVELS)
def test_forward_replacement_noises_to_the_published_levels(grid, rule, sigmas):
    grid = TimestepGrid.build(*grid)
    level, levels = ("exact", "shifted") if rule == "shifted" else (rule, "exact")
    alpha_bar = [grid.replacement_level(K, level, levels).alpha_bar for K in (1, 2, 3, 4)]
    assert_allclose(np.sqrt(1 - np.array(alpha_bar)), sigmas, rtol=0, atol=5e-5)


def test_timesteps_of_the_spacings():
    def timesteps(*grid):
        return TimestepGrid.build(*grid).timesteps[[0, 1, 2, -1]].tolist()

    assert timesteps(LINEAR, 50) == [0, 20, 40, 980]
    assert timesteps(SDXL, 50, "diffusers-leading", 1) == [1, 21, 41, 981]
    assert timesteps(LINEAR, 30) == [0, 33, 66, 957]  # floor(1000 / 30) = 33
    assert timesteps(LINEAR, 30, "guided") == [0, 34, 68, 986]  # ceil(1000 / 33) = 31, ceil(1000 / 34) = 30
    assert timesteps(LINEAR, 30, "diffusers-trailing") == [32, 66, 99, 999]  # round(1000 j / 30) - 1
    assert timesteps(COSINE_4000, 100, "guided") == [0, 40, 80, 3960]


def test_network_time_is_rescaled_for_4000_training_steps():
    grid = TimestepGrid.build(COSINE_4000, 100, "guided")
    assert grid.network_times[1:5].tolist() == [10, 20, 30, 40]


def test_trailing_steps_that_join_no_two_grid_points():
    # floor(1000 / 30) = 33, but the timesteps lie 33 or 34 apart: 34 where the lower level is off the grid
    grid = TimestepGrid.build(LINEAR, 30, "diffusers-trailing")
    off_grid = grid.source_timesteps[1:] != grid.timesteps[:-1]
    assert off_grid.sum() == 10
    # ... and the inverse uses the sampler's own pairs all the same
    down = {m.step: (m.start.alpha_bar, m.stop.alpha_bar) for m in grid.downward()}
    assert all(down[m.step] == (m.stop.alpha_bar, m.start.alpha_bar) for m in grid.upward())


@given(T=st.integers(1, 999), offset=st.integers(0, 1), style=st.sampled_from(["leading", "trailing"]))
def test_inversion_retraces_the_samplers_levels_on_every_grid(T, offset, style):
    offset = offset if style == "leading" else 0
    grid = TimestepGrid.build(LINEAR, T, f"diffusers-{style}", offset)
    assert len(grid.alpha_bar) == T + 1 and np.all(np.diff(grid.alpha_bar) < 0)
    pairs = [(m.step, m.start.alpha_bar, m.stop.alpha_bar, m.network_time) for m in grid.upward()]
    assert pairs == [
        (m.step, m.stop.alpha_bar, m.start.alpha_bar, m.network_time) for m in grid.downward()[::-1]
    ]


def test_transitions_of_the_conventions():
    grid = TimestepGrid.build(LINEAR, 50)
    a = grid.alpha_bar
    target, source = grid.upward()[4], grid.upward(network_time="source")[4]
    shifted = grid.upward(network_time="source", levels="shifted")
    assert (target.step, target.network_time, target.network.alpha_bar) == (5, 80, a[5])
    assert (source.step, source.network_time, source.network.alpha_bar) == (5, 60, a[4])
    assert (
        (target.start.alpha_bar, target.stop.alpha_bar)
        == (source.start.alpha_bar, source.stop.alpha_bar)
        == (a[4], a[5])
    )
    assert (shifted[4].start.alpha_bar, shifted[4].stop.alpha_bar, shifted[4].network_time) == (
        a[5],
        a[6],
        80,
    )
    assert shifted[-1].stop.alpha_bar == 0


def test_first_step_at_source_time_has_no_time_below_the_grid():
    grid = TimestepGrid.build(SDXL, 50, "diffusers-leading", 1, "first")
    assert grid.upward(network_time="source")[0].network_time == 1 == grid.upward()[0].network_time
    assert grid.upward(network_time="source")[1].network_time == 1


def test_level_zero():
    assert TimestepGrid.build(LINEAR, 50).alpha_bar[0] == 1
    assert TimestepGrid.build(LINEAR, 50, final_alpha_bar="first").alpha_bar[0] == LINEAR.alpha_bar[0]


def test_all_steps_replaced():
    grid = TimestepGrid.build(LINEAR, 50)
    assert grid.replacement_level(50, "exact").alpha_bar == grid.alpha_bar[50] == LINEAR.alpha_bar[980]
    assert grid.replacement_level(50, "matched").alpha_bar == LINEAR.alpha_bar[999]
    assert math.isclose(math.sqrt(LINEAR.alpha_bar[999]), 0.0064, abs_tol=5e-5)
    assert grid.replacement_level(50, "exact", "shifted").alpha_bar == 0
    assert grid.upward(50) == []


@pytest.mark.parametrize("level", ["exact", "matched"])
def test_no_step_replaced_adds_no_noise(level):
    assert TimestepGrid.build(LINEAR, 50).replacement_level(0, level).alpha_bar == 1


@pytest.mark.parametrize("given", [2, "2", 0.04, "0.04", "4%", " 4.0% "])
def test_four_percent_of_fifty_steps_is_two(given):
    assert TimestepGrid.build(LINEAR, 50).steps_of(given) == 2


def test_a_count_of_one_is_not_the_fraction_one():
    grid = TimestepGrid.build(LINEAR, 50)
    assert (grid.steps_of(1), grid.steps_of("1"), grid.steps_of(1.0), grid.steps_of("100%")) == (1, 1, 50, 50)
    assert grid.steps_of(0) == 0


def test_schedules():
    # cosine: beta_0 = 1 - f(1/N)/f(0), all betas capped, so alpha_bar falls to the end
    assert_allclose(NoiseSchedule.linear(2, 0.1, 0.2).alpha_bar, [0.9, 0.9 * 0.8], rtol=1e-14)
    # sqrt(beta): .1, .2, .3 -> beta: .01, .04, .09
    assert_allclose(
        NoiseSchedule.scaled_linear(3, 0.01, 0.09).alpha_bar, np.cumprod([0.99, 0.96, 0.91]), rtol=1e-14
    )
    f = [math.cos((t / 4 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(5)]
    # the last beta would be 1 and is capped at .999
    assert_allclose(
        NoiseSchedule.cosine(4).alpha_bar, [f[1] / f[0], f[2] / f[0], f[3] / f[0], f[3] / f[0] * 0.001]
    )
    assert_array_equal(NoiseSchedule.named("cosine", N=4).alpha_bar, NoiseSchedule.cosine(4).alpha_bar)
    assert NoiseSchedule.named("cosine", N=4000, timestep_scale=0.25).timestep_scale == 0.25


ERRORS = [
    (
        lambda: TimestepGrid.build(LINEAR, 99, "guided"),
        "num_inference_steps=99: no integer stride divides 1000 training timesteps into 99 steps "
        "(guided spacing). Use 100 or 91.",
    ),
    (
        lambda: TimestepGrid.build(SDXL, 1000, "diffusers-leading", 1),
        "num_inference_steps=1000 with steps_offset=1 puts a step at training timestep 1000, "
        "outside 0 to 999. Use 999 steps, or steps_offset=0.",
    ),
    (
        lambda: TimestepGrid.build(LINEAR, 0),
        "num_inference_steps=0 on a schedule of 1000 training timesteps; use 1 to 1000.",
    ),
    (
        lambda: TimestepGrid.build(LINEAR, 1001),
        "num_inference_steps=1001 on a schedule of 1000 training timesteps; use 1 to 1000.",
    ),
    (
        lambda: TimestepGrid.build(LINEAR, 50, "diffusers-trailing", 1),
        "steps_offset=1 exists for leading grids only; use 0 with 'diffusers-trailing'.",
    ),
    (
        lambda: TimestepGrid.build(LINEAR, 50, "leading"),
        "unknown grid style 'leading': did you mean diffusers-leading? "
        "Known grid styles: diffusers-leading, diffusers-trailing, guided, sd3-default, shifted.",
    ),
    (
        lambda: TimestepGrid.build(LINEAR, 50).steps_of(0.01),
        "forward_fraction=0.01 of num_inference_steps=50 is 0.5 steps; it must be whole. "
        "Use a multiple of 0.02.",
    ),
    (
        lambda: TimestepGrid.build(LINEAR, 50).steps_of("3%"),
        "forward_fraction=0.03 of num_inference_steps=50 is 1.5 steps; it must be whole. "
        "Use a multiple of 0.02.",
    ),
    (
        lambda: TimestepGrid.build(LINEAR, 50).steps_of(2.0),
        "forward_fraction=2 is not in 0 to 1. Give a fraction, or a count of steps without a point, 0 to 50.",
    ),
    (
        lambda: TimestepGrid.build(LINEAR, 50).steps_of("two"),
        "forward_steps='two' is no number of steps; "
        "give a count (2), a fraction (0.04) or a percentage (4%).",
    ),
    (
        lambda: TimestepGrid.build(LINEAR, 50).steps_of(60),
        "forward_steps=60 of num_inference_steps=50; use 0 to 50.",
    ),
    (
        lambda: TimestepGrid.build(LINEAR, 50).replacement_level(-1),
        "forward_steps=-1 of num_inference_steps=50; use 0 to 50.",
    ),
    (
        lambda: TimestepGrid.build(LINEAR, 50).upward(levels="shifted"),
        "levels=shifted treats the state as the level of the network's own time, so it needs "
        "network_time=source; set both, or levels=exact.",
    ),
    (
        lambda: NoiseSchedule.named("quadratic"),
        "unknown noise schedule 'quadratic': Known noise schedules: cosine, flow, linear, scaled-linear.",
    ),
    (
        lambda: NoiseSchedule.from_betas([0.1, 0.0]),
        "alpha_bar of shape (2,) is no noise schedule: it must be one-dimensional, strictly falling, "
        "and lie in [0, 1). Check the betas; each must lie in (0, 1), the last may be 1.",
    ),
]


@pytest.mark.parametrize("cause, text", ERRORS, ids=lambda x: x[:40] if isinstance(x, str) else "")
def test_errors_say_what_and_the_way_out(cause, text):
    with pytest.raises(UsageError) as error:
        cause()
    assert str(error.value) == text


@pytest.mark.parametrize("T", [37, 41, 43, 45, 47, 49, 51, 99])
def test_guided_grids_that_do_not_exist_suggest_ones_that_do(T):
    with pytest.raises(UsageError, match="no integer stride") as error:
        TimestepGrid.build(LINEAR, T, "guided")
    for near in re.search(r"Use (\d+) or (\d+)\.$", str(error.value)).groups():
        assert TimestepGrid.build(LINEAR, int(near), "guided").num_inference_steps == int(near)


def test_grids_do_not_import_torch():
    code = "import sys, taba_core.theory, taba_core.diffusion.grid; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
