"""Folders of Stable Diffusion 3 and FLUX.1: the card that they amount to, their files, and what is refused."""

from __future__ import annotations

import json
import re
import shutil

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import edit_json
from tiny_flow_checkpoints import CHANNELS, flux_card, module_of, save_tiny_flux, save_tiny_sd3
from torch.testing import assert_close

from taba_core.errors import UsageError
from taba_core.models.base import load_model
from taba_core.models.catalog import load_card
from taba_core.models.families import load_network
from taba_core.models.model_files import component_files
from taba_core.models.profile import profile_named


def normal(*shape, seed=5):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flows")
    return {
        "sd3": save_tiny_sd3(folder / "tiny-sd3"),
        "flux-dev": save_tiny_flux(folder / "tiny-flux-dev"),
        "flux-schnell": save_tiny_flux(folder / "tiny-flux-schnell", guidance=False),
    }


@pytest.fixture(scope="module")
def models(directories):
    """What `--model` is given."""
    small = flux_card(directories["flux-dev"])
    return {"sd3": str(directories["sd3"]), "flux-dev": str(small)}


def test_the_card_of_a_directory(directories):
    card = load_card(str(directories["sd3"]))
    assert (card.family, card.conditional, card.domain, card.backbone) == (
        "sd3",
        "text",
        "latent",
        "Transformer",
    )
    assert (card.sample_shape, card.image_size) == ((CHANNELS, 8, 8), 32)
    assert (card.scaling_factor, card.shift_factor) == (1.5305, 0.0609)
    assert (card.prediction, card.schedule.kind, card.schedule.shift) == ("velocity", "flow", 3.0)
    assert card.reference.forward_level == "exact" and card.precision == "fp32"
    flux = load_card(str(directories["flux-schnell"]))
    assert (flux.family, flux.distilled_guidance, flux.max_tokens) == ("flux", None, 256)


def test_weights_of_16_bits_are_run_as_they_are_stored(directories, tmp_path):

    for dtype, precision in ((torch.bfloat16, "bf16"), (torch.float16, "fp16")):
        directory = shutil.copytree(directories["sd3"], tmp_path / precision)
        model = diffusers.SD3Transformer2DModel.from_pretrained(directory / "transformer", torch_dtype=dtype)
        shutil.rmtree(directory / "transformer")
        model.save_pretrained(directory / "transformer")
        card = load_card(str(directory))
        assert card.precision == precision
        network = load_network(card, directory, device="cpu", profile=profile_named("reference"))
        assert network.dtype == dtype and network.codec.vae.dtype == torch.float32
        eps = network.eps(normal(1, *network.sample_shape), 500.0, network.text.encode(["a"]))
        assert eps.dtype == torch.float32


@pytest.mark.parametrize("name", ["sd3", "flux-dev"])
def test_shards_and_one_file_are_the_same_network(name, directories, models, tmp_path):

    directory = shutil.copytree(directories[name], tmp_path / f"{directories[name].name}")
    shards = sorted((directory / "transformer").glob("*.safetensors"))
    assert len(shards) > 2
    kind = {"sd3": "SD3Transformer2DModel", "flux-dev": "FluxTransformer2DModel"}[name]
    whole = getattr(diffusers, kind).from_pretrained(directory / "transformer")
    shutil.rmtree(directory / "transformer")
    whole.save_pretrained(directory / "transformer")
    model = load_network(load_card(models[name]), directory, device="cpu", profile=profile_named("exact"))
    sharded = load_model(models[name])
    one, several = (module_of(each).state_dict() for each in (model, sharded))
    assert list(one) == list(several) and all(torch.equal(one[key], several[key]) for key in one)
    # Where a tensor lies in its file decides how its products are vectorised.
    x, cond = normal(1, *model.sample_shape), model.text.encode(["a red boat"])
    assert_close(model.eps(x, 400.0, cond), sharded.eps(x, 400.0, cond), rtol=0, atol=1e-5)


def refused(directory, change, card=None):
    change(directory)
    with pytest.raises(UsageError) as caught:
        load_network(
            card or load_card(str(directory)), directory, device="cpu", profile=profile_named("exact")
        )
    return str(caught.value)


def edit(folder, **changes):
    name = "scheduler_config.json" if folder == "scheduler" else "config.json"
    return lambda directory: edit_json(directory / folder / name, **changes)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("sd3", edit("vae", shift_factor=None), "shift_factor=None; the latents of .* are shifted"),
        ("sd3", edit("scheduler", use_dynamic_shifting=True), "use_dynamic_shifting=true (allowed: false)"),
        ("sd3", edit("scheduler", use_karras_sigmas=True), "use_karras_sigmas=true (allowed: false)"),
        ("flux-dev", edit("scheduler", time_shift_type="linear"), 'time_shift_type="linear" (allowed: "exp'),
        ("flux-dev", edit("scheduler", shift_terminal=0.1), "shift_terminal=0.1 (allowed: null)"),
        ("flux-dev", edit("transformer", in_channels=384, out_channels=64), "in_channels=384, out_channels=64"),
        ("flux-dev", edit("transformer", patch_size=2), "patch_size=2 (allowed: 1)"),
        ("sd3", edit("transformer", attention_window=3), "attention_window=3 (not a field that this version"),
        ("sd3", edit("scheduler", _class_name="DDIMScheduler", shift=...), "the scheduler is none; it must be Flow"),
        ("sd3", edit("transformer", joint_attention_dim=32), "reads prompt_embeds of width 32 and the text"),
    ],
)  # fmt: skip
def test_bad_directories_are_refused_in_one_sentence(name, change, message, directories, tmp_path):

    copy = shutil.copytree(directories[name], tmp_path / directories[name].name)
    if "joint_attention_dim" in message or "prompt_embeds of width" in message:
        change = rebuild_narrower
    pattern = message if ".*" in message else re.escape(message)
    assert re.search(pattern, refused(copy, change))


def rebuild_narrower(directory):

    config = diffusers.SD3Transformer2DModel.load_config(directory / "transformer") | {
        "joint_attention_dim": 32
    }
    shutil.rmtree(directory / "transformer")
    diffusers.SD3Transformer2DModel.from_config(config).save_pretrained(directory / "transformer")


def test_states_that_cannot_be_patched_are_refused(directories, tmp_path):
    odd = load_card(str(flux_card(directories["flux-dev"], (CHANNELS, 7, 8), folder=tmp_path)))
    with pytest.raises(UsageError, match=r"states of 7 x 8; .* its sides are multiples of 2 "):
        load_network(odd, directories["flux-dev"], device="cpu", profile=profile_named("exact"))
    card = load_card(str(directories["sd3"]))
    large = card.model_copy(update={"sample_shape": (CHANNELS, 24, 24), "image_size": 96})
    with pytest.raises(UsageError, match=r"its sides are multiples of 2, at most 16 \("):
        load_network(large, directories["sd3"], device="cpu", profile=profile_named("exact"))
    other = card.model_copy(update={"sample_shape": (4, 8, 8)})
    with pytest.raises(UsageError, match=r"states of 16 channels, the card of tiny-sd3 of 4\. Correct the"):
        load_network(other, directories["sd3"], device="cpu", profile=profile_named("exact"))


def test_another_size_within_the_positions_runs(directories):
    card = load_card(str(directories["sd3"]))
    large = card.model_copy(update={"sample_shape": (CHANNELS, 16, 16), "image_size": 64})
    model = load_network(large, directories["sd3"], device="cpu", profile=profile_named("exact"))
    assert model.eps(normal(1, CHANNELS, 16, 16), 10.0, model.text.encode(["a"])).shape == (
        1,
        CHANNELS,
        16,
        16,
    )


@pytest.mark.parametrize(("name", "stated"), [("flux-dev", None), ("flux-schnell", 3.5)])
def test_a_card_whose_guidance_is_not_the_networks_is_refused(name, stated, directories, tmp_path):
    card = load_card(str(flux_card(directories[name], folder=tmp_path)))
    card = card.model_copy(update={"distilled_guidance": stated})
    way_out = "distilled_guidance: 1.0" if stated is None else "distilled_guidance: null"
    with pytest.raises(UsageError, match=rf"given (no |a )guidance.*Correct the card: `{way_out}`"):
        load_network(card, directories[name], device="cpu", profile=profile_named("exact"))


def test_a_shift_that_is_not_the_cards_is_refused(directories):
    card = load_card(str(directories["sd3"])).model_copy(update={"shift_factor": 0.1})
    with pytest.raises(UsageError, match=r"states shift_factor=0\.0609 and the card 0\.1; latents would be"):
        load_network(card, directories["sd3"], device="cpu", profile=profile_named("exact"))


def test_shards_that_do_not_hold_what_their_index_says_are_refused(directories, tmp_path):

    folder = shutil.copytree(directories["sd3"] / "transformer", tmp_path / "transformer")
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    table = json.loads(index.read_text())["weight_map"]
    first, second = sorted(set(table.values()))[:2]
    name = next(tensor for tensor, file in table.items() if file == first)
    # One tensor in two files.
    held = load_file(folder / second)
    save_file(held | {name: load_file(folder / first)[name]}, folder / second, metadata={"format": "pt"})
    with pytest.raises(
        UsageError, match=f"'{name}' is in {first} and in {second}, so the weights are not one"
    ):
        component_files(folder)
    # A tensor that is not where the index says.
    save_file(held, folder / second, metadata={"format": "pt"})
    index.write_text(json.dumps({"weight_map": table | {name: second}}))
    with pytest.raises(UsageError, match=rf"says that '{name}' is in {second}, which does not hold it"):
        component_files(folder)
    # Half-precision twins beside the files change nothing.
    index.write_text(json.dumps({"weight_map": table}))
    plain = component_files(folder)
    for file in plain.files:
        shutil.copy(file, folder / file.name.replace("model-", "model.fp16-"))
    assert component_files(folder) == plain
