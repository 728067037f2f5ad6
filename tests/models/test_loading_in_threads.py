"""Threads that load models at once get the numbers of one thread, whatever the libraries do to torch meanwhile."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading

import pytest
import torch
from tiny_checkpoints import tiny_ldm
from tiny_text_checkpoints import save_tiny_sdxl

# In a process of its own: the libraries must not have been imported before the threads start.
PROGRAM = """
import sys, threading
if sys.argv[1] == "without":
    sys.modules["accelerate"] = sys.modules["peft"] = None  # peft needs it
import torch
from taba_core.models.base import load_model

state = torch.random.get_rng_state()

def numbers(path, seen):
    try:
        model = load_model(path)
        x = torch.linspace(-1, 1, 2 * 8 * 8 * model.sample_shape[0]).reshape(2, -1, 8, 8)
        cond = model.text.encode(["a red boat", "the horse"]) if model.text else {}
        seen.append((path, model.eps(x, 7.0, cond), model.codec.decode(x)))
    except BaseException as error:
        seen.append((path, error))

together = []
threads = [threading.Thread(target=numbers, args=(path, together)) for path in sys.argv[2:] * 2]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
alone = []
for path in sys.argv[2:]:
    numbers(path, alone)
expected = {path: rest for path, *rest in alone}
assert len(together) == len(threads)
for path, *found in together:
    assert not isinstance(found[0], BaseException), repr(found[0])
    assert all(torch.equal(a, b) for a, b in zip(found, expected[path], strict=True)), path
assert torch.equal(torch.random.get_rng_state(), state) and torch.get_default_dtype() == torch.float32
print("accelerate" if sys.modules.get("accelerate") else "none", "same")
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [str(tiny_ldm(folder / "tiny-ldm")), str(save_tiny_sdxl(folder / "tiny-sdxl"))]


@pytest.mark.slow
@pytest.mark.parametrize("accelerate", ["with", "without"])
def test_four_threads_load_two_models_at_once(accelerate, models, tmp_path):
    if accelerate == "with":
        pytest.importorskip("accelerate")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, accelerate, *models], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-2:] == ["accelerate" if accelerate == "with" else "none", "same"]


def test_what_loading_changes_of_the_process_is_put_back(models):
    from taba_core.models.base import load_model

    logger = logging.getLogger("diffusers")
    load_model(models[0])
    level, state = logger.level, torch.random.get_rng_state()
    register = torch.nn.Module.register_parameter
    load_model(models[0])
    assert logger.level == level and torch.equal(torch.random.get_rng_state(), state)
    assert torch.nn.Module.register_parameter is register and torch.get_default_dtype() == torch.float32


def test_a_loader_waits_until_another_thread_has_loaded(models):
    from taba_core.models.base import load_model
    from taba_core.models.loading import loading

    done = threading.Event()
    thread = threading.Thread(target=lambda: (load_model(models[0]), done.set()))
    with loading():
        load_model(models[0])  # a loader may load what it consists of
        thread.start()
        assert not done.wait(0.5)
    assert done.wait(60)
