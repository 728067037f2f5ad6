"""A damaged model ends a run at once, with one message: before the plan where a header tells, else without retries."""

from __future__ import annotations

import gc
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cluster.executor import HopelessUnit
from taba_core.errors import UsageError, WorkError
from taba_core.models.base import model_spec
from workflows import shared_models
from workflows.__main__ import main
from workflows.shared_models import SharedModels

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_checkpoints import tiny_unet

SMALL = ("num_samples=6", "samples_per_shard=2", "num_inference_steps=4", "patch_size=8", "top_k=5")


@pytest.fixture
def model(tmp_path):
    return tiny_unet(tmp_path / "own-unet")


def weights_of(model: Path) -> Path:
    return model / "unet" / "diffusion_pytorch_model.safetensors"


def with_nan(model: Path) -> None:
    state = load_file(weights_of(model))
    state["conv_in.bias"][1] = torch.nan
    save_file(state, weights_of(model), metadata={"format": "pt"})


def run(model, store, workers=1) -> int:
    assignments = [part for text in SMALL for part in ("--set", text)]
    command = ["run", "correlation", "--model", model, "--store", store, "--executor", "local", "--no-report"]
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in (*command, "--workers", workers, *assignments)])
    return int(stop.value.code or 0)


def test_what_a_header_tells_is_refused_before_the_store_is_made(model, tmp_path, capfd):
    weights_of(model).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 400000\n")
    assert run(model, tmp_path / "store") == 2
    written = capfd.readouterr()
    assert written.out == "" and written.err == (
        f"taba: error: {weights_of(model)} is a Git LFS pointer: 69 bytes that stand for a file of 0.4 MB, not a "
        "safetensors file. Run `git lfs pull` in the repository it was cloned with, or download the file itself.\n"
    )
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_what_only_loading_tells_fails_each_unit_once(model, workers, tmp_path, capfd):
    with_nan(model)
    assert run(model, tmp_path / "store", workers) == 3
    written = capfd.readouterr()
    assert "unit retry" not in written.out + written.err and "Traceback" not in written.out + written.err
    last = written.err.strip().splitlines()[-1]
    assert last.startswith("taba: error: 6 of 6 units failed (3 by themselves, the rest wait for them): ")
    assert (
        last.count(
            f"{weights_of(model)} is damaged: NaN or infinity in 'conv_in.bias', read as torch.float32"
        )
        == 1
    )


def test_a_refusal_is_remembered_and_a_disk_error_is_not(model, monkeypatch):
    calls = []

    def load(spec, *, device):
        calls.append(device)
        if len(calls) == 1:
            raise WorkError("cannot read weights.") from OSError(5, "Input/output error")
        raise UsageError("no such weights.")

    monkeypatch.setattr(shared_models, "load_spec", load)
    models, spec = SharedModels("cpu"), model_spec(str(model))
    with pytest.raises(WorkError, match="cannot read weights"):
        models.get(spec)
    for _ in range(3):
        with pytest.raises(HopelessUnit, match="no such weights"):
            models.get(spec)
    assert len(calls) == 2


def test_threads_share_a_network_while_any_of_them_holds_it(model):
    spec, found = model_spec(str(model)), []
    workers = [SharedModels("cpu") for _ in range(3)]
    threads = [threading.Thread(target=lambda w=w: found.append(w.get(spec))) for w in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and len({id(network) for network in found}) == 1
    assert list(shared_models._NETWORKS) == [(spec, "cpu")]
    found.clear()
    workers.clear()
    threads.clear()
    gc.collect()
    assert not list(shared_models._NETWORKS)


def test_what_a_model_prepares_is_not_shared():
    spec = model_spec("gaussian", {"size": 8})
    assert SharedModels("cpu").get(spec) is not SharedModels("cpu").get(spec)
