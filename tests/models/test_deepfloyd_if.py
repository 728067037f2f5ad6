"""DeepFloyd IF as a Denoiser: what its network reads and returns, its two x_0 rules, and whole runs."""

from __future__ import annotations

import functools
import json
import shutil

import pytest
import torch
from tiny_text_checkpoints import save_scheduler, save_tiny_if, tiny_card
from torch.testing import assert_close

from taba_core.diffusion import generate, invert, predict_x0, walk
from taba_core.errors import UsageError
from taba_core.models.deepfloyd_if import load
from taba_core.models.families import load_network
from taba_core.models.grids import timestep_grid
from taba_core.models.profile import profile_named

CARD = tiny_card("if")
GRID = timestep_grid(CARD, 10)
PROMPTS = ["a red boat", "the white horse", "a cat on the boat"]
NOISE = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return save_tiny_if(tmp_path_factory.mktemp("if") / "IF-I-XL")


@pytest.fixture(scope="module")
def network(directory):
    @functools.cache
    def loaded(profile="exact"):
        return load_network(CARD, directory, device="cpu", profile=profile_named(profile))

    return loaded


def unet_of(directory):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_pretrained(directory / "unet").eval()


def test_eps_is_the_first_three_of_six_channels(network, directory):
    cond = network().text.encode(PROMPTS)
    with torch.no_grad():
        raw = unet_of(directory)(NOISE, 300, encoder_hidden_states=cond["prompt_embeds"]).sample
    assert raw.shape == (3, 6, 8, 8)
    assert_close(network().eps(NOISE, 300.0, cond), raw[:, :3], rtol=0, atol=1e-5)


def test_another_prompt_changes_eps(network):
    one, other = (network().text.encode([prompt] * 3) for prompt in PROMPTS[:2])
    difference = network().eps(NOISE, 300.0, one) - network().eps(NOISE, 300.0, other)
    assert difference.abs().mean() > 1e-3


def test_a_batch_equals_its_items(network):
    eps = network().eps(NOISE, 300.0, network().text.encode(PROMPTS))
    for i, prompt in enumerate(PROMPTS):
        alone = network().eps(NOISE[i : i + 1], 300.0, network().text.encode([prompt]))
        assert_close(eps[i : i + 1], alone, rtol=0, atol=1e-5)


def test_the_text_encoder_is_that_of_the_pipeline(network, directory):
    from diffusers import IFPipeline
    from transformers import PreTrainedTokenizerFast, T5EncoderModel

    from taba_core.models.prompt_tokens import load_t5_tokenizer

    # The pipeline's own tokenizer class needs the sentencepiece package, so it is given ours.
    backend = load_t5_tokenizer(directory / "tokenizer").backend
    pipeline = IFPipeline(
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>"),
        text_encoder=T5EncoderModel.from_pretrained(directory / "text_encoder").eval(),
        unet=unet_of(directory),
        scheduler=None,
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
    prompts = ["  A Red BOAT ", "the white horse", "cat " * 90]
    with torch.no_grad():
        expected, _ = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False, device="cpu")
    assert_close(network().text.encode(prompts)["prompt_embeds"], expected, rtol=0, atol=1e-5)


def test_sampling_thresholds_and_inversion_clips_as_the_reference_does(network, directory):
    from diffusers import DDIMInverseScheduler, DDIMScheduler

    config = json.loads((directory / "scheduler" / "scheduler_config.json").read_text())
    cond, unet = network().text.encode(PROMPTS), unet_of(directory)

    def run(scheduler, x):
        scheduler.set_timesteps(10)
        with torch.no_grad():
            for t in scheduler.timesteps:
                raw = unet(x, t, encoder_hidden_states=cond["prompt_embeds"]).sample[:, :3]
                x = scheduler.step(raw, t, x).prev_sample
        return x

    rules = CARD.reference
    assert (rules.sampling_x0_rule, rules.inversion_x0_rule) == ("dynamic", "clip")
    image = generate(network(), NOISE, GRID, cond, x0_rule=rules.sampling_x0_rule)
    assert_close(image, run(DDIMScheduler.from_config(config), NOISE), rtol=0, atol=1e-4)
    assert image.abs().max() <= 1
    latent = invert(network(), image, GRID, "ddim", cond, x0_rule=rules.inversion_x0_rule)
    assert_close(latent, run(DDIMInverseScheduler.from_config(config), image), rtol=0, atol=1e-4)
    # The two rules are not one: clipping both ways gives another image.
    clipped = generate(network(), NOISE, GRID, cond, x0_rule="clip")
    assert (image - clipped).abs().max() > 1e-3


def test_generate_invert_reconstruct_with_and_without_forward_replacement(network):
    cond = network().text.encode(PROMPTS)
    assert network().codec is None
    rules = CARD.reference
    image = generate(network(), NOISE, GRID, cond, x0_rule=rules.sampling_x0_rule)
    for steps in (0, 1):
        latent = invert(
            network(),
            image,
            GRID,
            "ddim",
            cond,
            x0_rule=rules.inversion_x0_rule,
            forward_steps=steps,
            forward_level=rules.forward_level,
            forward_noise=NOISE.flip(0),
        )
        again = generate(network(), latent, GRID, cond, x0_rule=rules.sampling_x0_rule)
        assert latent.shape == again.shape == (3, 3, 8, 8)
        assert torch.isfinite(again).all()


def test_half_weights_do_not_leak_into_the_state(network):
    half, states = network("reference"), []
    assert half.dtype == torch.float16
    cond = half.text.encode(PROMPTS)
    image = generate(
        half, NOISE, GRID, cond, x0_rule="dynamic", on_step=lambda r: states.append(r.x_to.dtype)
    )
    assert {image.dtype, *states} == {torch.float32}
    # A float64 state stays one; the network rounds its input, not the state.
    assert half.eps(NOISE.double(), 300.0, cond).dtype == torch.float64
    exact = network().eps(NOISE, 300.0, network().text.encode(PROMPTS))
    error = (half.eps(NOISE, 300.0, cond) - exact).abs().max()
    assert 1e-6 < error < 0.02


def test_half_precision_survives_a_thousand_steps(network):
    # alpha_bar of the last level is 2.4e-9: x_0 is 2e4 times the error of eps, beyond half's largest number
    # 65504 for errors above 3; the state is float32, so thresholding still sees finite numbers.
    grid = timestep_grid(CARD, 1000)
    assert grid.alpha_bar[-1] == pytest.approx(2.4e-9, rel=0.05)
    half = network("reference")
    cond = half.text.encode(PROMPTS[:1])
    first = list(walk(half, NOISE[:1], grid.downward()[:2], x0_rule="dynamic", cond=cond))
    assert all(torch.isfinite(record.x_to).all() for record in first)
    # The same in a half state: the unclipped x_0 overflows.
    assert not torch.isfinite(predict_x0(NOISE, first[0].eps_t + 4, grid.levels[-1]).half()).all()


def test_fast_is_close_to_exact(network):
    exact, fast = (network(p).eps(NOISE, 300.0, network(p).text.encode(PROMPTS)) for p in ("exact", "fast"))
    # bfloat16 has 8 bits of mantissa: 4e-3 of a number; outputs are of order 1.
    assert 1e-6 < (exact - fast).abs().max() < 0.1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_numbers_of_the_cpu(network, directory):
    on_gpu = load(CARD, directory, device="cuda", profile=profile_named("exact"))
    cond = on_gpu.text.encode(PROMPTS)
    assert cond["prompt_embeds"].device.type == "cuda"
    eps = on_gpu.eps(NOISE.cuda(), 300.0, cond)
    assert eps.device.type == "cuda"
    assert_close(eps.cpu(), network().eps(NOISE, 300.0, network().text.encode(PROMPTS)), rtol=0, atol=1e-4)


def test_without_weights_the_message_says_which_licence_to_accept():
    with pytest.raises(UsageError) as error:
        load(CARD, None, device="cpu", profile=profile_named("exact"))
    assert str(error.value) == (
        "weights of IF are not here: accept the licence at https://huggingface.co/DeepFloyd/IF-I-XL-v1.0 and set "
        "HF_TOKEN, then run `taba fetch if` on a machine with internet, or give --weights DIRECTORY."
    )


def test_conditioning_must_be_given(network):
    with pytest.raises(UsageError, match=r"IF is conditioned by text: cond\['prompt_embeds'\] is missing"):
        network().eps(NOISE, 300.0, {})


def test_a_file_is_no_pipeline(directory):
    file = directory / "model_index.json"
    with pytest.raises(UsageError, match=r"model_index.json is a file; the weights of IF are a directory"):
        load(CARD, file, device="cpu", profile=profile_named("exact"))
    with pytest.raises(UsageError, match=r"nowhere does not exist; the weights of IF are a directory"):
        load(CARD, directory / "nowhere", device="cpu", profile=profile_named("exact"))


def changed(directory, tmp_path, change):
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    change(copy)
    return copy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: shutil.rmtree(d / "tokenizer"), r"tokenizer holds no tokenizer: it needs spiece.model"),
        (lambda d: shutil.rmtree(d / "text_encoder"), r"text_encoder holds no T5EncoderModel: config.json"),
        (lambda d: shutil.rmtree(d / "unet"), r"unet holds no UNet2DConditionModel: config.json"),
        (
            lambda d: save_scheduler(d, "DDPMScheduler", beta_schedule="linear"),
            r"schedule.kind=linear, the card of if says cosine",
        ),
        (
            lambda d: save_scheduler(
                d, "DDPMScheduler", beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"
            ),
            r"prediction=v, the card of if says epsilon",
        ),
    ],
)
def test_an_incomplete_or_contradicting_directory_is_refused(change, message, directory, tmp_path):
    with pytest.raises(UsageError, match=message):
        load(CARD, changed(directory, tmp_path, change), device="cpu", profile=profile_named("exact"))


def test_a_text_encoder_of_another_width_is_refused(tmp_path):
    directory = save_tiny_if(tmp_path / "wide", encoder_hid_dim=32)
    with pytest.raises(UsageError, match=r"reads prompt_embeds of width 32 and the text encoder makes 24"):
        load(CARD, directory, device="cpu", profile=profile_named("exact"))


def test_stage_two_is_not_stage_one(tmp_path):
    # The upscalers of IF take the small image beside the state: six channels.
    directory = save_tiny_if(tmp_path / "stage2", in_channels=6)
    with pytest.raises(
        UsageError, match=r"in_channels=6, out_channels=6; the card of if has states of 3 channels"
    ):
        load(CARD, directory, device="cpu", profile=profile_named("exact"))
