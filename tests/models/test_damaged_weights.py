"""Every kind of damage of every file that a loader reads is told before anything runs, and the file is named."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
import yaml
from adm_cases import network_flags, tiny_card, tiny_weights
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tiny_checkpoints import tiny_dit, tiny_ldm, tiny_unet
from tiny_text_checkpoints import save_tiny_if, save_tiny_sd, save_tiny_sdxl
from torch.testing import assert_close

from taba_core.errors import UsageError, WorkError
from taba_core.models.adm import load
from taba_core.models.base import load_model, model_spec
from taba_core.models.profile import profile_named
from taba_core.models.state_dict_file import read_state_dict
from taba_core.models.weight_files import check_weight_file

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 3438167534\n" % (b"ab" * 32)
MAKERS = {
    "sd": save_tiny_sd, "sdxl": save_tiny_sdxl, "if": save_tiny_if, "ldm": tiny_ldm, "dit": tiny_dit,
}  # fmt: skip


def adm_folder(folder: Path) -> Path:
    """A card of one's own beside its weights."""
    folder.mkdir()
    (folder / "ema.pt").write_bytes(tiny_weights("adm32").read_bytes())
    card = {"extends": "adm-32", "title": "Own", "image_size": 32, "sample_shape": [3, 32, 32]}
    card |= {"network": network_flags("adm32"), "weights": "ema.pt"}
    (folder / "own.yaml").write_text(yaml.safe_dump(card))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("models")
    made = {name: make(base / f"tiny-{name}") for name, make in MAKERS.items()}
    return made | {"adm": adm_folder(base / "adm")}


def model_of(folder: Path) -> str:
    own = folder / "own.yaml"
    return str(own if own.exists() else folder)


def files_read(folder: Path) -> list[Path]:
    """Of IF's tokenizer the SentencePiece file alone is read."""
    unread = {folder / "own.yaml"}
    if (folder / "tokenizer" / "spiece.model").exists():
        unread.add(folder / "tokenizer" / "tokenizer_config.json")
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path not in unread]


def other_format(path: Path, content: bytes) -> None:
    """The same tensors as the other of the two formats."""
    path.unlink()
    if path.suffix == ".safetensors":
        torch.save({"w": torch.ones(3)}, path)
    else:
        save_file({"w": torch.ones(3)}, path)


def quantised(path: Path, content: bytes) -> None:
    path.unlink()
    if path.suffix == ".safetensors":
        save_file({"w": torch.ones(3, dtype=torch.int8)}, path)
    else:
        torch.save({"w": torch.ones(3, dtype=torch.int8)}, path)


def folder_instead(path: Path, content: bytes) -> None:
    path.unlink()
    path.mkdir()


def broken_link(path: Path, content: bytes) -> None:
    path.unlink()
    path.symlink_to("../../blobs/gone")


def bytes_instead(new: bytes):
    return lambda path, content: path.write_bytes(new)


# Kind -> (how, what the message says of a weight file).
ANY_FILE = {
    "LFS pointer": (bytes_instead(POINTER), "a Git LFS pointer: 135 bytes that stand for a file of 3438 MB"),
    "web page": (bytes_instead(b"\n<!DOCTYPE html><html>Sign in</html>"), "a web page"),
    "empty": (bytes_instead(b""), "an empty file"),
    "zeros": (bytes_instead(bytes(9000)), "begins with zeros only"),
    "picture": (bytes_instead(b"\x89PNG\r\n\x1a\n" + bytes(99)), "a PNG picture"),
    "folder": (folder_instead, "is a folder"),
    "broken link": (broken_link, "is a link to ../../blobs/gone, where nothing is"),
}
WEIGHTS_ONLY = {
    "error message": (bytes_instead(b'{"error": "not found"}'), "JSON text"),
    "truncated": (
        lambda path, content: path.write_bytes(content[: len(content) // 2]),
        "incomplete or damaged",
    ),
    "begun": (lambda path, content: path.write_bytes(content[:100]), "incomplete or damaged"),
    "one byte short": (lambda path, content: path.write_bytes(content[:-1]), "incomplete or damaged"),
    "TensorFlow": (bytes_instead(b"\x89HDF\r\n\x1a\n" + bytes(99)), "an HDF5 file"),
    "GGUF": (bytes_instead(b"GGUF" + bytes(99)), "a GGUF file"),
    "gzip": (bytes_instead(b"\x1f\x8b" + bytes(99)), "a gzip archive"),
    "random bytes": (bytes_instead(bytes(range(7, 250))), "of no kind that is known here"),
    "other format": (other_format, "not a"),
    "quantised": (quantised, "quantised weights"),
}


@pytest.mark.parametrize("name", [*MAKERS, "adm"])
def test_every_damage_of_every_file_is_told_before_anything_runs(name, folders):
    folder, tried = folders[name], 0
    model_spec(model_of(folder))  # the whole model is in order
    for file in files_read(folder):
        is_weights = file.suffix in (".safetensors", ".pt")
        content = file.read_bytes()
        for kind, (damage, says) in (ANY_FILE | (WEIGHTS_ONLY if is_weights else {})).items():
            damage(file, content)
            try:
                with pytest.raises(UsageError) as error:
                    model_spec(model_of(folder))
            except BaseException as other:
                raise AssertionError(f"{file} ({kind}): {other!r}") from None
            finally:
                shutil.rmtree(file) if file.is_dir() else file.unlink()
                file.write_bytes(content)
            message = str(error.value)
            assert str(file) in message and "\n" not in message, (kind, message)
            assert not is_weights or says in message, (kind, message)
            tried += 1
    assert tried >= (17 if name == "adm" else 60)
    model_spec(model_of(folder))


@pytest.mark.parametrize("name", [*MAKERS, "adm"])
def test_a_file_that_may_not_be_read_is_named(name, folders, monkeypatch):
    file = next(path for path in files_read(folders[name]) if path.suffix in (".safetensors", ".pt"))
    whole = Path.open

    def refuse(self, *arguments, **options):
        if self == file:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return whole(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UsageError) as error:
        model_spec(model_of(folders[name]))
    assert str(error.value) == (
        f"{file} cannot be read: permission denied. Give yourself permission (chmod u+r), or use a copy."
    )


def test_an_index_names_every_file_that_is_not_there(folders, tmp_path):
    from diffusers import UNet2DConditionModel

    folder = shutil.copytree(folders["sd"], tmp_path / "sharded")
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    shutil.rmtree(folder / "unet")
    unet.save_pretrained(folder / "unet", max_shard_size="100KB")
    shards = sorted((folder / "unet").glob("*.safetensors"))
    assert len(shards) > 2
    model_spec(str(folder))
    kept = shards[1].read_bytes()
    shards[1].write_bytes(POINTER)
    with pytest.raises(UsageError, match=rf"{re.escape(str(shards[1]))} is a Git LFS pointer"):
        model_spec(str(folder))
    shards[1].write_bytes(kept[:-1])
    with pytest.raises(UsageError, match=rf"it should have {len(kept)} bytes and has {len(kept) - 1}\."):
        model_spec(str(folder))
    shards[1].unlink()
    with pytest.raises(UsageError) as error:
        model_spec(str(folder))
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    assert str(error.value) == (
        f"{index} lists {len(shards)} files, of which 1 is not there: {shards[1].name}. Download them into "
        f"{folder / 'unet'}."
    )


def test_files_that_nobody_reads_may_be_anything_and_do_not_count(tmp_path):
    folder = tiny_unet(tmp_path / "model")
    before = load_card_parameters(folder)
    state = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    save_file(state, folder / "unet" / "diffusion_pytorch_model.non_ema.safetensors")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(POINTER)
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"")
    assert load_card_parameters(folder) == before == sum(value.numel() for value in state.values())
    load_model(str(folder))


def load_card_parameters(folder: Path) -> int:
    from taba_core.models.catalog import load_card

    return load_card(str(folder)).num_parameters


def test_a_file_where_a_folder_is_needed_is_refused_before_anything_runs(folders):
    file = folders["sd"] / "unet" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(UsageError) as error:
        model_spec("sd", weights=file)
    assert str(error.value) == (
        f"{file} is a file; the weights of SD 1.4 are a directory in the hub's layout, with model_index.json "
        "and a folder for each component (unet, text_encoder, vae, scheduler). Give that directory."
    )


def test_a_folder_without_weights_says_what_is_there(tmp_path):
    folder = tiny_unet(tmp_path / "model")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_name("diffusion_pytorch_model.non_ema.safetensors"))
    with pytest.raises(UsageError) as error:
        load_model(str(folder))
    assert str(error.value) == (
        f"{folder / 'unet'} holds no weights that are read here: it holds "
        "diffusion_pytorch_model.non_ema.safetensors. A component's folder holds config.json and its weights "
        "(safetensors), as diffusers saves them."
    )


# ------------------------------------------------------------------------------------------ the ways out


def code_of(message: str) -> str:
    """The code of the command that a message tells."""
    return re.search(r'python -c "(.*)"', message)[1]


def test_a_file_of_the_other_format_loads_once_it_has_its_own_name(tmp_path):
    folder = tiny_unet(tmp_path / "model")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    whole = load_model(str(folder)).eps(torch.ones(1, 3, 16, 16), 3, {})
    file.unlink()
    torch.save(state, file)
    with pytest.raises(
        UsageError, match=r"is a PyTorch file, not a safetensors file\. Rename it to (\S+), or"
    ) as error:
        load_model(str(folder))
    file.rename(file.with_name(re.search(r"Rename it to (\S+),", str(error.value))[1]))
    # Another place of the numbers in memory may round a product otherwise.
    assert_close(load_model(str(folder)).eps(torch.ones(1, 3, 16, 16), 3, {}), whole, rtol=1e-4, atol=1e-5)


def test_a_safetensors_file_named_pt_is_converted_by_the_command_that_is_told(tmp_path):
    path = tmp_path / "w.pt"
    state = read_state_dict(tiny_weights("adm32"))
    save_file(state, path)
    with pytest.raises(
        UsageError, match=r"w\.pt is a safetensors file, not a PyTorch file\. Convert it: "
    ) as error:
        read_state_dict(path)
    exec(code_of(str(error.value)))
    converted = read_state_dict(tmp_path / "w-converted.pt")
    assert converted.keys() == state.keys() and all(torch.equal(converted[k], state[k]) for k in state)


# -------------------------------------------------------------------- saved by other people's training code


@pytest.fixture(scope="module")
def adm_state():
    return read_state_dict(tiny_weights("adm32"))


def prefixed(state, prefix):
    return {f"{prefix}{key}": value for key, value in state.items()}


WRAPPED = {
    "data parallel": lambda s: prefixed(s, "module."),
    "compiled": lambda s: prefixed(s, "_orig_mod."),
    "both": lambda s: prefixed(s, "module._orig_mod."),
    "model": lambda s: prefixed(s, "model."),
    "ema": lambda s: prefixed(s, "ema."),
    "latent diffusion": lambda s: prefixed(s, "model.diffusion_model."),
    "under state_dict": lambda s: {"state_dict": s, "step": 3},
    "under model": lambda s: {"model": s, "optimizer": {"lr": 0.1}, "epoch": 4},
    "under ema": lambda s: {"ema": s, "step": 3},
    "Lightning": lambda s: {
        "state_dict": prefixed(s, "model."), "epoch": 4, "global_step": 9, "pytorch-lightning_version": "2.1",
        "optimizer_states": [{"state": {}}], "callbacks": {}, "hyper_parameters": {"lr": 1e-4},
    },
}  # fmt: skip


@pytest.mark.parametrize("wrap", WRAPPED)
@pytest.mark.parametrize("old_format", [False, True])
def test_the_one_network_of_a_checkpoint_is_found(wrap, old_format, adm_state, tmp_path):
    torch.save(WRAPPED[wrap](adm_state), tmp_path / "w.pt", _use_new_zipfile_serialization=not old_format)
    found = read_state_dict(tmp_path / "w.pt")
    assert found.keys() == adm_state.keys() and all(torch.equal(found[k], adm_state[k]) for k in found)


@pytest.mark.parametrize("together", ["entries", "prefixes"])
def test_of_two_networks_the_user_says_which(together, adm_state, tmp_path):
    path = tmp_path / "w.pt"
    other = {key: value + 1 for key, value in adm_state.items()}
    if together == "entries":
        torch.save({"model": other, "ema": adm_state, "step": 3}, path)
    else:
        torch.save(prefixed(other, "online_model.") | prefixed(adm_state, "ema_model."), path)
    with pytest.raises(UsageError) as error:
        read_state_dict(path)
    names = (
        "(model, ema)" if together == "entries" else ", whose names begin with 'online_model.', 'ema_model.'"
    )
    assert str(error.value).startswith(
        f"weights '{path}' hold 2 networks{names if names[0] == ',' else ' ' + names}; "
    )
    exec(code_of(str(error.value)))
    found = read_state_dict(tmp_path / "w-network.pt")
    assert found.keys() == adm_state.keys() and all(torch.equal(found[k], adm_state[k]) for k in found)


class Code:
    def __reduce__(self):
        return (os.system, ("false",))


@pytest.mark.parametrize("old_format", [False, True])
def test_code_is_told_by_the_header(old_format, tmp_path):
    torch.save(
        {"w": torch.ones(3), "c": Code()}, tmp_path / "w.pt", _use_new_zipfile_serialization=not old_format
    )
    with pytest.raises(
        UsageError, match=r"hold more than tensors \('posix\.system'\), and loading that could run"
    ):
        check_weight_file(tmp_path / "w.pt")


def test_a_zip_that_torch_did_not_write_and_a_plain_pickle(tmp_path):
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "words")
    with pytest.raises(UsageError, match=r"w\.pt is a zip archive, not a PyTorch file\. Unpack it"):
        check_weight_file(path)
    path.write_bytes(pickle.dumps({"w": 1}))
    with pytest.raises(UsageError, match=r"w\.pt is a Python pickle that PyTorch did not write"):
        check_weight_file(path)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    with pytest.raises(UsageError, match=r"w\.pt is a TorchScript program, not a file of weights"):
        check_weight_file(path)


# ------------------------------------------------------------------------------- what only loading can tell


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
