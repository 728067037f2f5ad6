"""Weight files and flags that are not the card's network are refused, each with one message that says so."""

import os
import re

import pytest
import torch
from adm_cases import network_flags, tiny_card, tiny_weights

from taba_core.errors import UsageError, WorkError
from taba_core.models.adm import load
from taba_core.models.adm_flags import adm_flags
from taba_core.models.profile import profile_named
from taba_core.models.state_dict_file import read_state_dict

REMEDY = "Give the file of adm32, or correct `network` in its card."


class Code:
    def __reduce__(self):
        return (os.system, ("true",))


@pytest.fixture
def state():
    return read_state_dict(tiny_weights("adm32"))


@pytest.fixture
def refusal(tmp_path):
    """The message with which a file of this content (bytes, or what torch.save writes) is refused."""

    def message(content, *, error=UsageError, card=None):
        path = tmp_path / "w.pt"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        with pytest.raises(error) as caught:
            load(card or tiny_card("adm32"), path, device="cpu", profile=profile_named("exact"))
        return str(caught.value).replace(str(path), "w.pt")

    return message


def test_no_file_and_a_directory(tmp_path):
    def message(source):
        with pytest.raises(UsageError) as caught:
            load(tiny_card("adm32"), source, device="cpu", profile=profile_named("exact"))
        return str(caught.value)

    assert message(None) == (
        "the weights of adm32 are one .pt file, and none were given. Give the file itself."
    )
    assert message(tmp_path) == (
        f"the weights of adm32 are one .pt file, and '{tmp_path}' is a directory. Give the file itself."
    )
    assert message(tmp_path / "a.pt") == (
        f"{tmp_path / 'a.pt'}: no such file. Download the file again, or correct the path."
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "w.pt is an empty file, not a PyTorch file. Download the file again."),
        (
            b"<html>404 Not Found</html>",
            "w.pt is a web page, which was saved under this name, not a PyTorch file. Download the file itself, signed "
            "in where its site asks for it.",
        ),
        (
            b"\x80\x02garbage",
            "w.pt is a Python pickle that PyTorch did not write, or an incomplete one, not a PyTorch file. Download "
            "the file again.",
        ),
    ],
)
def test_a_file_that_is_not_torchs(refusal, content, told):
    assert refusal(content) == told


def test_an_interrupted_download(refusal):
    assert refusal(tiny_weights("adm32").read_bytes()[:300_000]) == (
        "w.pt is incomplete or damaged: the list of its parts, which is at the end, is missing or damaged. Download "
        "the file again."
    )


def test_code_is_neither_run_nor_loaded(refusal):
    assert refusal({"weights": Code()}) == (
        "weights 'w.pt' hold more than tensors ('posix.system'), and loading that could run code; it was not "
        "loaded. Give a plain state dict, as torch.save(model.state_dict(), path) writes it."
    )
    assert "hold more than tensors ('torch.nn.modules.linear.Linear')" in refusal(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    "content, found",
    [
        ([1, 2], "a list"),
        ({}, "an empty dict"),
        ({"state_dict": {}, "step": 3}, "a dict whose entry 'state_dict' is no tensor"),
    ],
)
def test_a_file_that_is_no_state_dict(refusal, content, found):
    assert refusal(content) == (
        f"weights 'w.pt' hold {found}, and a state dict is needed: parameter names with their tensors at the "
        "top level. Give the file of the network alone (the EMA weights, not a training checkpoint)."
    )


def test_a_missing_tensor(refusal, state):
    del state["middle_block.1.qkv.bias"], state["out.0.weight"]
    assert refusal(state) == (
        "weights 'w.pt' do not fit adm32: missing 'middle_block.1.qkv.bias' and 1 more; 222 tensors are "
        f"expected, 220 were found. {REMEDY}"
    )


def test_an_unexpected_tensor(refusal, state):
    state["middle_block.3.in_layers.0.weight"] = torch.ones(64)
    assert refusal(state) == (
        "weights 'w.pt' do not fit adm32: unexpected 'middle_block.3.in_layers.0.weight'; 222 tensors are "
        f"expected, 223 were found. {REMEDY}"
    )


def test_a_tensor_of_another_shape(refusal, state):
    state["middle_block.1.qkv.weight"] = torch.ones(96, 64, 1)
    assert refusal(state) == (
        "weights 'w.pt' do not fit adm32: 'middle_block.1.qkv.weight' has shape (96, 64, 1), expected "
        f"(192, 64, 1). {REMEDY}"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(refusal, state, value):
    state["out.2.bias"][4] = value
    assert refusal(state, error=WorkError) == (
        "weights 'w.pt' are damaged: NaN or infinite values in 'out.2.bias'. Fetch them again."
    )


def test_a_class_conditional_file_for_an_unconditional_card(refusal, state):
    state["label_emb.weight"] = torch.ones(1000, 128)
    assert refusal(state) == (
        "weights 'w.pt' contradict the card of adm32: class_cond is True in the file and False in the card. "
        + REMEDY
    )


@pytest.mark.parametrize(
    "change, told",
    [
        ({"num_channels": 64}, "num_channels is 32 in the file and 64 in the card"),
        ({"learn_sigma": False}, "learn_sigma is True in the file and False in the card"),
        ({"use_scale_shift_norm": False}, "use_scale_shift_norm is True in the file and False in the card"),
        ({"resblock_updown": True}, "resblock_updown is False in the file and True in the card"),
        ({"num_res_blocks": 2}, "do not fit adm32: missing"),
        ({"channel_mult": "1,2,2"}, "do not fit adm32: missing"),
        ({"channel_mult": "1,2,2,4"}, "do not fit adm32: missing"),
        (
            {"attention_resolutions": "8"},
            "do not fit adm32: missing 'output_blocks.5.1.conv.weight' and 1 more",
        ),
    ],
)
def test_flags_the_file_contradicts(refusal, state, change, told):
    card = tiny_card("adm32", network=network_flags("adm32") | change)
    assert told in refusal(state, card=card)


def test_weights_of_another_model_of_the_family(refusal):
    other = read_state_dict(tiny_weights("adm256"))
    assert "resblock_updown is True in the file and False in the card" in refusal(other)


FLAGS = [
    (
        {"use_new_attention_ordr": True},
        "unknown network flag of m 'use_new_attention_ordr': did you mean use_new_attention_order or "
        "attention_resolutions? Known network flags of m: attention_resolutions, channel_mult, ",
    ),
    (
        {"num_channels": 40},
        "the network flags of m contradict each other: level 0 has 40 channels, no multiple of 32.",
    ),
    ({"num_heads": 5}, "contradict each other: level 1 has 64 channels, which 5 heads cannot share."),
    ({"num_head_channels": 48}, "level 1 has 64 channels, no multiple of num_head_channels=48."),
    (
        {"num_heads_upsample": 7},
        "contradict each other: level 1 has 64 channels, which 7 heads cannot share.",
    ),
    (
        {"attention_resolutions": "12"},
        "no level has the attention resolution 12; levels have [32, 16, 8, 4].",
    ),
    ({"image_size": 36}, "image_size=36 cannot be halved 3 times."),
    (
        {"num_res_blocks": 0},
        "network flag num_res_blocks=0 of m: input should be greater than or equal to 1.",
    ),
    ({"channel_mult": "1,x"}, "network flag channel_mult='x' of m: input should be a valid integer"),
]


@pytest.mark.parametrize("change, told", FLAGS)
def test_flags_that_no_network_can_have(change, told):
    with pytest.raises(UsageError, match=re.escape(told)):
        adm_flags("m", network_flags("adm32") | change)


def test_a_card_without_flags():
    with pytest.raises(
        UsageError, match=r"the card of m has no network flag 'image_size' \(pixels of a side\)"
    ):
        adm_flags("m", {})


def test_a_card_whose_parts_disagree():
    def message(**fields):
        with pytest.raises(UsageError) as caught:
            load(
                tiny_card("adm32", **fields),
                tiny_weights("adm32"),
                device="cpu",
                profile=profile_named("exact"),
            )
        return str(caught.value)

    assert message(sample_shape=(3, 64, 64)) == (
        "the card of adm32 has sample_shape [3, 64, 64] and network flag image_size=32; they must agree as "
        "[3, image_size, image_size]."
    )
    assert message(conditional="class") == (
        "the card of adm32 is conditional: class and has network flag class_cond=false; class goes with true, "
        "none with false."
    )
