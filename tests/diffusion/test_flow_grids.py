"""Grids of a flow's own levels: worked numbers, diffusers' scheduler, refusals; where step 1 is asked."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from taba_core.diffusion import NoiseSchedule, TimestepGrid
from taba_core.diffusion.level import Level
from taba_core.diffusion.spacing import dynamic_shift
from taba_core.errors import UsageError
from taba_core.models.cards import Card
from taba_core.models.catalog import load_card
from taba_core.models.grids import timestep_grid

FLOW = NoiseSchedule.flow(1000, 3.0)
LINEAR = NoiseSchedule.linear()


def sigmas(style, T, shift=3.0):
    grid = TimestepGrid.build(NoiseSchedule.flow(1000, shift), T, style)
    return [level.sigma for level in grid.levels]


@pytest.mark.parametrize(
    "style, T, shift, expected",
    [
        ("sd3-default", 28, 3.0, (0.008929, 0.110906, 0.199827, 0.278049)),
        ("sd3-default", 50, 3.0, (0.008929, 0.066900, 0.120533, 0.170296)),
        ("sd3-default", 4, 3.0, (0.008929, 0.602151, 0.857692, 1.0)),
        ("shifted", 28, 3.0, (0.100000, 0.187500, 0.264706, 0.333333)),
        ("shifted", 50, 3.0, (0.057692, 0.111111, 0.160714, 0.206897)),
        ("shifted", 28, math.exp(1.15), (0.104721, 0.195455, 0.274828, 0.344849)),
        ("shifted", 50, math.exp(1.15), (0.060550, 0.116289, 0.167767, 0.215456)),
        ("shifted", 4, 1.0, (0.25, 0.5, 0.75, 1.0)),
    ],
)
def test_worked_numbers(style, T, shift, expected):
    levels = sigmas(style, T, shift)
    assert levels[0] == 0 and levels[-1] == 1 and len(levels) == T + 1
    assert levels[1:5] == pytest.approx(expected, abs=5e-7)


def test_one_step_of_a_grid_goes_from_pure_noise_to_the_image():
    assert sigmas("sd3-default", 1) == sigmas("shifted", 1) == [0.0, 1.0]


@pytest.mark.parametrize("T", [4, 8, 28, 50])
@pytest.mark.parametrize("tokens", [256, 1024, 4096])
def test_shifted_grids_are_those_of_the_pipelines_of_diffusers(T, tokens):
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    theirs.set_timesteps(sigmas=np.linspace(1, 1 / T, T), mu=math.log(dynamic_shift(tokens)))
    ours = sigmas("shifted", T, dynamic_shift(tokens))
    assert_allclose(theirs.sigmas.numpy()[::-1], ours, rtol=0, atol=1e-6)


@pytest.mark.parametrize("T", [4, 8, 28, 50])
def test_sd3_default_is_what_set_timesteps_makes_of_a_static_shift(T):
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(T)
    assert_allclose(theirs.sigmas.numpy()[::-1], sigmas("sd3-default", T), rtol=0, atol=1e-6)


def test_the_dynamic_shift_of_flux():
    # mu(1024) = .5 + .65 * 768 / 3840 = .63, mu(4096) = 1.15
    assert dynamic_shift(1024) == pytest.approx(1.877611, abs=5e-7) == math.exp(0.63)
    assert dynamic_shift(4096) == pytest.approx(3.158193, abs=5e-7)
    assert dynamic_shift(256) == pytest.approx(math.exp(0.5), rel=1e-15)
    with pytest.raises(UsageError, match=r"^num_tokens=0: an image has at least one token"):
        dynamic_shift(0)


def test_a_networks_time_belongs_to_its_level_in_both_directions():
    grid = TimestepGrid.build(FLOW, 28, "shifted")
    down = {move.step: move.network_time for move in grid.downward()}
    assert down == {move.step: move.network_time for move in grid.upward()}
    assert_allclose(grid.network_times, [1000 * level.sigma for level in grid.levels[1:]], rtol=1e-15)
    # the labels of stored steps are the training timesteps nearest to the levels
    assert_allclose(np.sqrt(FLOW.noise_power)[grid.timesteps], sigmas("shifted", 28)[1:], rtol=0, atol=2e-3)


@pytest.mark.parametrize("shift", [1.0, 3.0, 3.158193, math.exp(1.15), 0.7])
def test_the_last_level_is_pure_noise_to_the_bit_whatever_the_shift_is(shift):
    assert NoiseSchedule.flow(1000, shift).level(-1) == Level(0.0, 1.0, 1000.0)
    for style in ("shifted", "sd3-default"):
        assert TimestepGrid.build(NoiseSchedule.flow(1000, shift), 28, style).levels[-1].alpha == 0


def test_grids_that_are_not_there():
    for call, text in (
        (lambda: TimestepGrid.build(LINEAR, 28, "shifted"), "grid style 'shifted' has levels of a flow"),
        (lambda: TimestepGrid.build(FLOW, 28, "shifted", 1), "steps_offset=1 and final_alpha_bar=one with"),
        (
            lambda: TimestepGrid.build(FLOW, 28, "sd3-default", final_alpha_bar="first"),
            "steps_offset=0 and final_alpha_bar=first with grid style 'sd3-default'",
        ),
        (lambda: TimestepGrid.build(FLOW, 1001, "shifted"), "num_inference_steps=1001 on a schedule of 1000"),
    ):
        with pytest.raises(UsageError, match=f"^{text}"):
            call()


def test_a_card_names_its_grid():
    def card(name, **changed):
        return Card(**load_card(name).model_dump() | changed)

    style = {"style": "shifted", "steps_offset": 0, "final_alpha_bar": "one"}
    assert timestep_grid(card("photo-flow", grid=style), 28).levels[1].sigma == pytest.approx(
        1 / 28, rel=1e-15
    )
    with pytest.raises(
        ValueError, match="grid style 'shifted' has levels of a flow, and the schedule is of kind"
    ):
        card("photo-dit", grid=style)


def test_where_step_1_is_asked_under_source_times():
    grid = TimestepGrid.build(FLOW, 4, "shifted")
    one, zero = (grid.upward(network_time="source", first_time=t) for t in ("one", "zero"))
    assert [move.network_time for move in zero] == pytest.approx([0.0, 500.0, 750.0, 900.0])
    assert [move.network_time for move in one] == pytest.approx([500.0, 500.0, 750.0, 900.0])
    assert one[1:] == zero[1:] == grid.upward(1, network_time="source", first_time="zero")
    with pytest.raises(
        UsageError, match=r"^first_time=zero: only a network of a flow knows a time of the clean"
    ):
        TimestepGrid.build(LINEAR, 10).upward(network_time="source", first_time="zero")
    with pytest.raises(UsageError, match=r"^unknown first_time 'two'"):
        grid.upward(first_time="two")


@pytest.mark.parametrize("K", [1, 3, 9])
def test_with_source_times_the_matching_level_is_the_exact_one(K):
    for grid in (TimestepGrid.build(FLOW, 10, "shifted"), TimestepGrid.build(LINEAR, 10)):
        exact, matched = (
            grid.replacement_level(K, rule, network_time="source") for rule in ("exact", "matched")
        )
        assert exact == matched == grid.levels[K]
        assert grid.replacement_level(K, "matched") == grid.levels[K + 1]
