"""OpenAI's parameters and diffusers' are in bijection for every ADM network, and the values arrive where they
belong. The oracle of names and shapes is a transcription of guided-diffusion's constructor (adm_cases)."""

from math import prod

import pytest
import torch
from adm_cases import TINY, full_flags, network_flags, openai_parameters, tiny_card, tiny_weights
from diffusers.models.attention_processor import Attention

from taba_core.models.adm import build_unet, load, load_unet
from taba_core.models.adm_flags import adm_flags
from taba_core.models.adm_weights import Origin, origins, to_diffusers, to_openai
from taba_core.models.catalog import load_card
from taba_core.models.profile import profile_named
from taba_core.models.state_dict_file import read_state_dict

# model: tensors in the file, parameters
FULL = {"adm-32": (446, 52_546_438), "adm-64": (450, 121_063_942), "adm-256": (566, 552_814_086)}


def shapes_of(module):
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def meta_unet(flags):
    with torch.device("meta"):
        return build_unet(flags)


def random_state(flags, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=generator) for key, shape in openai_parameters(flags).items()}


@pytest.mark.parametrize("name", TINY)
def test_the_transcription_lists_the_recorded_files_in_their_order(name):
    found = {key: tuple(value.shape) for key, value in read_state_dict(tiny_weights(name)).items()}
    expected = openai_parameters(adm_flags(name, network_flags(name)))
    assert list(found.items()) == list(expected.items())


@pytest.mark.parametrize("model", FULL)
def test_full_networks_use_every_tensor_and_fill_every_parameter(model):
    flags, (num_tensors, num_parameters) = full_flags(model), FULL[model]
    file = openai_parameters(flags)
    assert (len(file), sum(map(prod, file.values()))) == (num_tensors, num_parameters)
    assert round(num_parameters, -4) == load_card(model).num_parameters
    unet = meta_unet(flags)
    origin = origins(shapes_of(unet), flags)
    assert {source.key: source.shape for source in origin.values()} == file
    state = {key: torch.empty(shape, device="meta") for key, shape in file.items()}
    converted = to_diffusers(state, origin, flags)
    assert {name: tuple(value.shape) for name, value in converted.items()} == shapes_of(unet)
    assert sum(value.numel() for value in converted.values()) == num_parameters
    returned = to_openai(converted, origin, flags)
    assert {key: tuple(value.shape) for key, value in returned.items()} == file


VARIANTS = {
    "class-conditional": dict(class_cond=True, num_classes=7),
    "without variance": dict(learn_sigma=False),
    "shift only": dict(use_scale_shift_norm=False),
    "new attention order": dict(use_new_attention_order=True),
    "more heads upwards": dict(num_heads_upsample=8),
    "attention everywhere": dict(attention_resolutions="32,16,8,4"),
    "attention in the middle only": dict(attention_resolutions=""),
    "two levels, three blocks": dict(channel_mult="1,3", attention_resolutions="16", num_res_blocks=3),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["adm32", "adm256"])
def test_other_architectures_of_the_family_too(name, variant):
    flags = adm_flags(name, network_flags(name) | VARIANTS[variant])
    origin = origins(shapes_of(meta_unet(flags)), flags)
    assert {source.key: source.shape for source in origin.values()} == openai_parameters(flags)


@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("name", TINY)
def test_values_come_back_bit_for_bit(name, order):
    flags = adm_flags(name, network_flags(name) | {"use_new_attention_order": order})
    origin = origins(shapes_of(meta_unet(flags)), flags)
    state = read_state_dict(tiny_weights(name))
    returned = to_openai(to_diffusers(state, origin, flags), origin, flags)
    assert state.keys() == returned.keys()
    assert all(torch.equal(returned[key], value) for key, value in state.items())


def test_rows_of_a_fused_qkv_by_hand():
    # C = 4 channels, 2 heads: 12 rows, 2 of each kind a head.
    # legacy: head 0 = q 0 1, k 2 3, v 4 5; head 1 = q 6 7, k 8 9, v 10 11. new: q 0..3, k 4..7, v 8..11.
    origin = {name: Origin("qkv.bias", (12,), part, heads=2) for part, name in enumerate("qkv")}
    state = {"qkv.bias": torch.arange(12.0)}
    legacy = adm_flags("a", network_flags("adm32"))
    rows = {name: value.tolist() for name, value in to_diffusers(state, origin, legacy).items()}
    assert rows == {"q": [0, 1, 6, 7], "k": [2, 3, 8, 9], "v": [4, 5, 10, 11]}
    new = legacy.model_copy(update={"use_new_attention_order": True})
    rows = {name: value.tolist() for name, value in to_diffusers(state, origin, new).items()}
    assert rows == {"q": [0, 1, 2, 3], "k": [4, 5, 6, 7], "v": [8, 9, 10, 11]}


def heads_by_channels(flags):
    modules = meta_unet(flags).modules()
    found = {(m.to_q.in_features, m.heads) for m in modules if isinstance(m, Attention)}
    widths = {
        round(m.scale**-2) * m.heads == m.to_q.in_features
        for m in meta_unet(flags).modules()
        if isinstance(m, Attention)
    }
    assert widths == {True}
    return found


def test_heads_are_four_of_any_width_or_any_number_of_width_64():
    assert heads_by_channels(full_flags("adm-32")) == {(256, 4)}
    # no single head width: 96 and 128 channels a head
    assert heads_by_channels(full_flags("adm-64")) == {(384, 4), (512, 4)}
    assert heads_by_channels(full_flags("adm-256")) == {(512, 8), (1024, 16)}


@pytest.mark.parametrize("change", [{"num_heads": 1}, {"use_new_attention_order": True}])
def test_flags_no_tensor_shows_change_the_output(change):
    # Such a mistake loads without complaint, so only the recorded output (test_adm_golden) can catch it.
    right = load_unet(tiny_weights("adm64"), adm_flags("adm64", network_flags("adm64")))
    wrong = load_unet(tiny_weights("adm64"), adm_flags("adm64", network_flags("adm64") | change))
    x, t = torch.ones(1, 3, 32, 32), torch.tensor([250.0])
    with torch.no_grad():
        assert (right(x, t).sample - wrong(x, t).sample).abs().max() > 0.1


def test_a_class_conditional_network_reads_the_class(tmp_path):
    network = network_flags("adm32") | {"class_cond": True, "num_classes": 5}
    card = tiny_card("adm32", network=network, conditional="class")
    state = {key: 0.1 * value for key, value in random_state(adm_flags("adm32", network)).items()}
    torch.save(state, tmp_path / "classes.pt")
    model = load(card, tmp_path / "classes.pt", device="cpu", profile=profile_named("exact"))
    assert model.class_names == ("0", "1", "2", "3", "4")
    x, ids = torch.ones(3, 3, 32, 32), torch.tensor([0, 4, 0])
    first, second, third = model.eps(x, 10.0, {"class_id": ids})
    torch.testing.assert_close(first, third)
    assert (first - second).abs().max() > 1e-4


def test_half_precision_files_are_read_as_float32(tmp_path):
    state = {key: value.half() for key, value in read_state_dict(tiny_weights("adm64")).items()}
    torch.save(state, tmp_path / "half.pt")
    unet = load_unet(tmp_path / "half.pt", adm_flags("adm64", network_flags("adm64")))
    assert {value.dtype for value in unet.state_dict().values()} == {torch.float32}


def test_double_precision_state_stays_double():
    model = load(tiny_card("adm64"), tiny_weights("adm64"), device="cpu", profile=profile_named("exact"))
    eps = model.eps(torch.zeros(2, 3, 32, 32, dtype=torch.float64), 0.0, {})
    assert eps.dtype == torch.float64 and eps.shape == (2, 3, 32, 32)


@pytest.mark.slow
@pytest.mark.parametrize("model", FULL)
def test_a_full_size_file_loads_strictly_and_comes_back_bit_for_bit(model, tmp_path):
    flags = full_flags(model)
    state = {key: 0.02 * value for key, value in random_state(flags).items()}
    torch.save(state, tmp_path / "full.pt")
    unet = load_unet(tmp_path / "full.pt", flags)
    assert sum(p.numel() for p in unet.parameters()) == FULL[model][1]
    returned = to_openai(unet.state_dict(), origins(shapes_of(unet), flags), flags)
    assert set(returned) == set(state)
    assert all(torch.equal(returned[key], value) for key, value in state.items())
    if model == "adm-32":
        network = load(load_card(model), tmp_path / "full.pt", device="cpu", profile=profile_named("exact"))
        assert torch.isfinite(network.eps(torch.ones(1, 3, 32, 32), 0.25, {})).all()
