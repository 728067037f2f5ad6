"""`--executor local --workers 2` computes what one worker does, bit for bit, with and without accelerate."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from engine_runs import fingerprints

import workflows

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_text_checkpoints import save_tiny_sd

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(workflows.__file__).parents[1]
# A process of its own: the libraries must not have been imported before the threads start.
PROGRAM = """
import sys
if sys.argv[1] == "without":
    sys.modules["accelerate"] = sys.modules["peft"] = None  # peft needs it
from workflows.__main__ import main
try:
    main(sys.argv[2:])
finally:
    loaded = sys.modules.get("accelerate") is not None
    print("accelerate" if loaded else "none", "diffusers" if "diffusers" in sys.modules else "none")
"""


@pytest.fixture(scope="module")
def compute(tmp_path_factory):
    folder = tmp_path_factory.mktemp("threads")
    model = save_tiny_sd(folder / "tiny-sd")

    def run(accelerate: str, workers: int) -> tuple[dict[str, str], str]:
        """What a run stores, and its log of events."""
        store = folder / f"{accelerate}-{workers}"
        sets = (
            "num_samples=8",
            "samples_per_shard=2",
            "num_inference_steps=4",
            "patch_size=4",
            "top_k=5",
            "prompts=builtin",
        )
        command = [
            "run", "correlation", "--model", str(model), "--store", str(store), "--executor", "local",
            "--workers", str(workers), "--no-report", *(part for one in sets for part in ("--set", one)),
        ]  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, accelerate, *command],
            cwd=ROOT, capture_output=True, text=True, timeout=500,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.splitlines()[-1] == f"{'accelerate' if accelerate == 'with' else 'none'} diffusers"
        (log,) = (store / "_ledger" / "logs").glob("*.jsonl")
        return fingerprints(store), log.read_text()

    return run


@pytest.fixture(scope="module")
def one_worker(compute):
    pytest.importorskip("accelerate")
    return compute("with", 1)[0]


@pytest.mark.parametrize("accelerate", ("with", "without"))
def test_two_threads_that_load_a_model_at_once_store_what_one_does_without_a_retry(
    accelerate, compute, one_worker
):
    stored, log = compute(accelerate, 2)
    assert stored == one_worker
    assert '"unit-started"' in log and "retr" not in log and "failed" not in log
