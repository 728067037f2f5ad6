"""Bring your own: what a pipeline directory says becomes a card, and what cannot be one is refused."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny_checkpoints import edit_json, tiny_class_unet, tiny_dit, tiny_kl, tiny_ldm, tiny_unet

from taba_core.errors import UsageError
from taba_core.models.cards import GridCard
from taba_core.models.catalog import load_card
from taba_core.models.grids import noise_schedule, timestep_grid
from taba_core.models.pipeline_dir import card_from_directory, detect, stored_parameters
from taba_core.models.scheduler_config import read_process, read_sampler

# The hub's files, fields that DDIM reads.
HUB_SCHEDULERS = {
    "ldm": {
        "_class_name": "DDIMScheduler", "beta_end": 0.0195, "beta_schedule": "scaled_linear",
        "beta_start": 0.0015, "clip_sample": False, "timestep_values": None, "timesteps": 1000,
    },
    "dit": {
        "_class_name": "DDIMScheduler", "beta_end": 0.02, "beta_schedule": "linear", "beta_start": 0.0001,
        "clip_sample": False, "num_train_timesteps": 1000, "prediction_type": "epsilon",
        "set_alpha_to_one": True, "steps_offset": 0, "trained_betas": None,
    },
    "if": {
        "_class_name": "DDPMScheduler", "beta_end": 0.02, "beta_schedule": "squaredcos_cap_v2",
        "beta_start": 0.0001, "clip_sample": True, "clip_sample_range": 1.0,
        "dynamic_thresholding_ratio": 0.95, "num_train_timesteps": 1000, "prediction_type": "epsilon",
        "sample_max_value": 1.5, "thresholding": True, "trained_betas": None, "variance_type": "learned_range",
    },
    "sdxl": {
        "_class_name": "EulerDiscreteScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "clip_sample": False, "interpolation_type": "linear",
        "num_train_timesteps": 1000, "prediction_type": "epsilon", "sample_max_value": 1.0,
        "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "timestep_spacing": "leading",
        "trained_betas": None, "use_karras_sigmas": False,
    },
}  # fmt: skip


def write_scheduler(directory, **config):
    path = directory / "scheduler" / "scheduler_config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"_class_name": "DDIMScheduler"} | config))
    return path


def bare(directory, index, denoiser, config, vae=None):
    """A directory of configuration files without weights."""
    (directory / denoiser).mkdir(parents=True)
    (directory / "model_index.json").write_text(
        json.dumps({"_class_name": "Some", **{name: ["x", "y"] for name in index}})
    )
    (directory / denoiser / "config.json").write_text(json.dumps(config))
    write_scheduler(directory, clip_sample=False)
    if vae is not None:
        (directory / "vae").mkdir()
        (directory / "vae" / "config.json").write_text(json.dumps(vae))
    return directory


LATENT_UNET = {"_class_name": "UNet2DModel", "in_channels": 4, "out_channels": 4, "sample_size": 16}
TEXT_UNET = {"_class_name": "UNet2DConditionModel", "in_channels": 4, "out_channels": 4, "sample_size": 16}
KL = {"_class_name": "AutoencoderKL", "block_out_channels": [1, 2, 4, 4], "scaling_factor": 0.13025}


@pytest.mark.parametrize("name", list(HUB_SCHEDULERS))
def test_the_hubs_scheduler_files_are_what_the_built_in_cards_say(name, tmp_path):
    card = load_card(name)
    path = write_scheduler(tmp_path, **HUB_SCHEDULERS[name])
    process, sampler = read_process(path), read_sampler(path, latent=card.domain == "latent")
    assert (process.schedule, process.prediction) == (card.schedule, card.prediction)
    assert GridCard(**sampler.grid) == card.grid
    rules = (card.reference.sampling_x0_rule, card.reference.inversion_x0_rule)
    assert (sampler.sampling_x0_rule, sampler.inversion_x0_rule) == rules


@pytest.mark.parametrize(
    "config",
    [
        *HUB_SCHEDULERS.values(),
        {"timestep_spacing": "trailing", "steps_offset": 1, "set_alpha_to_one": False},
        {"_class_name": "PNDMScheduler", "steps_offset": 1, "set_alpha_to_one": False, "skip_prk_steps": True},
        {"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 500},
    ],
)  # fmt: skip
@pytest.mark.parametrize("steps", [7, 10, 50])
def test_the_grid_is_ddim_schedulers_own(config, steps, tmp_path):
    from diffusers import DDIMInverseScheduler, DDIMScheduler

    directory = bare(tmp_path / "model", ("unet", "vae"), "unet", LATENT_UNET, KL)
    write_scheduler(directory, **config)
    grid = timestep_grid(card_from_directory(directory), steps)

    ddim = DDIMScheduler.from_pretrained(directory / "scheduler")
    ddim.set_timesteps(steps)
    taus = ddim.timesteps.numpy()[::-1]
    table = ddim.alphas_cumprod.numpy()
    before = taus - ddim.config.num_train_timesteps // steps
    lower = np.where(before >= 0, table[np.maximum(before, 0)], float(ddim.final_alpha_cumprod))
    np.testing.assert_array_equal(grid.timesteps, taus)
    np.testing.assert_allclose(grid.upper_alpha_bar, table[taus], rtol=2e-4, atol=1e-8)
    np.testing.assert_allclose(grid.lower_alpha_bar, lower, rtol=2e-4, atol=1e-8)

    inverse = DDIMInverseScheduler.from_pretrained(directory / "scheduler")
    inverse.set_timesteps(steps)
    np.testing.assert_array_equal([m.network_time for m in grid.upward()], inverse.timesteps.numpy())


def test_families_are_detected(tmp_path):
    found = {
        name: detect(make(tmp_path / name))
        for name, make in {"u": tiny_unet, "c": tiny_class_unet, "l": tiny_ldm, "d": tiny_dit}.items()
    }
    assert {name: (d.family, d.conditional, d.denoiser, d.codec) for name, d in found.items()} == {
        "u": ("unet", "none", "unet", None),
        "c": ("unet", "class", "unet", None),
        "l": ("ldm", "none", "unet", "vqvae"),
        "d": ("dit", "class", "transformer", "vae"),
    }


@pytest.mark.parametrize(
    ("index", "vae", "family", "image_size", "forward_level"),
    [
        (("unet", "vae", "text_encoder"), KL, "sd", 128, "exact"),
        (("unet", "vae", "text_encoder", "text_encoder_2"), KL, "sdxl", 128, "exact"),
        (("unet", "text_encoder"), None, "if", 16, "matched"),
    ],
)
def test_text_conditional_directories_become_cards(index, vae, family, image_size, forward_level, tmp_path):
    card = card_from_directory(bare(tmp_path / "m", index, "unet", TEXT_UNET, vae))
    assert (card.family, card.conditional, card.image_size) == (family, "text", image_size)
    assert card.reference.forward_level == forward_level
    assert card.scaling_factor == (0.13025 if vae else 1.0)


def test_a_card_says_what_the_directory_says(tmp_path):
    card = card_from_directory(tiny_dit(tmp_path / "My DiT"))
    assert (card.title, card.family, card.sample_shape, card.image_size) == ("My DiT", "dit", (4, 8, 8), 32)
    assert (card.weights.source, card.weights.location) == ("path", str(tmp_path / "My DiT"))
    assert card.reference.model_dump() == {
        "network_time": "target", "levels": "exact", "sampling_x0_rule": "none",
        "inversion_x0_rule": "none", "forward_level": "matched",
    }  # fmt: skip
    # A shard: 4 * 8 * 8 values of 4 bytes, states and predictions of 100 steps: 0.2 MB a sample, at most 128.
    assert card.defaults.batch_size == 128 and card.cost.image_seconds > 0


def test_clipping_not_mentioned_holds_for_pixels_only(tmp_path):
    pixel, latent = tiny_unet(tmp_path / "p"), tiny_ldm(tmp_path / "l")
    for directory in (pixel, latent):
        edit_json(directory / "scheduler" / "scheduler_config.json", clip_sample=...)
    assert card_from_directory(pixel).reference.sampling_x0_rule == "clip"
    assert card_from_directory(latent).reference.sampling_x0_rule == "none"


def test_a_silent_codec_has_the_originals_scaling(tmp_path):
    ldm, dit = tiny_ldm(tmp_path / "l"), tiny_dit(tmp_path / "d")
    edit_json(ldm / "vqvae" / "config.json", scaling_factor=...)
    edit_json(dit / "vae" / "config.json", scaling_factor=...)
    assert card_from_directory(ldm).scaling_factor == 1.0
    assert card_from_directory(dit).scaling_factor == 0.18215


def test_parameters_are_counted_from_the_headers(tmp_path):
    model = tiny_kl()
    count = sum(p.numel() for p in model.parameters())
    model.save_pretrained(tmp_path / "full")
    model.half().save_pretrained(tmp_path / "half", variant="fp16")
    model.half().save_pretrained(tmp_path / "sharded", max_shard_size="50KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert stored_parameters(tmp_path / "full") == (count, False)
    assert stored_parameters(tmp_path / "half") == stored_parameters(tmp_path / "sharded") == (count, True)
    # A pickle is estimated from its size, as float32; its container adds a little for each of few tensors.
    (tmp_path / "pickle").mkdir()
    torch.save({"weight": torch.zeros(100_000)}, tmp_path / "pickle" / "diffusion_pytorch_model.bin")
    assert stored_parameters(tmp_path / "pickle")[0] == pytest.approx(100_000, rel=0.01)


def test_half_precision_files_alone_are_loaded_and_said_by_the_card(tmp_path):
    from taba_core.models.dit import load
    from taba_core.models.profile import profile_named

    directory = tiny_dit(tmp_path / "dit")
    for part in ("transformer", "vae"):
        file = directory / part / "diffusion_pytorch_model.safetensors"
        file.rename(file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    network = load(card_from_directory(directory), directory, device="cpu", profile=profile_named("exact"))
    assert network.eps(torch.zeros(1, 4, 8, 8), 3, {"class_id": torch.tensor([1])}).shape == (1, 4, 8, 8)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "EDMEulerScheduler"}, "_class_name=EDMEulerScheduler is not"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas=a table is not supported; it must be null, or the 1000 bet"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule=sigmoid is not supported; it must be one of linear, scaled"),
        ({"prediction_type": "flow"}, "prediction_type=flow is not supported; it must be one of epsilon, v_pred"),
    ],
)  # fmt: skip
def test_processes_taba_does_not_run_are_refused(config, message, tmp_path):
    path = write_scheduler(tmp_path, **config)
    way_out = "a fact about the weights, which no card can change. Use another model, or correct the file"
    with pytest.raises(UsageError, match=f"{path}: {message}.*{way_out}"):
        read_process(path)


def test_silent_betas_are_those_of_the_schedulers_own_class(tmp_path):
    # Unlike the others, Heun's class starts from Stable Diffusion's betas.
    from diffusers import HeunDiscreteScheduler

    path = write_scheduler(tmp_path, _class_name="HeunDiscreteScheduler")
    card = read_process(path).schedule
    assert (card.kind, card.beta_start, card.beta_end) == ("linear", 0.00085, 0.012)
    assert (HeunDiscreteScheduler().config.beta_start, HeunDiscreteScheduler().config.beta_end) == (
        0.00085,
        0.012,
    )


@pytest.mark.parametrize("name", list(HUB_SCHEDULERS))
def test_a_table_of_betas_is_recognised_as_its_named_schedule(name, tmp_path):
    from diffusers import DDIMScheduler

    named = write_scheduler(tmp_path / "named", **HUB_SCHEDULERS[name])
    table = DDIMScheduler.from_pretrained(named.parent).betas.tolist()  # single precision
    listed = write_scheduler(tmp_path / "listed", trained_betas=table)
    found, expected = read_process(listed).schedule, read_process(named).schedule
    assert (found.kind, found.N, found.max_beta) == (expected.kind, expected.N, expected.max_beta)
    if expected.kind != "cosine":
        ends = (expected.beta_start, expected.beta_end)
        assert (found.beta_start, found.beta_end) == pytest.approx(ends, rel=1e-6)


def test_directories_that_are_no_model_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"model_index.json is missing; give a complete diffusers pipeline"):
        card_from_directory(tmp_path)
    other = {"_class_name": "PixArtTransformer2DModel"}
    with pytest.raises(
        UsageError, match="is a PixArtTransformer2DModel; the families that run are UNet2DModel, UNet2DC"
    ):
        card_from_directory(bare(tmp_path / "pixart", ("transformer",), "transformer", other))
    flux = {"_class_name": "FluxTransformer2DModel"}
    with pytest.raises(UsageError, match="lists no vae, and a FluxTransformer2DModel works on latents"):
        card_from_directory(bare(tmp_path / "flux", ("transformer",), "transformer", flux))
    with pytest.raises(UsageError, match="lists no unet and no transformer"):
        card_from_directory(bare(tmp_path / "none", ("prior",), "prior", other))
    inpainting = TEXT_UNET | {"in_channels": 9}
    with pytest.raises(UsageError, match="9 channels in, 4 out; a denoiser returns as many as it is given"):
        card_from_directory(bare(tmp_path / "inpaint", ("unet", "vae"), "unet", inpainting, KL))
    with pytest.raises(UsageError, match="sample_size=None; both must be stated"):
        card_from_directory(bare(tmp_path / "size", ("unet",), "unet", TEXT_UNET | {"sample_size": None}))
    with pytest.raises(UsageError, match="a pixel model's sample_shape is its image size"):
        card_from_directory(bare(tmp_path / "wide", ("unet",), "unet", TEXT_UNET | {"sample_size": [8, 16]}))
    broken = bare(tmp_path / "broken", ("unet",), "unet", TEXT_UNET)
    (broken / "unet" / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"unet/config.json is no readable JSON"):
        card_from_directory(broken)
    damaged = bare(tmp_path / "damaged", ("unet",), "unet", TEXT_UNET)
    (damaged / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"<html>404</html>")
    with pytest.raises(
        UsageError,
        match=r"safetensors is a web page, which was saved under this name, not a safetensors file\.",
    ):
        card_from_directory(damaged)


def test_a_component_listed_as_absent_is_absent(tmp_path):
    directory = tiny_unet(tmp_path / "model")
    edit_json(directory / "model_index.json", vae=[None, None])
    assert card_from_directory(directory).domain == "pixel"


def test_labels_with_a_gap_are_refused(tmp_path):
    from taba_core.models.pipeline_dir import class_names_of

    directory = tiny_class_unet(tmp_path / "m", 3, {"0": "a", "2": "c"})
    with pytest.raises(UsageError, match=r"id2label must name the classes 0, 1, 2 \.\.\. without a gap"):
        class_names_of(directory, 3)
    edit_json(directory / "model_index.json", id2label={"0": "a", "1": "b"})
    with pytest.raises(UsageError, match="id2label names 2 classes, the network knows 1"):
        class_names_of(directory, 1)


def test_a_card_of_a_directory_needs_no_torch(tmp_path):
    directory = tiny_unet(tmp_path / "model")
    code = (
        "import sys; from pathlib import Path; from taba_core.models.pipeline_dir import card_from_directory;"
        f"card_from_directory(Path({str(directory)!r}));"
        "sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_schedule_is_diffusers_table(tmp_path):
    from diffusers import DDIMScheduler

    for name, config in HUB_SCHEDULERS.items():
        write_scheduler(tmp_path / name, **config)
        table = DDIMScheduler.from_pretrained(tmp_path / name / "scheduler").alphas_cumprod.numpy()
        # Theirs is float32; at the last cosine levels 1 - beta has few digits left.
        np.testing.assert_allclose(noise_schedule(load_card(name)).alpha_bar, table, rtol=2e-4, atol=1e-8)
