"""The benchmark for a GPU lent for minutes, rehearsed on the CPU at toy size."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from taba_core.errors import UsageError
from workflows.bench import gpu
from workflows.bench.compile_jobs import CompileJobs, holding
from workflows.bench.evaluations import Entry

# What a bare machine lacks: the script may import none of these, nor anything that does.
ABSENT = ["ray", "zarr", "xarray", "dask", "typer", "rich", "sklearn", "skimage", "matplotlib", "jinja2"]
REHEARSAL = """
import json, sys
sys.modules.update(dict.fromkeys(json.loads(sys.argv[1])))
from workflows.bench import gpu
gpu.main(sys.argv[2:])
"""


def rehearse(output, *more):
    arguments = ["--device", "cpu", "--tiny", "--output", str(output), "--compile", "", *more]
    done = subprocess.run(
        [sys.executable, "-c", REHEARSAL, json.dumps(ABSENT), *arguments],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(output.read_text()), done.stdout


def test_all_networks_are_measured_without_ray_or_zarr(tmp_path):
    found, printed = rehearse(tmp_path / "gpu.json", "--minutes", "4")
    entries = {(e["model"], e["profile"], e["channels_last"]): e for e in found["entries"]}
    assert {e["status"] for e in found["entries"]} == {"measured"}, found["entries"]
    assert {model for model, *_ in entries} == {*gpu.FIRST, *gpu.THEN}
    assert {profile for _, profile, _ in entries} == {"exact", "reference", "fast"}
    assert all(0 < e["least"] <= e["seconds"] <= e["most"] for e in found["entries"])
    errors = {
        (e["model"], e["profile"]): e["relative_rms"] for e in found["errors"] if not e["channels_last"]
    }
    # 16 bits of bfloat16 round by 2^-9 a product, those of float16 by 2^-11, float32 by 2^-24.
    assert all(1e-3 < error < 5e-2 for error in errors["adm-64", "fast"])
    assert all(1e-4 < error < 1e-2 for error in errors["if", "fast"])
    assert all(error < 1e-5 for error in errors["adm-64", "reference"])
    half = next(
        e["float16_relative_rms"]
        for e in found["errors"]
        if e["model"] == "adm-64" and e["profile"] == "fast"
    )
    assert all(h < b for h, b in zip(half, errors["adm-64", "fast"], strict=True))
    assert found["overhead"][0]["ratio"] > 0.3 and found["overhead"][0]["steps"] == 4
    assert "adm-256 fast @2" in printed


def test_what_the_time_is_too_short_for_is_written_down(tmp_path):
    found = gpu.run(
        minutes=0.05,
        output=tmp_path / "gpu.json",
        device="cpu",
        tiny=True,
        models=["sdxl"],
        compiled=["sdxl"],
    )
    assert {e["status"] for e in found["entries"]} == {"left out: no time"}
    assert json.loads((tmp_path / "gpu.json").read_text()) == found


def test_a_network_that_compiles_for_too_long_is_stopped_and_the_rest_is_measured(tmp_path):
    begun = time.monotonic()
    found = gpu.run(
        minutes=2,
        output=tmp_path / "gpu.json",
        device="cpu",
        tiny=True,
        models=["adm-32"],
        compiled=["adm-32"],
        compile_seconds=1.0,
    )
    status = {(e["profile"], e["compiled"]): e["status"] for e in found["entries"]}
    assert status["fast", True].startswith("stopped after") and time.monotonic() - begun < 110
    assert status["fast", False] == status["exact", False] == "measured"


def test_an_entry_is_timed_in_a_process_of_its_own_and_one_that_dies_says_why(tmp_path):
    entries = [Entry("dit", "exact", 2), Entry("dit", "exactly", 2)]
    jobs = CompileJobs(entries, tmp_path, device="cpu", tiny=True, limit=120)
    records = []
    jobs.start()
    while jobs.busy:
        records += jobs.finished()
        jobs.start()
        time.sleep(0.1)
    by_profile = {record["profile"]: record for record in records}
    assert by_profile["exact"]["status"] == "measured" and by_profile["exact"]["seconds"] > 0
    assert by_profile["exactly"]["status"].startswith("failed: UsageError: unknown profile 'exactly'")


def test_who_times_pauses_the_jobs_that_compile(tmp_path):
    (tmp_path / "device").touch()
    code = "import time\nwhile True: print(1, flush=True); time.sleep(0.01)"
    ticking = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    try:
        (tmp_path / f"{ticking.pid}.pid").touch()
        assert ticking.stdout.readline()

        def state():
            return Path(f"/proc/{ticking.pid}/stat").read_text().split()[2]

        with holding(tmp_path):
            time.sleep(0.2)
            assert state() == "T"
        with holding(tmp_path, own=ticking.pid):
            time.sleep(0.2)
            assert state() != "T"
    finally:
        ticking.kill()
        ticking.wait()


@pytest.mark.follows("--minutes ")
def test_a_time_above_zero_is_taken(tmp_path):
    asked = {
        "output": tmp_path / "gpu.json",
        "device": "cpu",
        "tiny": True,
        "models": ["dit"],
        "compiled": [],
    }
    with pytest.raises(UsageError, match=r"give a time above 0, for example 4"):
        gpu.run(minutes=-1, **asked)
    assert gpu.run(minutes=4, **asked)["entries"][0]["status"] == "measured"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"minutes": 0.0}, r"--minutes 0: give a time above 0"),
        ({"models": ["adm-3"]}, r"unknown architecture 'adm-3': did you mean adm-32"),
        ({"device": "gpu"}, r"device='gpu' is no device"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_runs(fields, message):
    asked = {"minutes": 1.0, "output": Path("nowhere.json"), "device": "cpu", "tiny": True} | fields
    with pytest.raises(UsageError, match=message):
        gpu.run(**asked)
    assert not Path("nowhere.json").exists()
