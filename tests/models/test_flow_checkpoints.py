"""Checkpoints of flows, x = (1 - s) x_0 + s eps: a transformer of eps - x_0, read from a diffusers folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny_checkpoints import tiny_dit
from torch.testing import assert_close

from taba_core.diffusion import generate, invert
from taba_core.diffusion.ends import Held
from taba_core.diffusion.level import Level
from taba_core.diffusion.schedule import NoiseSchedule
from taba_core.errors import UsageError
from taba_core.models.base import load_model, model_spec
from taba_core.models.cards import Card, ScheduleCard
from taba_core.models.catalog import load_card
from taba_core.models.grids import timestep_grid
from taba_core.models.pipeline_dir import card_from_directory

STEPS = 10
TOLERANCE = 1e-5  # float32, of the largest value: diffusers keeps its levels in float32


def flow_directory(directory, **scheduler):
    tiny_dit(directory, out_channels=4)
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 1.0}
    path = directory / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(config | scheduler), encoding="utf-8")
    return directory


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_levels_are_those_of_diffusers(shift):
    from diffusers import FlowMatchEulerDiscreteScheduler

    schedule = NoiseSchedule.flow(1000, shift)
    theirs = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
    s = np.sqrt(schedule.noise_power)
    assert (
        np.abs(s[::-1] - theirs.sigmas.numpy()).max() < 2e-7
    )  # before set_timesteps: those of training, noise first
    assert np.abs(np.asarray(schedule.times)[::-1] - theirs.timesteps.numpy()).max() < 2e-4
    assert np.allclose(np.sqrt(schedule.signal_power), 1 - s, rtol=0, atol=1e-15)
    assert schedule.is_flow and schedule.signal_power[-1] == 0


def test_levels_of_stable_diffusion_3_and_flux_with_their_shifts():
    """Worked numbers: s_1 to s_4 of grids of 28 and 50 steps, as their pipelines' sigmas are shifted."""
    for shift, steps, expected in (
        (3.0, 50, (0.057692, 0.111111, 0.160714, 0.206897)),
        (3.158193, 50, (0.060550, 0.116289, 0.167767, 0.215456)),
    ):
        fields = load_card("photo-flow").model_dump() | {
            "schedule": {"kind": "flow", "N": 1000, "shift": shift}
        }
        grid = timestep_grid(Card(**fields), steps)
        assert [level.sigma for level in grid.levels[1:5]] == pytest.approx(expected, abs=1e-6)
        assert grid.levels[0].sigma == 0 and grid.levels[-1].sigma == 1


def test_a_time_between_two_timesteps_has_the_level_of_the_straight_line():
    schedule = NoiseSchedule.flow(1000, 3.0)
    assert schedule.level_at(125.0) == Level.flow(0.125, 125.0)
    assert schedule.level_at(0.0) == Level.flow(0.0, 0.0)
    with pytest.raises(UsageError, match="no time of a noise schedule"):
        schedule.level_at(1002.0)
    assert not NoiseSchedule.linear(10).is_flow


def test_sampling_is_that_of_diffusers_and_inversion_its_mirror(tmp_path):
    from diffusers import DiTTransformer2DModel, FlowMatchEulerDiscreteScheduler

    directory = flow_directory(tmp_path / "model")
    card, model = load_card(str(directory)), load_model(str(directory))
    assert (card.prediction, card.schedule.kind, model.held) == ("velocity", "flow", Held.VELOCITY)
    grid = timestep_grid(card, STEPS)
    transformer = DiTTransformer2DModel.from_pretrained(directory / "transformer")
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(directory / "scheduler")
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / STEPS, STEPS))
    classes = torch.tensor([3, 7])
    noise = torch.randn(2, *model.sample_shape, generator=torch.Generator().manual_seed(4))
    x = noise
    with torch.no_grad():
        for t in scheduler.timesteps:
            v = transformer(x, timestep=t.expand(2), class_labels=classes, return_dict=False)[0]
            x = scheduler.step(v, t, x).prev_sample
        made = generate(model, noise, grid, {"class_id": classes})
        assert_close(made, x, rtol=0, atol=TOLERANCE * float(x.abs().max()))
        # Up, the velocity asked at the time of the level that a step ends at.
        latent = invert(model, made, grid, cond={"class_id": classes})
        y = made
        for s in scheduler.sigmas.flip(0)[1:]:
            v = transformer(y, timestep=(1000 * s).expand(2), class_labels=classes, return_dict=False)[0]
            y = y + v / STEPS
        assert_close(latent, y, rtol=0, atol=TOLERANCE * float(y.abs().max()))


def test_a_prediction_gives_the_two_ends_of_the_line(tmp_path):
    model = load_model(str(flow_directory(tmp_path / "model")))
    cond = {"class_id": torch.tensor([1])}
    x = torch.randn(1, *model.sample_shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    level = Level.flow(0.3, 300.0)
    x_0, eps = model.predict(x, level, cond)
    assert_close(0.7 * x_0 + 0.3 * eps, x)
    assert_close(model.eps(x, 300.0, cond), eps)
    pure = Level.flow(1.0, 1000.0)
    assert_close(
        model.predict(x, pure, cond).eps, x
    )  # pure noise is its own noise, whatever the network says


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_dynamic_shifting", True),
        ("shift_terminal", 0.1),
        ("invert_sigmas", True),
        ("use_karras_sigmas", True),
        ("use_exponential_sigmas", True),
        ("use_beta_sigmas", True),
        ("stochastic_sampling", True),
        ("beta_start", 0.1),
    ],
)
def test_levels_that_are_made_otherwise_are_refused_before_anything_is_loaded(field, value, tmp_path):
    directory = flow_directory(tmp_path / "model", **{field: value})
    with pytest.raises(
        UsageError, match=f"{field}=.* allowed value or delete it from this file|{field}=.*knows"
    ):
        load_card(str(directory))


def test_what_flows_do_without_changes_nothing(tmp_path):
    plain = card_from_directory(flow_directory(tmp_path / "a" / "model"))
    directory = flow_directory(
        tmp_path / "b" / "model", base_shift=0.5, max_shift=1.15, time_shift_type="linear"
    )
    assert (
        card_from_directory(directory).schedule
        == plain.schedule
        == ScheduleCard(kind="flow", N=1000, shift=1.0)
    )
    assert model_spec(str(directory)).fingerprint


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prediction": "epsilon"}, "predicts epsilon says nothing of the image"),
        ({"prediction": "v"}, "predict the velocity eps - x_0 have a schedule of kind flow, and only they"),
        (
            {"schedule": {"kind": "linear", "N": 1000, "beta_start": 1e-4, "beta_end": 0.02}},
            "have a schedule of kind",
        ),
        (
            {"schedule": {"kind": "flow", "N": 1000}},
            "a flow schedule takes shift, not beta_start or beta_end or max",
        ),
        (
            {"schedule": {"kind": "flow", "N": 1000, "shift": 1, "zero_terminal_snr": True}},
            "ends in pure noise already",
        ),
    ],
)
def test_cards_that_are_no_flow_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        Card(**load_card("photo-flow").model_dump() | changed)
