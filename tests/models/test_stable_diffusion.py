"""SD and SDXL as Denoisers: the same samples and latents as diffusers' own pipelines, and their codec in float32."""

from __future__ import annotations

import functools
import shutil

import pytest
import torch
from tiny_checkpoints import edit_json
from tiny_text_checkpoints import (
    SDXL_BETAS,
    clip_config,
    save_scheduler,
    save_tiny_sd,
    save_tiny_sdxl,
    save_vae,
    tiny_card,
)
from torch.testing import assert_close

from taba_core.diffusion import generate, invert
from taba_core.errors import UsageError
from taba_core.models.catalog import load_card
from taba_core.models.families import load_network
from taba_core.models.grids import timestep_grid
from taba_core.models.profile import profile_named

NAMES = ["sd", "sdxl"]
CARDS = {name: tiny_card(name) for name in NAMES}
SAVERS = {"sd": save_tiny_sd, "sdxl": save_tiny_sdxl}
PROMPTS = ["a red boat", "the white horse", "a cat on the boat"]
STATISTICS = {
    "latents_mean": [-1.6574, 1.886, -1.383, 2.5155],
    "latents_std": [8.4927, 5.9022, 6.5498, 5.2299],
}
NOISE = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stable-diffusion")
    return {name: save(folder / f"tiny-{name}") for name, save in SAVERS.items()}


@pytest.fixture(scope="module")
def network(directories):
    @functools.cache
    def loaded(name, profile="exact"):
        return load_network(CARDS[name], directories[name], device="cpu", profile=profile_named(profile))

    return loaded


def diffusers_pipeline(name, directory):
    """The pipeline a user of diffusers would build, with the DDIM scheduler of the card's conventions."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    parts = {
        "vae": AutoencoderKL.from_pretrained(directory / "vae"),
        "unet": UNet2DConditionModel.from_pretrained(directory / "unet"),
        "text_encoder": CLIPTextModel.from_pretrained(directory / "text_encoder"),
        "tokenizer": CLIPTokenizer.from_pretrained(directory / "tokenizer"),
        "scheduler": DDIMScheduler(
            **SDXL_BETAS,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
    }
    if name == "sd":
        pipeline = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    else:
        pipeline = StableDiffusionXLPipeline(
            **parts,
            text_encoder_2=CLIPTextModelWithProjection.from_pretrained(directory / "text_encoder_2"),
            tokenizer_2=CLIPTokenizer.from_pretrained(directory / "tokenizer_2"),
            add_watermarker=False,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_those_of_diffusers_own_pipeline(name, network, directories):
    pipeline = diffusers_pipeline(name, directories[name])
    run = functools.partial(pipeline, PROMPTS, guidance_scale=1.0, num_inference_steps=10, latents=NOISE)
    ours = generate(network(name), NOISE, timestep_grid(CARDS[name], 10), network(name).text.encode(PROMPTS))
    expected = run(output_type="latent").images
    # Values reach 20 or so with random weights; float32 rounds at 1e-7 of them a step.
    assert_close(ours, expected, rtol=1e-5, atol=1e-4)
    images = run(output_type="pt").images * 2 - 1
    assert_close(network(name).codec.decode(ours).clamp(-1, 1), images, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def centred(directories, tmp_path_factory):
    """SDXL whose autoencoder states the mean and the standard deviation of its latents."""
    copy = tmp_path_factory.mktemp("centred") / "sdxl-centred"
    shutil.copytree(directories["sdxl"], copy)
    edit_json(copy / "vae" / "config.json", scaling_factor=0.5, **STATISTICS)
    return copy


def test_latents_that_are_centred_decode_and_encode_as_in_diffusers_pipeline(centred, monkeypatch):
    from diffusers import StableDiffusionXLImg2ImgPipeline
    from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl_img2img as img2img

    card = load_card(str(centred))
    model = load_network(card, centred, device="cpu", profile=profile_named("exact"))
    pipeline = diffusers_pipeline("sdxl", centred)
    run = functools.partial(pipeline, PROMPTS, guidance_scale=1.0, num_inference_steps=4, latents=NOISE)
    images, latents = run(output_type="pt").images * 2 - 1, run(output_type="latent").images
    assert_close(model.codec.decode(latents).clamp(-1, 1), images, rtol=0, atol=1e-4)

    # The pipeline draws from the posterior; its mean is compared.
    mean_of = lambda output, **_: output.latent_dist.mode()  # noqa: E731
    monkeypatch.setattr(img2img, "retrieve_latents", mean_of)
    other = StableDiffusionXLImg2ImgPipeline(**pipeline.components, add_watermarker=False)
    theirs = other.prepare_latents(
        images, None, 3, 1, torch.float32, torch.device("cpu"), None, add_noise=False
    )
    assert_close(model.codec.encode(images), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"latents_std": None},
        {"latents_std": [1.0]},
        {"latents_std": [1.0, 1.0, 0.0, 1.0]},
        {"latents_mean": 3},
    ],
)
def test_impossible_statistics_of_latents_are_refused(changes, centred, tmp_path):
    copy = changed(centred, tmp_path, lambda d: edit_json(d / "vae" / "config.json", **changes))
    message = r"vae/config.json: .*Correct the file\."
    with pytest.raises(UsageError, match=message):
        load_network(load_card(str(centred)), copy, device="cpu", profile=profile_named("exact"))


@pytest.mark.parametrize("name", NAMES)
def test_another_prompt_changes_eps_and_a_batch_equals_its_items(name, network):
    model = network(name)
    eps = model.eps(NOISE, 301.0, model.text.encode(PROMPTS))
    for i, prompt in enumerate(PROMPTS):
        alone = model.eps(NOISE[i : i + 1], 301.0, model.text.encode([prompt]))
        assert_close(eps[i : i + 1], alone, rtol=0, atol=1e-5)
    same = model.eps(NOISE, 301.0, model.text.encode(PROMPTS[:1] * 3))
    assert_close(eps[0], same[0], rtol=0, atol=1e-5)
    assert (eps[1:] - same[1:]).abs().amax(dim=(1, 2, 3)).min() > 1e-3


def test_sdxl_reads_the_pooled_embedding_and_the_sizes(network):
    model = network("sdxl")
    cond = model.text.encode(PROMPTS)
    eps = model.eps(NOISE, 301.0, cond)
    for key in ("pooled", "time_ids"):
        other = model.eps(NOISE, 301.0, cond | {key: cond[key].roll(1, dims=1)})
        assert (eps - other).abs().mean() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_generate_invert_reconstruct_decode(name, network):
    model, rules = network(name), CARDS[name].reference
    grid, cond = timestep_grid(CARDS[name], 10), model.text.encode(PROMPTS)
    x_0 = generate(model, NOISE, grid, cond, x0_rule=rules.sampling_x0_rule)
    for steps in (0, 2):
        latent = invert(
            model,
            x_0,
            grid,
            "ddim",
            cond,
            x0_rule=rules.inversion_x0_rule,
            forward_steps=steps,
            forward_level=rules.forward_level,
            forward_noise=NOISE.flip(0),
        )
        again = generate(model, latent, grid, cond, x0_rule=rules.sampling_x0_rule)
        decoded = model.codec.decode(again)
        assert decoded.shape == (3, 3, 16, 16)
        assert torch.isfinite(decoded).all()


def test_sdxl_samples_end_at_the_level_of_the_first_training_step():
    # abar_0 = 1 - beta_0 = 1 - 0.00085, so 2.9 % of the noise stays in a sample.
    grid = timestep_grid(CARDS["sdxl"], 50)
    assert grid.timesteps[[0, 1, -1]].tolist() == [1, 21, 981]
    assert grid.downward()[-1].alpha_bar_to == pytest.approx(0.99915)
    assert (1 - grid.alpha_bar[0]) ** 0.5 == pytest.approx(0.029, abs=2e-4)


def test_sdxl_has_no_grid_of_a_thousand_steps():
    with pytest.raises(UsageError, match="num_inference_steps=1000"):
        timestep_grid(load_card("sdxl"), 1000)


def test_sdxl_inversion_is_that_of_the_inverse_scheduler(network, directories):
    from diffusers import DDIMInverseScheduler

    model, card = network("sdxl"), CARDS["sdxl"]
    cond = model.text.encode(PROMPTS)
    latent = invert(model, NOISE, timestep_grid(card, 10), "ddim", cond)
    scheduler = DDIMInverseScheduler(**SDXL_BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    scheduler.set_timesteps(10)
    x = NOISE
    for t in scheduler.timesteps:
        x = scheduler.step(model.eps(x, float(t), cond), t, x).prev_sample
    assert_close(latent, x, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_codec_encodes_the_mean_or_a_sample(name, network):
    codec = network(name).codec
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        posterior = codec.vae.encode(image).latent_dist
    factor = {"sd": 0.18215, "sdxl": 0.13025}[name]
    assert codec.factor == 2  # two levels; the published ones have four and a factor of 8
    assert_close(codec.encode(image), factor * posterior.mean, rtol=0, atol=1e-6)
    sample = codec.encode(image, "sample", sample_ids=[4, 9], seed=1)
    assert_close(sample[1:], codec.encode(image[1:], "sample", sample_ids=[9], seed=1), rtol=0, atol=1e-6)
    z = (sample / factor - posterior.mean) / posterior.std
    # 2 * 4 * 8 * 8 = 512 standard normal numbers: mean 0 +- 0.044, standard deviation 1 +- 0.031.
    assert abs(z.mean()) < 0.22 and abs(z.std() - 1) < 0.16


def test_the_codec_stays_float32_beside_half_weights(network):
    half, states = network("sdxl", "reference"), []
    assert half.dtype == torch.float16
    assert {p.dtype for p in half.codec.vae.parameters()} == {torch.float32}
    cond = half.text.encode(PROMPTS)
    x_0 = generate(
        half, NOISE, timestep_grid(CARDS["sdxl"], 10), cond, on_step=lambda r: states.append(r.x_to.dtype)
    )
    assert {x_0.dtype, *states, half.codec.decode(x_0).dtype} == {torch.float32}
    exact = network("sdxl").eps(NOISE, 301.0, network("sdxl").text.encode(PROMPTS))
    assert 1e-6 < (half.eps(NOISE, 301.0, cond) - exact).abs().max() < 0.02


def test_reference_precision_of_sd_is_float32(network):
    exact, reference = (
        network("sd", p).eps(NOISE, 301.0, network("sd", p).text.encode(PROMPTS))
        for p in ("exact", "reference")
    )
    assert network("sd", "reference").dtype == torch.float32
    assert_close(exact, reference, rtol=0, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_gives_the_numbers_of_the_cpu(name, network, directories):
    on_gpu = load_network(CARDS[name], directories[name], device="cuda", profile=profile_named("exact"))
    eps = on_gpu.eps(NOISE.cuda(), 301.0, on_gpu.text.encode(PROMPTS))
    model = network(name)
    assert_close(eps.cpu(), model.eps(NOISE, 301.0, model.text.encode(PROMPTS)), rtol=0, atol=1e-4)
    decoded = on_gpu.codec.decode(NOISE.cuda())
    assert_close(decoded.cpu(), model.codec.decode(NOISE), rtol=0, atol=1e-4)


def test_half_precision_files_alone_are_enough(directories, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = tmp_path / "fp16"
    shutil.copytree(directories["sdxl"], copy)
    for file in copy.rglob("*.safetensors"):
        half = {key: value.half() for key, value in load_file(file).items()}
        save_file(half, file.with_name(f"{file.stem}.fp16.safetensors"), metadata={"format": "pt"})
        file.unlink()
    model = load_network(CARDS["sdxl"], copy, device="cpu", profile=profile_named("reference"))
    full = load_network(CARDS["sdxl"], directories["sdxl"], device="cpu", profile=profile_named("reference"))
    cond = model.text.encode(PROMPTS)
    assert_close(cond, full.text.encode(PROMPTS), rtol=0, atol=0)
    assert torch.equal(model.eps(NOISE, 301.0, cond), full.eps(NOISE, 301.0, cond))


def changed(directory, tmp_path, change):
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    change(copy)
    return copy


def other_vae(directory):
    shutil.rmtree(directory / "vae")
    save_vae(directory / "vae", scaling_factor=0.18215)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: shutil.rmtree(d / "vae"), r"vae holds no AutoencoderKL: config.json"),
        (
            lambda d: shutil.rmtree(d / "text_encoder_2"),
            r"text_encoder_2 holds no CLIPTextModelWithProjection",
        ),
        (lambda d: shutil.rmtree(d / "tokenizer_2"), r"tokenizer_2 holds no tokenizer: it needs vocab.json"),
        (
            other_vae,
            r"vae states scaling_factor=0.18215 and the card 0.13025; .*and `scaling_factor: 0.18215`",
        ),
        (
            lambda d: save_scheduler(d, "EulerDiscreteScheduler", **SDXL_BETAS | {"beta_end": 0.02}),
            r"schedule.beta_end=0.02, the card of sdxl says 0.012",
        ),
        (
            lambda d: save_scheduler(
                d, "EulerDiscreteScheduler", prediction_type="v_prediction", **SDXL_BETAS
            ),
            r"prediction=v, the card of sdxl says epsilon",
        ),
    ],
)
def test_an_incomplete_or_contradicting_directory_is_refused(change, message, directories, tmp_path):
    copy = changed(directories["sdxl"], tmp_path, change)
    with pytest.raises(UsageError, match=message):
        load_network(CARDS["sdxl"], copy, device="cpu", profile=profile_named("exact"))


def test_components_of_another_model_are_refused(directories, tmp_path):
    from transformers import CLIPTextModel

    with pytest.raises(
        UsageError, match="unet is no SDXL network: its addition_embed_type is None, not text_time"
    ):
        card = CARDS["sdxl"].model_copy(update={"scaling_factor": 0.18215})
        load_network(card, directories["sd"], device="cpu", profile=profile_named("exact"))

    def swap(copy):
        shutil.rmtree(copy / "text_encoder")
        CLIPTextModel(clip_config(24)).save_pretrained(copy / "text_encoder")

    copy = changed(directories["sd"], tmp_path, swap)
    with pytest.raises(UsageError, match=r"reads prompt_embeds of width 16 and the text encoder makes 24"):
        load_network(CARDS["sd"], copy, device="cpu", profile=profile_named("exact"))


def test_an_image_size_that_the_codec_does_not_make_is_refused(directories):
    card = CARDS["sd"].model_copy(update={"image_size": 64})
    with pytest.raises(
        UsageError, match=r"vae enlarges 2 times, so latents of 8 make images of 16; the card says 64"
    ):
        load_network(card, directories["sd"], device="cpu", profile=profile_named("exact"))


def test_without_weights_the_message_says_how_to_fetch_them():
    with pytest.raises(
        UsageError, match=r"weights of SDXL are not here: run `taba fetch sdxl` on a machine with"
    ):
        load_network(load_card("sdxl"), None, device="cpu", profile=profile_named("exact"))


@pytest.mark.parametrize("name", NAMES)
def test_a_directory_is_a_model_by_itself(name, directories):
    card = load_card(str(directories[name]))
    assert (card.family, card.conditional, card.sample_shape, card.image_size) == (
        name,
        "text",
        (4, 8, 8),
        16,
    )
    model = load_network(card, directories[name], device="cpu", profile=profile_named("exact"))
    assert model.codec.scaling == card.scaling_factor == {"sd": 0.18215, "sdxl": 0.13025}[name]
    assert model.text is not None
