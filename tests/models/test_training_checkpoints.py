"""Weights saved by other people's training code: one network is found, of two the user says which, code is refused."""

from __future__ import annotations

import os
import pickle
import zipfile

import pytest
import torch
from damaged_cases import code_of

from taba_core.errors import UsageError
from taba_core.models.state_dict_file import read_state_dict
from taba_core.models.weight_files import check_weight_file


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
