"""Checkpoints whose noise schedule ends at alpha = 0: v- and x_0-predicting networks run, epsilon is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from tiny_checkpoints import ddim_scheduler, edit_json, tiny_unet
from tiny_text_checkpoints import SDXL_BETAS, save_scheduler, save_tiny_sd
from torch.testing import assert_close

from taba_core.diffusion import ddim_step, generate, invert
from taba_core.errors import UsageError
from taba_core.models.base import load_model, model_spec
from taba_core.models.cards import ScheduleCard
from taba_core.models.catalog import load_card
from taba_core.models.grids import timestep_grid
from taba_core.models.pipeline_dir import card_from_directory
from workflows.__main__ import main

ZERO = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "clip_sample": False}
STEPS = 10
TOLERANCE = 1e-5  # float32, of the largest value; their tables of alpha_bar are float32


def unet_directory(directory: Path, **scheduler) -> Path:
    return tiny_unet(directory, ddim_scheduler(**ZERO | scheduler))


def sd_directory(directory: Path, **scheduler) -> Path:
    save_tiny_sd(directory)
    save_scheduler(directory, "DDIMScheduler", **SDXL_BETAS, **ZERO | scheduler)
    return directory


class Case:
    """A checkpoint loaded from its folder, and diffusers' network and schedulers of the same folder."""

    def __init__(self, directory):
        from diffusers import DDIMInverseScheduler, DDIMScheduler, UNet2DConditionModel, UNet2DModel

        self.card, self.model = load_card(str(directory)), load_model(str(directory))
        self.grid = timestep_grid(self.card, STEPS)
        self.cond = {}
        unet_class = UNet2DModel
        if self.model.text is not None:
            unet_class = UNet2DConditionModel
            self.cond = self.model.text.encode(["a red boat", "the horse"])
        self.unet = unet_class.from_pretrained(directory / "unet")
        self.sampler = DDIMScheduler.from_pretrained(directory / "scheduler")
        self.inverse = DDIMInverseScheduler.from_pretrained(directory / "scheduler")
        for scheduler in (self.sampler, self.inverse):
            scheduler.set_timesteps(STEPS)
        self.noise = torch.randn(2, *self.model.sample_shape, generator=torch.Generator().manual_seed(4))

    @torch.no_grad()
    def walk(self, scheduler, x):
        """Every state of diffusers' own loop."""
        states = []
        for t in scheduler.timesteps:
            text = {"encoder_hidden_states": self.cond["prompt_embeds"]} if self.cond else {}
            x = scheduler.step(self.unet(x, t, **text).sample, t, x).prev_sample
            states.append(x)
        return states


@pytest.fixture(scope="module", params=["unet", "sd"])
def case(request, tmp_path_factory):
    make = {"unet": unet_directory, "sd": sd_directory}[request.param]
    return Case(make(tmp_path_factory.mktemp(request.param) / "model", prediction_type="v_prediction"))


def close(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, rtol=0, atol=TOLERANCE * max(1.0, float(b.abs().max())))


def test_the_grid_ends_in_pure_noise(case):
    assert case.card.schedule.zero_terminal_snr and case.grid.timesteps[-1] == 999
    assert (case.grid.levels[-1].alpha, case.grid.levels[-1].sigma) == (0.0, 1.0)
    assert case.sampler.alphas_cumprod[-1] == 0


def test_sampling_is_that_of_diffusers_scheduler(case):
    steps = []
    generate(case.model, case.noise, case.grid, case.cond, on_step=lambda r: steps.append(r.x_to))
    close(steps, case.walk(case.sampler, case.noise))


def test_inversion_is_that_of_diffusers_inverse_scheduler(case):
    image, steps = generate(case.model, case.noise, case.grid, case.cond), []
    invert(case.model, image, case.grid, cond=case.cond, on_step=lambda r: steps.append(r.x_to))
    close(steps, case.walk(case.inverse, image))


def test_a_network_that_predicts_x_0_samples_as_diffusers_and_its_inversion_keeps_the_noise(tmp_path):
    case, steps = Case(unet_directory(tmp_path / "model", prediction_type="sample")), []
    image = generate(case.model, case.noise, case.grid, on_step=lambda r: steps.append(r.x_to))
    close(steps, case.walk(case.sampler, case.noise))
    # theirs keeps x_0 and divides by the noise of the clean image, which is 0; ours keeps eps
    assert not torch.isfinite(case.walk(case.inverse, image)[0]).all()
    x = image
    for move in case.grid.upward():
        x = ddim_step(x, case.model.eps(x, move.network_time, {}), move.start, move.stop)
    assert_close(invert(case.model, image, case.grid), x, rtol=1e-5, atol=1e-5 * float(x.abs().max()))


@pytest.mark.parametrize("clean", ["one", "first"])
def test_inversion_of_v_without_the_rescaling_too(tmp_path, clean):
    # target times: v is read at the level of the network's input
    scheduler = {"rescale_betas_zero_snr": False, "set_alpha_to_one": clean == "one"}
    case, steps = Case(unet_directory(tmp_path / "model", prediction_type="v_prediction", **scheduler)), []
    invert(case.model, case.noise, case.grid, on_step=lambda r: steps.append(r.x_to))
    close(steps, case.walk(case.inverse, case.noise))


EPSILON = (
    "rescale_betas_zero_snr=True ends the noise schedule at alpha=0, where a network that predicts epsilon says "
    "nothing of the image; set rescale_betas_zero_snr to false, or prediction_type to v_prediction or sample if the "
    "network was trained to predict that."
)


class TestEpsilonIsRefused:
    def test_in_a_directory(self, tmp_path):
        directory = unet_directory(tmp_path / "model")
        with pytest.raises(UsageError) as error:
            card_from_directory(directory)
        assert str(error.value) == f"{directory.resolve()}/scheduler/scheduler_config.json: {EPSILON}"

    def test_on_the_command_line_with_exit_code_2_before_anything_runs(self, tmp_path, capsys):
        directory = unet_directory(tmp_path / "model")
        store = tmp_path / "store"
        with pytest.raises(SystemExit) as stop:
            main(["run", "correlation", "--model", str(directory), "--store", str(store)])
        assert stop.value.code == 2
        assert capsys.readouterr().err.endswith(f"scheduler_config.json: {EPSILON}\n")
        assert not store.exists()

    def test_in_a_card(self, tmp_path):
        card = tmp_path / "mine.yaml"
        card.write_text(
            yaml.safe_dump(
                {
                    "extends": "ldm",
                    "title": "Mine",
                    "schedule": {"kind": "linear", "N": 1000, "beta_start": 1e-4, "beta_end": 0.02}
                    | {"zero_terminal_snr": True},
                }
            )
        )
        with pytest.raises(
            UsageError, match=r"its noise schedule ends at alpha=0 .* state prediction: v or sample"
        ):
            load_card(str(card))

    def test_weights_of_another_schedule_than_the_cards_are(self, tmp_path):
        directory = unet_directory(tmp_path / "model", prediction_type="v_prediction")
        card = load_card(str(directory))
        edit_json(directory / "scheduler" / "scheduler_config.json", rescale_betas_zero_snr=False)
        plain = tmp_path / "card.yaml"
        plain.write_text(yaml.safe_dump(card.model_dump(mode="json")))
        with pytest.raises(
            UsageError, match=r"says schedule\.zero_terminal_snr=False, the card of .* says True"
        ):
            load_model(str(plain), weights=directory)


def test_a_schedule_without_the_rescaling_is_written_as_before(tmp_path):
    # keys of stores are hashes of cards
    assert ScheduleCard(kind="linear", N=10, beta_start=0.1, beta_end=0.2).model_dump() == {
        "kind": "linear",
        "N": 10,
        "beta_start": 0.1,
        "beta_end": 0.2,
        "max_beta": None,
    }
    zero = unet_directory(tmp_path / "zero", prediction_type="v_prediction")
    plain = unet_directory(tmp_path / "plain", prediction_type="v_prediction", rescale_betas_zero_snr=False)
    schedules = [model_spec(str(directory)).card["schedule"] for directory in (zero, plain)]
    assert schedules[0] == schedules[1] | {"zero_terminal_snr": True}
