"""Every kind of damage of every file that a loader reads is told before anything runs, and the file is named."""

from __future__ import annotations

import errno
import re
import shutil
from pathlib import Path

import pytest
import torch
from adm_cases import tiny_weights
from damaged_cases import MAKERS, code_of, files_read, model_of
from safetensors.torch import load_file, save_file
from tiny_checkpoints import tiny_unet
from torch.testing import assert_close

from taba_core.errors import UsageError
from taba_core.models.base import load_model, model_spec
from taba_core.models.state_dict_file import read_state_dict

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 3438167534\n" % (b"ab" * 32)


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
