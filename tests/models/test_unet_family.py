"""U-Net family: LDM and pipelines of one's own, against diffusers' own samplers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_checkpoints import (
    LDM_SCHEDULER,
    ddim_scheduler,
    edit_json,
    tiny_class_unet,
    tiny_ldm,
    tiny_unet,
)
from torch.testing import assert_close

from taba_core.diffusion import CountedDenoiser, generate, invert
from taba_core.errors import UsageError, WorkError
from taba_core.models.catalog import load_card
from taba_core.models.grids import timestep_grid
from taba_core.models.network import Network
from taba_core.models.pipeline_dir import card_from_directory
from taba_core.models.profile import profile_named
from taba_core.models.unet import load

EXACT = profile_named("exact")


def normal(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def load_directory(directory, profile=EXACT):
    card = card_from_directory(directory)
    return card, load(card, directory, device="cpu", profile=profile)


def run(card, model, noise, steps=10, cond=None):
    """(x_0, latent, reconstruction) under the card's conventions."""
    grid, rules = timestep_grid(card, steps), card.reference
    x_0 = generate(model, noise, grid, cond, x0_rule=rules.sampling_x0_rule)
    latent = invert(
        model, x_0, grid, "ddim", cond,
        network_time=rules.network_time, levels=rules.levels, x0_rule=rules.inversion_x0_rule,
    )  # fmt: skip
    return x_0, latent, generate(model, latent, grid, cond, x0_rule=rules.sampling_x0_rule)


@pytest.fixture(scope="module")
def ldm(tmp_path_factory):
    return tiny_ldm(tmp_path_factory.mktemp("ckpt") / "ldm")


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    return tiny_class_unet(tmp_path_factory.mktemp("ckpt") / "classes")


def test_ldm_there_and_back_again(ldm):
    card, model = load_directory(ldm)
    assert (card.family, card.domain, card.scaling_factor, card.image_size) == ("ldm", "latent", 1.0, 32)
    counted = CountedDenoiser(model)
    x_0, latent, reconstruction = run(card, counted, normal(2, 3, 8, 8), steps=20)
    assert counted.num_calls == 60 and x_0.dtype == torch.float32
    assert not torch.equal(latent, normal(2, 3, 8, 8))
    # Inversion is wrong at first order: four times the steps leave about a quarter of the error.
    x_80, _, reconstruction_80 = run(card, model, normal(2, 3, 8, 8), steps=80)
    error, error_80 = (reconstruction - x_0).abs().mean(), (reconstruction_80 - x_80).abs().mean()
    assert 0.15 < error_80 / error < 0.45 and error < 0.15 * x_0.abs().mean()
    assert model.codec.decode(x_80).shape == model.codec.decode(reconstruction_80).shape == (2, 3, 32, 32)


def test_the_built_in_ldm_card_runs_a_checkpoint_of_another_size(ldm):
    card = load_card("ldm").model_copy(update={"sample_shape": (3, 8, 8)})
    model = load(card, ldm, device="cpu", profile=EXACT)
    _, same = load_directory(ldm)
    x = normal(2, 3, 8, 8)
    assert_close(model.eps(x, 500, {}), same.eps(x, 500, {}), rtol=0, atol=0)


@pytest.mark.parametrize(
    "scheduler",
    [
        LDM_SCHEDULER,
        {"clip_sample": True},
        {"clip_sample": False, "prediction_type": "v_prediction"},
        {"clip_sample": False, "prediction_type": "sample"},
        {"beta_schedule": "squaredcos_cap_v2", "clip_sample": False, "steps_offset": 1, "set_alpha_to_one": False},
        {"clip_sample": False, "timestep_spacing": "trailing"},
    ],
)  # fmt: skip
def test_sampling_equals_diffusers_own_loop(tmp_path, scheduler):
    from diffusers import DDIMScheduler, UNet2DModel

    directory = tiny_unet(tmp_path / "model", ddim_scheduler(**scheduler))
    card, model = load_directory(directory)
    noise = normal(2, 3, 16, 16)
    ours = generate(model, noise, timestep_grid(card, 8), x0_rule=card.reference.sampling_x0_rule)

    unet = UNet2DModel.from_pretrained(directory / "unet")
    ddim, x = DDIMScheduler.from_pretrained(directory / "scheduler"), noise
    ddim.set_timesteps(8)
    with torch.no_grad():
        for t in ddim.timesteps:
            x = ddim.step(unet(x, t).sample, t, x).prev_sample
    # Theirs are float32 tables, whose rounding 1 / sqrt(alpha_bar_T) = 157 enlarges in the first step.
    assert (ours - x).abs().max() < 3e-4 * max(1, float(x.abs().max()))


def test_the_published_architectures_have_the_cards_parameters():
    # Configurations of CompVis/ldm-celebahq-256 and facebook/DiT-XL-2-256.
    from diffusers import DiTTransformer2DModel, UNet2DModel

    with torch.device("meta"):
        ldm = UNet2DModel(
            sample_size=64,
            block_out_channels=(224, 448, 672, 896),
            layers_per_block=2,
            attention_head_dim=32,
            down_block_types=("DownBlock2D", *["AttnDownBlock2D"] * 3),
            up_block_types=(*["AttnUpBlock2D"] * 3, "UpBlock2D"),
        )
        dit = DiTTransformer2DModel(out_channels=8)
    for name, network in (("ldm", ldm), ("dit", dit)):
        parameters = sum(p.numel() for p in network.parameters())
        assert parameters == pytest.approx(load_card(name).num_parameters, rel=1e-4)


def test_inversion_equals_diffusers_inverse_scheduler(ldm):
    from diffusers import DDIMInverseScheduler, UNet2DModel

    card, model = load_directory(ldm)
    x_0 = normal(2, 3, 8, 8, seed=3)
    ours = invert(model, x_0, timestep_grid(card, 10))
    unet = UNet2DModel.from_pretrained(ldm / "unet")
    inverse, x = DDIMInverseScheduler.from_pretrained(ldm / "scheduler"), x_0
    inverse.set_timesteps(10)
    with torch.no_grad():
        for t in inverse.timesteps:
            x = inverse.step(unet(x, t).sample, t, x).prev_sample
    assert_close(ours, x, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
@pytest.mark.parametrize("t", [0, 20, 999])
def test_every_prediction_becomes_the_epsilon_of_a_known_state(prediction, t, ldm):
    # x_t = sqrt(a) x_0 + sqrt(1-a) eps and v = sqrt(a) eps - sqrt(1-a) x_0, with x_0 and eps given.
    card = card_from_directory(ldm).model_copy(update={"prediction": prediction})
    x_0, eps = normal(2, 3, 8, 8, seed=5).double(), normal(2, 3, 8, 8, seed=6).double()
    network = Network.of_card(card, lambda x, time, cond: raw)
    a = float(network.schedule.alpha_bar[t])
    raw = {"epsilon": eps, "sample": x_0, "v": a**0.5 * eps - (1 - a) ** 0.5 * x_0}[prediction]
    x_t = a**0.5 * x_0 + (1 - a) ** 0.5 * eps
    assert_close(network.eps(x_t, t, {}), eps, atol=1e-12, rtol=1e-10)


def test_weights_of_another_prediction_are_refused(tmp_path):
    directory = tiny_ldm(tmp_path / "v")
    edit_json(directory / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    card = load_card("ldm").model_copy(update={"sample_shape": (3, 8, 8)})
    with pytest.raises(
        UsageError, match=r"says prediction=v, the card of ldm says epsilon: .* `extends: ldm`"
    ):
        load(card, directory, device="cpu", profile=EXACT)


def test_another_class_changes_eps_and_names_come_from_the_directory(classes, tmp_path):
    card, model = load_directory(classes)
    assert card.conditional == "class" and model.class_names == ("0", "1", "2", "3", "4")
    x = normal(2, 3, 16, 16)
    first, second = (model.eps(x, 400, {"class_id": torch.tensor([c, 2])}) for c in (0, 1))
    assert (first[0] - second[0]).abs().max() > 1e-3
    assert_close(first[1], second[1], atol=1e-6, rtol=0)  # row i depends on row i only
    # A null class beyond the named ones is embedded and never drawn.
    labelled = tiny_class_unet(tmp_path / "l", 5, {"0": "sea", "1": "fox, red fox", "2": "sky", "3": "cup"})
    assert load_directory(labelled)[1].class_names == ("sea", "fox", "sky", "cup")


def test_a_class_that_is_missing_or_unknown_is_refused(classes):
    _, model = load_directory(classes)
    x = normal(2, 3, 16, 16)
    with pytest.raises(UsageError, match=r"needs cond\['class_id'\], int64 \(B,\), 0 to 4"):
        model.eps(x, 400, {})
    with pytest.raises(UsageError, match="spans 0 to 5; the network has classes 0 to 4"):
        model.eps(x, 400, {"class_id": torch.tensor([0, 5])})


def test_timesteps_as_class_embedding_and_learned_times_run(tmp_path):
    directory = tiny_unet(tmp_path / "a", class_embed_type="timestep", num_class_embeds=7)
    _, model = load_directory(directory)
    x = normal(1, 3, 16, 16)
    one, two = (model.eps(x, 400, {"class_id": torch.tensor([c])}) for c in (1, 6))
    assert len(model.class_names) == 7 and not torch.allclose(one, two)
    learned = tiny_unet(tmp_path / "b", time_embedding_type="learned", num_train_timesteps=1000)
    _, model = load_directory(learned)
    assert not torch.allclose(model.eps(x, 400, {}), model.eps(x, 401, {}))


def test_learned_variance_is_dropped(tmp_path):
    from diffusers import UNet2DModel

    directory = tiny_unet(tmp_path / "six", out_channels=6)
    _, model = load_directory(directory)
    x = normal(2, 3, 16, 16)
    with torch.no_grad():
        raw = UNet2DModel.from_pretrained(directory / "unet")(x, 300).sample
    assert raw.shape[1] == 6
    assert_close(model.eps(x, 300, {}), raw[:, :3], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(("name", "precision"), [("reference", "fp16"), ("fast", "fp32")])
def test_half_precision_does_not_leak_into_the_state(ldm, name, precision):
    card = card_from_directory(ldm).model_copy(update={"precision": precision})
    model = load(card, ldm, device="cpu", profile=profile_named(name))
    exact = load(card, ldm, device="cpu", profile=EXACT)
    x_0, latent, _ = run(card, model, normal(2, 3, 8, 8))
    reference, exact_latent, _ = run(card, exact, normal(2, 3, 8, 8))
    assert x_0.dtype == latent.dtype == torch.float32
    assert model.eps(normal(1, 3, 8, 8).double(), 10, {}).dtype == torch.float64
    # The network rounds (error > 0); a half-precision state would add errors of 1e-3 |x| a step.
    assert 0 < (x_0 - reference).abs().max() < 0.05 * reference.abs().max()
    assert 0 < (latent - exact_latent).abs().max() < 0.05 * exact_latent.abs().max()
    assert model.codec.decode(x_0).dtype == torch.float32


def test_fast_halves_the_network_and_leaves_autoencoder_and_norms_in_float32(ldm):
    card = card_from_directory(ldm)
    model = load(card, ldm, device="cpu", profile=profile_named("fast"))
    assert card.precision == "fp32" and model.dtype == torch.bfloat16
    assert next(model.codec.vae.parameters()).dtype == torch.float32


def test_a_batch_equals_its_items(ldm):
    _, model = load_directory(ldm)
    x = normal(3, 3, 8, 8)
    whole = model.eps(x, 321, {})
    for row in range(3):
        assert_close(model.eps(x[row : row + 1], 321, {}), whole[row : row + 1], atol=2e-6, rtol=1e-5)


def test_old_names_of_attention_weights_are_read(tmp_path, ldm):
    # Files of 2022 (CompVis/ldm-celebahq-256) are pickles with query, key, value and proj_attn.
    from safetensors.torch import load_file

    directory = tiny_ldm(tmp_path / "old")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for part in ("unet", "vqvae"):
        file = directory / part / "diffusion_pytorch_model.safetensors"
        state = load_file(file)
        for new, before in old.items():
            state = {key.replace(f".{new}.", f".{before}."): value for key, value in state.items()}
        torch.save(state, file.with_suffix(".bin"))
        file.unlink()
    edit_json(directory / "vqvae" / "config.json", scaling_factor=...)
    card, model = load_directory(directory)
    assert card.scaling_factor == 1.0
    _, expected = load_directory(ldm)
    x = normal(2, 3, 8, 8)
    assert_close(model.eps(x, 77, {}), expected.eps(x, 77, {}), rtol=0, atol=0)
    assert_close(model.codec.decode(x), expected.codec.decode(x), rtol=0, atol=0)


class _Code:
    def __reduce__(self):
        return (print, ("executed",))


def test_damaged_or_foreign_weights_are_refused(tmp_path, capsys):
    directory = tiny_unet(tmp_path / "model")
    card = card_from_directory(directory)
    file = directory / "unet" / "diffusion_pytorch_model.safetensors"
    whole = file.read_bytes()

    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        UsageError, match=r"safetensors is incomplete or damaged: it should have \d+ bytes and has"
    ):
        load(card, directory, device="cpu", profile=EXACT)

    file.unlink()
    torch.save({"conv_in.weight": _Code()}, file.with_suffix(".bin"))
    with pytest.raises(UsageError, match=r"model\.bin' hold more than tensors \('__builtin__\.print'\)"):
        load(card, directory, device="cpu", profile=EXACT)
    assert "executed" not in capsys.readouterr().out

    file.with_suffix(".bin").unlink()
    file.write_bytes(whole)
    edit_json(directory / "unet" / "config.json", num_class_embeds=3)
    with pytest.raises(UsageError, match=r"disagree in 1 tensors, the first is 'class_embedding.weight'"):
        load(card, directory, device="cpu", profile=EXACT)


def test_a_network_that_returns_nan_is_named_with_its_time(tmp_path):
    directory = tiny_unet(tmp_path / "model")
    _, model = load_directory(directory)
    broken = replace(model, output=lambda x, t, cond: x * float("nan"))
    with pytest.raises(WorkError, match=r"model: the network returned NaN or infinity at t=400"):
        broken.eps(normal(1, 3, 16, 16), 400, {})


def test_weights_that_contradict_the_card_are_refused(ldm, classes, tmp_path):
    card = card_from_directory(ldm)
    with pytest.raises(UsageError, match="ldm: no weights were given; it loads from a diffusers pipeline"):
        load(card, None, device="cpu", profile=EXACT)
    with pytest.raises(
        UsageError, match=r"vqvae has latents of 3 channels and the card of ldm has states of 4"
    ):
        load(card.model_copy(update={"sample_shape": (4, 8, 8)}), ldm, device="cpu", profile=EXACT)
    with pytest.raises(UsageError, match="conditional=class, and its network's conditioning is 'none'"):
        load(card.model_copy(update={"conditional": "class"}), ldm, device="cpu", profile=EXACT)
    with pytest.raises(UsageError, match="holds no autoencoder"):
        latent = card_from_directory(classes).model_copy(update={"domain": "latent"})
        load(latent, classes, device="cpu", profile=EXACT)
    with pytest.raises(UsageError, match=r"class_embed_type=\"identity\" \(allowed: null or \"timestep\"\)"):
        load_directory(tiny_unet(tmp_path / "identity", class_embed_type="identity", num_class_embeds=4))
    with pytest.raises(
        UsageError, match=r"time_embedding_type=\"fourier\" \(allowed: \"positional\" or \"learned\"\)"
    ):
        load_directory(tiny_unet(tmp_path / "fourier", time_embedding_type="fourier"))
