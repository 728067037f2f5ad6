"""Damage that only loading can tell: checksums, quantised tensors, numbers that are none, errors of libraries."""

from __future__ import annotations

import errno
import json
import pickle
import shutil
import struct
import zipfile
import zlib

import pytest
import torch
from adm_cases import tiny_card, tiny_weights
from damaged_cases import MAKERS, files_read, model_of
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from taba_core.errors import UsageError, WorkError
from taba_core.models.adm import load
from taba_core.models.base import load_model
from taba_core.models.profile import profile_named


def load_adm(path):
    return load(tiny_card("adm32"), path, device="cpu", profile=profile_named("exact"))


def test_one_byte_that_differs_in_a_pytorch_file_is_found_by_its_checksum(tmp_path):
    content = bytearray(tiny_weights("adm32").read_bytes())
    content[len(content) // 2] ^= 1
    path = tmp_path / "w.pt"
    path.write_bytes(content)
    with pytest.raises(
        UsageError, match=r"w\.pt is incomplete or damaged: the part '.*' has another checksum"
    ):
        load_adm(path)


@pytest.mark.parametrize("old_format", [False, True])
def test_quantised_tensors_are_named(old_format, adm_state, tmp_path):
    state = adm_state | {"out.0.bias": adm_state["out.0.bias"].to(torch.float8_e4m3fn)}
    torch.save(state, tmp_path / "w.pt", _use_new_zipfile_serialization=not old_format)
    with pytest.raises(UsageError, match=r"quantised"):
        load_adm(tmp_path / "w.pt")
    torch.save(adm_state | {"out.0.bias": torch.ones(32, dtype=torch.int32)}, tmp_path / "w.pt")
    with pytest.raises(
        UsageError, match=r"are quantised: 'out\.0\.bias' is of type int32, and the numbers of"
    ):
        load_adm(tmp_path / "w.pt")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", MAKERS)
def test_numbers_that_are_none_are_named_by_file_and_tensor(name, value, folders, tmp_path):
    for file in (path for path in files_read(folders[name]) if path.suffix == ".safetensors"):
        folder = shutil.copytree(folders[name], tmp_path / f"tiny-{name}", dirs_exist_ok=True)
        damaged = folder / file.relative_to(folders[name])
        state = load_file(damaged)
        key = max(k for k, v in state.items() if v.is_floating_point() and v.ndim == 1)
        state[key][0] = value
        save_file(state, damaged, metadata={"format": "pt"})
        with pytest.raises(WorkError) as error:
            load_model(str(folder))
        assert f"{damaged} is damaged: NaN or infinity in '{key}', read as torch.float32." in str(error.value)
        shutil.rmtree(folder)


ABOUT_THE_FILE = [
    OSError("Error no file named x"), ValueError("v"), RuntimeError("r"), KeyError("k"), TypeError("t"), EOFError(),
    AttributeError("a"), NotImplementedError("n"), ImportError("i"), IndexError("x"), AssertionError(),
    RecursionError("deep"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), pickle.UnpicklingError("p"),
    SafetensorError("header too large"), zlib.error("z"), struct.error("s"), zipfile.BadZipFile("b"),
    json.JSONDecodeError("j", "{", 1), OverflowError("o"),
]  # fmt: skip
NOT_ABOUT_THE_FILE = [
    MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), OSError(errno.EIO, "Input/output error"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
]  # fmt: skip


def raising(error):
    def call(*arguments, **options):
        raise error

    return call


@pytest.mark.parametrize("name", ["sd", "adm"])
@pytest.mark.parametrize("error", ABOUT_THE_FILE, ids=lambda e: type(e).__name__)
def test_whatever_a_library_raises_becomes_one_message_with_the_place(name, error, folders, monkeypatch):
    from transformers import CLIPTextModel

    monkeypatch.setattr(torch, "load", raising(error))
    monkeypatch.setattr(CLIPTextModel, "from_pretrained", raising(error))
    with pytest.raises(UsageError) as caught:
        load_model(model_of(folders[name]))
    place = folders[name] / ("ema.pt" if name == "adm" else "text_encoder")
    assert str(place) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["sd", "adm"])
@pytest.mark.parametrize("error", NOT_ABOUT_THE_FILE, ids=lambda e: str(e)[:12] or "MemoryError")
def test_memory_and_disk_are_no_fault_of_a_file(name, error, folders, monkeypatch):
    from transformers import CLIPTextModel

    monkeypatch.setattr(torch, "load", raising(error))
    monkeypatch.setattr(CLIPTextModel, "from_pretrained", raising(error))
    with pytest.raises(type(error)) as caught:
        load_model(model_of(folders[name]))
    assert caught.value is error


def test_the_libraries_say_nothing_beside_the_message(folders, tmp_path, capfd):
    folder = shutil.copytree(folders["sd"], tmp_path / "tiny-sd")
    for part, change in (
        ("unet", {"extra.weight": torch.ones(2)}),
        ("text_encoder", {"extra.bias": torch.ones(2)}),
    ):
        file = next((folder / part).glob("*.safetensors"))
        content = file.read_bytes()
        save_file(load_file(file) | change, file, metadata={"format": "pt"})
        with pytest.raises(
            UsageError, match=rf"{part}: weights and config.json disagree in 1 tensors, .*extra"
        ):
            load_model(str(folder))
        file.write_bytes(content)
    written = capfd.readouterr()
    assert (written.out, written.err) == ("", "")
