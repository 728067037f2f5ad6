"""`taba` gives the number of the code it is installed as, from whichever folder it is called."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import workflows
from cluster.ray.code import digest_of
from taba_core.store import Store
from workflows.__main__ import main

pytestmark = pytest.mark.timeout(600)  # every test starts processes, and busy machines start them slowly

ROOT = Path(workflows.__file__).parents[1]
SMALL = ("samples_per_shard=4", "num_inference_steps=4")
STEP = "return P * x_from + Q * eps"
# What the console script does: its own folder is first on the search path, and the current directory is not on it.
TABA = "import sys; from workflows.__main__ import main; sys.argv[0] = 'taba'; main()"


def run(store: Path, *options: str, n: int = 4) -> list[str]:
    sets = [part for setting in (f"num_samples={n}", *SMALL) for part in ("--set", setting)]
    return [
        "run",
        "correlation",
        "--model",
        "gaussian",
        "--store",
        str(store),
        "--no-report",
        *sets,
        *options,
    ]


def latents(store: Path) -> np.ndarray:
    (found,) = [
        group for group in Store.open(store, mode="r").artifacts() if group.artifact.kind == "inversion"
    ]
    return found.read_samples(0, 4, ("latent",))["latent"]


def call(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=500
    )


@pytest.fixture(scope="module")
def other_checkout(tmp_path_factory):
    """Another checkout with a changed DDIM step, as a user who edits a copy has it."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("taba_core", "cluster", "workflows"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "taba_core" / "diffusion" / "ddim.py"
    text = file.read_text()
    assert text.count(STEP) == 1
    file.write_text(text.replace(STEP, f"{STEP} * 0.9"))
    return folder


@pytest.fixture(scope="module")
def own_store(tmp_path_factory):
    """What this code computes in this process."""
    store = tmp_path_factory.mktemp("own") / "store"
    with pytest.raises(SystemExit) as end:
        main(run(store, "--executor", "inline"))
    assert not end.value.code
    return store


@pytest.fixture(scope="module")
def own_number(own_store):
    """The latents that this code gives in this process."""
    return latents(own_store)


def logged_code(store: Path) -> dict[str, str]:
    """The digests of the packages that the run which made the store wrote into its log."""
    (line,) = (store / "_ledger" / "runs.jsonl").read_text().splitlines()
    return json.loads(line)["code"]


def digests(folder: Path) -> dict[str, str]:
    return {name: digest_of(str(folder / name)) for name in ("taba_core", "cluster", "workflows")}


def test_the_log_of_runs_says_which_code_computed_and_the_report_shows_it(own_store):
    code = digests(ROOT)
    assert logged_code(own_store) == code
    with pytest.raises(SystemExit) as end:
        main(["report", "--store", str(own_store)])
    assert not end.value.code
    page = (own_store / "report" / "pages" / "provenance.html").read_text()
    assert "code · taba_core" in page and code["taba_core"] in page


@pytest.mark.cluster
def test_another_checkout_in_the_current_directory_does_not_change_a_bit(
    other_checkout, own_number, tmp_path
):
    store = tmp_path / "store"
    command = [sys.executable, "-P", "-c", TABA, *run(store, "--workers", "1")]
    done = call(command, other_checkout, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(latents(store), own_number)


@pytest.mark.cluster
def test_workers_run_the_checkout_that_python_m_runs(other_checkout, own_number, tmp_path):
    store = tmp_path / "store"
    command = [sys.executable, "-m", "workflows", *run(store, "--workers", "1")]
    done = call(command, other_checkout, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    # The driver says what it ran; a worker that had run this code instead would have given its numbers.
    assert logged_code(store) == digests(other_checkout)
    assert logged_code(store)["taba_core"] != digests(ROOT)["taba_core"]
    assert np.abs(latents(store) - own_number).max() > 0.01


def test_python_m_in_a_folder_without_taba_runs_no_file_of_that_folder(tmp_path):
    for name in ("cluster", "taba_core", "random", "torch", "typer", "numpy"):
        (tmp_path / f"{name}.py").write_text(
            "raise SystemExit('a file of the current directory was imported')\n"
        )
    done = call([sys.executable, "-m", "workflows", "list"], tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0 and "photo-mixture" in done.stdout, done.stderr


OTHER_VERSION = """
import sys
import cluster.ray.code as code
read = code._look_up_once
def other(name):
    # As if this command were of another version, in a folder that the nodes do not see.
    package = read(name)
    return package | {"folder": "/login/taba_core", "digest": "0" * 12} if name == "taba_core" else package
code._look_up_once = other
from workflows.__main__ import main
main(sys.argv[1:])
"""


@pytest.mark.cluster
def test_workers_of_another_version_are_refused_with_status_2_before_a_unit_runs(tmp_path):
    store = tmp_path / "store"
    done = call(
        [sys.executable, "-P", "-c", OTHER_VERSION, *run(store, "--workers", "1")], ROOT, PYTHONPATH=str(ROOT)
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("taba: error: the workers on node ")
    assert f"package 'taba_core': there {ROOT}/taba_core (content " in done.stderr
    assert "), here /login/taba_core (content 000000000000). If the files were edited" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((store / "_ledger").glob("gaussian-*.jsonl"))


def test_a_second_ctrl_c_with_local_workers_ends_with_status_85_and_no_abort(tmp_path):
    """The threads are in native code then; an interpreter that ends under them is aborted by the C++ library."""
    program = (
        "import os, signal, threading, time, torch\n"
        "from workflows.compute.worker import ShardWorker\n"
        "def compute(self, task):\n"
        "    os.write(1, b'computing\\n')\n"
        "    while True:\n"
        "        torch.randn(400, 400) @ torch.randn(400, 400)\n"
        "ShardWorker.run = compute\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n" + TABA
    )
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", program, *run(tmp_path / "store", "--executor", "local", "--workers", "2", n=16)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        lines = [process.stdout.readline() for _ in range(3)]  # what is to be computed, then both workers
        assert lines.count("computing\n") == 2, lines
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(1.5)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 85, said
    assert said.splitlines()[-1] == "taba: stopped; finished shards are stored, the same command resumes."
