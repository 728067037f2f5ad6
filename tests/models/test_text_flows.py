"""Stable Diffusion 3 and FLUX.1 as Denoisers: the samples of diffusers' own pipelines, their prompts and latents."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import pytest
import torch
from tiny_flow_checkpoints import (
    CHANNELS,
    POOLED_WIDTH,
    T5_WIDTH,
    flux_card,
    module_of,
    save_tiny_flux,
    save_tiny_sd3,
)
from torch.testing import assert_close

from taba_core.diffusion import Guided, generate, invert
from taba_core.diffusion.ends import Held
from taba_core.diffusion.level import Level
from taba_core.diffusion.spacing import dynamic_shift
from taba_core.errors import UsageError
from taba_core.models.base import load_model, model_spec
from taba_core.models.catalog import load_card
from taba_core.models.families import load_network
from taba_core.models.flux import pack, token_places, unpack
from taba_core.models.grids import timestep_grid
from taba_core.models.profile import profile_named
from taba_core.models.prompt_lengths import check_prompt_length
from taba_core.models.prompt_shapes import prompt_embedding_shape
from taba_core.models.prompt_tokens import load_t5_tokenizer

STEPS = 6
TOLERANCE = 1e-5  # float32, of the largest value: diffusers keeps its levels in float32
PROMPTS = ["a red boat", "The white horse"]  # capitals are kept: T5's vocabulary here has none
WIDE = (CHANNELS, 8, 12)  # of FLUX.1: 4 x 6 tokens


def normal(*shape, seed=5):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flows")
    return {
        "sd3": save_tiny_sd3(folder / "tiny-sd3"),
        "sd3-without-t5": save_tiny_sd3(folder / "tiny-sd3-clip", t5=False),
        "flux-dev": save_tiny_flux(folder / "tiny-flux-dev"),
        "flux-schnell": save_tiny_flux(folder / "tiny-flux-schnell", guidance=False),
    }


@pytest.fixture(scope="module")
def models(directories):
    """What `--model` is given."""
    small = {name: flux_card(directories[name], WIDE) for name in ("flux-dev", "flux-schnell")}
    return {name: str(path) for name, path in (directories | small).items()}


@pytest.fixture(scope="module")
def network(models):
    return functools.cache(lambda name: load_model(models[name]))


def hub_parts(directory, *encoders):
    """Components of a pipeline: encoders by (number, class), with tokenizers of transformers' own classes."""
    import transformers
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler

    parts = {
        "vae": AutoencoderKL.from_pretrained(directory / "vae"),
        "scheduler": FlowMatchEulerDiscreteScheduler.from_pretrained(directory / "scheduler"),
    }
    for number, kind in encoders:
        folder = directory / f"text_encoder{number}"
        parts[f"text_encoder{number}"] = getattr(transformers, kind).from_pretrained(folder).eval()
        place = directory / f"tokenizer{number}"
        if kind == "T5EncoderModel":
            # The pipeline's own tokenizer class needs the sentencepiece package, so it is given ours.
            parts[f"tokenizer{number}"] = transformers.PreTrainedTokenizerFast(
                tokenizer_object=load_t5_tokenizer(place).backend, pad_token="<pad>", eos_token="</s>"
            )
        else:
            parts[f"tokenizer{number}"] = transformers.CLIPTokenizer.from_pretrained(place)
    return parts


def sd3_pipeline(directory, *, t5=True):
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    clips = [(number, "CLIPTextModelWithProjection") for number in ("", "_2")]
    parts = hub_parts(directory, *clips, *([("_3", "T5EncoderModel")] if t5 else []))
    absent = {} if t5 else {"text_encoder_3": None, "tokenizer_3": None}
    transformer = SD3Transformer2DModel.from_pretrained(directory / "transformer")
    pipeline = StableDiffusion3Pipeline(transformer=transformer, **parts, **absent)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def flux_pipeline(directory):
    from diffusers import FluxPipeline, FluxTransformer2DModel

    parts = hub_parts(directory, ("", "CLIPTextModel"), ("_2", "T5EncoderModel"))
    transformer = FluxTransformer2DModel.from_pretrained(directory / "transformer")
    pipeline = FluxPipeline(transformer=transformer, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("name", ["sd3", "sd3-without-t5"])
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_samples_of_sd3_are_those_of_diffusers_own_pipeline(name, scale, network, models, directories):
    model, card = network(name), load_card(models[name])
    pipeline = sd3_pipeline(directories[name], t5=name == "sd3")
    noise = normal(2, *model.sample_shape)
    run = functools.partial(
        pipeline, PROMPTS, guidance_scale=scale, num_inference_steps=STEPS, height=32, width=32, latents=noise
    )
    expected = run(output_type="latent").images
    asked = model if scale == 1 else Guided(model, scale)
    ours = generate(asked, noise, timestep_grid(card, STEPS), model.text.encode(PROMPTS))
    assert_close(ours, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max()))
    images = run(output_type="pt").images * 2 - 1
    assert_close(model.codec.decode(ours).clamp(-1, 1), images, rtol=0, atol=1e-4)


def test_samples_of_sd3_on_levels_that_are_shifted_once_are_those_of_explicit_sigmas(
    network, models, directories
):
    import numpy as np

    model = network("sd3")
    card = load_card(models["sd3"])
    assert card.grid.style == "sd3-default"
    once = card.model_copy(update={"grid": card.grid.model_copy(update={"style": "shifted"})})
    noise = normal(2, *model.sample_shape)
    expected = sd3_pipeline(directories["sd3"])(
        PROMPTS,
        guidance_scale=1.0,
        sigmas=np.linspace(1, 1 / STEPS, STEPS).tolist(),
        height=32,
        width=32,
        latents=noise,
        output_type="latent",
    ).images
    ours = generate(model, noise, timestep_grid(once, STEPS), model.text.encode(PROMPTS))
    assert_close(ours, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max()))
    other = generate(model, noise, timestep_grid(card, STEPS), model.text.encode(PROMPTS))
    assert (other - ours).abs().max() > 1e-3


@pytest.mark.parametrize(("name", "guidance"), [("flux-dev", 3.5), ("flux-dev", 1.0), ("flux-schnell", None)])
def test_samples_of_flux_are_those_of_diffusers_own_pipeline(name, guidance, models, directories, tmp_path):
    card = load_card(models[name])
    if guidance is not None:
        card = card.model_copy(update={"distilled_guidance": guidance})
    model = load_network(card, directories[name], device="cpu", profile=profile_named("exact"))
    pipeline = flux_pipeline(directories[name])
    noise = normal(2, *WIDE)
    run = functools.partial(
        pipeline,
        PROMPTS,
        guidance_scale=guidance or 0.0,
        num_inference_steps=STEPS,
        height=32,
        width=48,
        latents=pack(noise),
        max_sequence_length=card.max_tokens,
    )
    tokens = run(output_type="latent").images
    ours = generate(model, noise, timestep_grid(card, STEPS), model.text.encode(PROMPTS))
    assert_close(pack(ours), tokens, rtol=0, atol=TOLERANCE * float(tokens.abs().max()))
    images = run(output_type="pt").images * 2 - 1
    assert_close(model.codec.decode(ours).clamp(-1, 1), images, rtol=0, atol=1e-4)


def test_the_shift_of_flux_dev_is_that_of_its_tokens_and_of_schnell_none(directories, models):
    whole = load_card(str(directories["flux-dev"]))
    # 128 x 128 positions are 4096 tokens, and exp(1.15) = 3.158193; 8 x 12 are 24.
    assert (whole.sample_shape, whole.image_size) == ((CHANNELS, 128, 128), 512)
    assert whole.schedule.shift == pytest.approx(3.158193, abs=5e-7)
    small = load_card(models["flux-dev"])
    assert small.schedule.shift == dynamic_shift(24)
    assert dynamic_shift(24) == pytest.approx(math.exp(0.5 + 0.65 * (24 - 256) / (4096 - 256)), rel=1e-15)
    assert load_card(models["flux-schnell"]).schedule.shift == 1.0
    assert small.grid.style == load_card(models["flux-schnell"]).grid.style == "shifted"
    built_in = load_card("flux-dev")
    assert built_in.schedule.shift == pytest.approx(dynamic_shift(4096), rel=1e-12)


def test_a_card_of_another_size_with_the_shift_of_the_first_is_refused_and_its_correction_runs(
    directories, tmp_path
):
    shift = load_card(str(directories["flux-dev"])).schedule.shift
    schedule = {"kind": "flow", "N": 1000, "shift": shift}
    path = flux_card(directories["flux-dev"], WIDE, folder=tmp_path, schedule=schedule)
    message = r"says schedule\.shift=1\.58.*, the card of tiny-flux-dev-small says 3\.15"
    with pytest.raises(UsageError, match=message) as caught:
        model_spec(str(path))
    right = f"{{kind: flow, N: 1000, shift: {dynamic_shift(24)}}}"
    assert f"Correct the card: `schedule: {right}`" in str(caught.value)
    corrected = path.read_text().replace(str(shift), str(dynamic_shift(24)))
    path.write_text(corrected)
    assert model_spec(str(path)).fingerprint


def test_packing_is_exact_and_in_the_order_of_channel_row_and_column():
    x = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).reshape(2, 3, 4, 6)
    tokens = pack(x)
    assert tokens.shape == (2, 6, 12)
    # The second token of the first row: rows 0 and 1, columns 2 and 3 of each channel.
    assert tokens[0, 1].tolist() == [2, 3, 8, 9, 26, 27, 32, 33, 50, 51, 56, 57]
    assert torch.equal(unpack(tokens, 2, 3), x)
    places = token_places(2, 3, torch.device("cpu"))
    assert places.tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0], [0, 1, 1], [0, 1, 2]]


def test_tokens_that_change_places_with_their_numbers_give_the_same_velocities(network):
    flux = module_of(network("flux-schnell")).transformer
    x, places = pack(normal(1, *WIDE)), token_places(4, 6, torch.device("cpu"))
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))

    def velocity(tokens, where):
        return flux(
            tokens,
            timestep=torch.tensor([0.5]),
            encoder_hidden_states=normal(1, 3, T5_WIDTH),
            pooled_projections=normal(1, 16),
            img_ids=where,
            txt_ids=torch.zeros(3, 3),
            return_dict=False,
        )[0]

    assert_close(velocity(x[:, order], places[order]), velocity(x, places)[:, order], rtol=0, atol=5e-6)
    assert (velocity(x, places.flip(1)) - velocity(x, places)).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["sd3", "flux-dev", "flux-schnell"])
def test_a_prediction_gives_the_ends_of_the_line_and_a_batch_equals_its_items(name, network):
    model = network(name)
    cond = model.text.encode([*PROMPTS, "a cat"])
    x = normal(3, *model.sample_shape)
    level = Level.flow(0.3, 300.0)
    x_0, eps = model.predict(x, level, cond)
    assert model.held == Held.VELOCITY
    assert_close(0.7 * x_0 + 0.3 * eps, x, rtol=0, atol=1e-5)
    for row in range(3):
        alone = model.predict(x[row : row + 1], level, {k: v[row : row + 1] for k, v in cond.items()})
        assert_close(alone.eps, eps[row : row + 1], rtol=0, atol=1e-5)
    other = model.predict(x, level, model.text.encode(["a cat", *PROMPTS]))
    assert (other.eps - eps).abs().amax(dim=(1, 2, 3)).min() > 1e-4


def test_the_networks_get_their_own_times_and_the_cards_guidance(directories, models):
    seen = {}

    def record(name, card):
        model = load_network(card, directories[name], device="cpu", profile=profile_named("exact"))
        module = module_of(model)
        inner = getattr(module, "transformer", module)
        inner.register_forward_pre_hook(lambda _m, _a, given: seen.update({name: given}), with_kwargs=True)
        x = normal(1, *model.sample_shape)
        model.eps(x, 250.0, model.text.encode(["a"]))
        return seen[name]

    assert record("sd3", load_card(models["sd3"]))["timestep"].tolist() == [250.0]
    dev = record("flux-dev", load_card(models["flux-dev"]).model_copy(update={"distilled_guidance": 3.5}))
    assert dev["timestep"].tolist() == [0.25] and dev["guidance"].tolist() == [3.5]
    schnell = record("flux-schnell", load_card(models["flux-schnell"]))
    assert schnell["timestep"].tolist() == [0.25] and schnell["guidance"] is None


def test_guidance_of_flux_is_in_the_fingerprint_and_has_no_null_condition(network, models, tmp_path):
    card = load_card(models["flux-dev"])
    assert (
        card.distilled_guidance == 1.0 and "distilled_guidance" not in load_card(models["sd3"]).model_dump()
    )
    other = tmp_path / "other.yaml"
    text = Path(models["flux-dev"]).read_text()
    other.write_text(text[:-1] + ', "distilled_guidance": 3.5}')
    assert model_spec(str(other)).fingerprint != model_spec(models["flux-dev"]).fingerprint
    for name, why in (
        ("flux-dev", r"distilled under guidance, whose w is the field distilled_guidance of its card \(1\)"),
        ("flux-schnell", "was distilled to run without one"),
    ):
        with pytest.raises(UsageError, match=why):
            Guided(network(name), 3.0)


def test_inversion_comes_back_and_adds_what_the_sampler_took(network, models):
    """Straight on a small network: heun and its sampler agree to the error of two steps."""
    model, card = network("sd3"), load_card(models["sd3"])
    cond, grid = model.text.encode(PROMPTS), timestep_grid(card, 50)
    noise = normal(2, *model.sample_shape)
    image = generate(model, noise, grid, cond)
    plain, better = (
        (invert(model, image, grid, method, cond) - noise).abs().mean() for method in ("ddim", "uni-inv")
    )
    assert better < plain / 2 and (image - noise).abs().mean() > 10 * plain


# Text.


@pytest.mark.parametrize("name", ["sd3", "sd3-without-t5"])
def test_prompts_of_sd3_are_encoded_as_in_diffusers_pipeline(name, network, directories):
    prompts = ["A red BOAT ", "cat " * 120]
    with torch.no_grad():
        embeds, null, pooled, null_pooled = sd3_pipeline(directories[name], t5=name == "sd3").encode_prompt(
            prompts, None, None, device="cpu"
        )
    text = network(name).text
    cond, empty = text.encode(prompts), text.null(2)
    assert cond["prompt_embeds"].shape == (2, 77 + 256, T5_WIDTH) and cond["pooled"].shape == (2, 24)
    assert_close(cond["prompt_embeds"], embeds, rtol=0, atol=1e-5)
    assert_close(cond["pooled"], pooled, rtol=0, atol=1e-5)
    assert_close(empty["prompt_embeds"], null, rtol=0, atol=1e-5)
    assert_close(empty["pooled"], null_pooled, rtol=0, atol=1e-5)
    assert text.pooled_width == 2 * POOLED_WIDTH
    # CLIP's states fill 16 + 24 of the 48 columns; without T5 its tokens are zeros.
    assert (cond["prompt_embeds"][:, :77, 40:] == 0).all()
    assert bool((cond["prompt_embeds"][:, 77:] == 0).all()) == (name == "sd3-without-t5")


@pytest.mark.parametrize(("name", "tokens"), [("flux-dev", 512), ("flux-schnell", 256)])
def test_prompts_of_flux_are_encoded_as_in_diffusers_pipeline(name, tokens, network, directories, models):
    prompts = ["A red BOAT ", "cat " * 600]
    with torch.no_grad():
        embeds, pooled, _ = flux_pipeline(directories[name]).encode_prompt(
            prompts, device="cpu", max_sequence_length=tokens
        )
    cond = network(name).text.encode(prompts)
    assert cond["prompt_embeds"].shape == (2, tokens, T5_WIDTH)
    assert_close(cond["prompt_embeds"], embeds, rtol=0, atol=1e-5)
    assert_close(cond["pooled"], pooled, rtol=0, atol=1e-5)
    card = load_card(models[name])
    assert prompt_embedding_shape(card, str(directories[name])) == (tokens, T5_WIDTH)
    assert prompt_embedding_shape(card, "") == (tokens, 4096)


def test_the_number_of_tokens_is_in_the_fingerprint_and_bounds_a_prompt(models, directories, tmp_path):
    card = load_card(models["sd3"])
    assert prompt_embedding_shape(card, str(directories["sd3"])) == (333, T5_WIDTH) and card.max_tokens == 256
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"extends: {directories['sd3']}\nmax_tokens: 80\n")
    assert model_spec(str(mine)).fingerprint != model_spec(models["sd3"]).fingerprint
    assert load_model(str(mine)).text.encode(["a"])["prompt_embeds"].shape == (1, 157, T5_WIDTH)
    # CLIP makes 70 letters, a start and an end of it; 77 and more are cut.
    check_prompt_length(card, str(directories["sd3"]), "b" * 70, "--to")
    with pytest.raises(UsageError, match=r"--to: the prompt has 82 tokens, and .* reads 77"):
        check_prompt_length(card, str(directories["sd3"]), "b" * 80, "--to")


# The codec.


@pytest.mark.parametrize(
    ("name", "scaling", "shift"), [("sd3", 1.5305, 0.0609), ("flux-dev", 0.3611, 0.1159)]
)
def test_the_codec_shifts_and_scales_both_ways(name, scaling, shift, network):
    codec = network(name).codec
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        mean = codec.vae.encode(image).latent_dist.mean
        at_shift = codec.vae.decode(torch.full((1, CHANNELS, 8, 8), shift)).sample
    assert_close(codec.encode(image), (mean - shift) * scaling, rtol=0, atol=1e-6)
    assert_close(codec.decode(torch.zeros(1, CHANNELS, 8, 8)), at_shift, rtol=0, atol=1e-6)
