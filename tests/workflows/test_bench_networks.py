"""The benchmarks of networks run on a CPU, with the figures they promise."""

from __future__ import annotations

import json
import math

import pytest
import yaml

from taba_core.errors import UsageError
from workflows.bench import profile_drift, run_benchmarks, step


def test_a_step_of_the_true_architecture_is_timed_with_its_operations(capsys):
    found = step.measure(repeats=1, models=["adm-32"], profiles=["exact"], batch_size=1)
    # One image through 52.5 M parameters at 32x32 and below: some 12 GFLOP, whatever the machine.
    assert 5e9 < found.figures["adm-32_exact_flops"] < 5e10
    assert found.figures["adm-32_exact_seconds"] > 0
    (row,) = found.rows
    assert row.n == "1 images" and "paper 0.211 ms an image" in row.target


def test_a_step_that_compiles_for_too_long_is_stopped_and_the_file_says_so(tmp_path):
    found = step.measure(
        models=["adm-32"],
        profiles=["exact"],
        batch_size=1,
        compiled=True,
        compile_seconds=0.5,
        output=str(tmp_path / "step.json"),
    )
    plain, compiled = json.loads((tmp_path / "step.json").read_text())["entries"]
    assert plain["status"] == "measured" and plain["seconds"] == found.figures["adm-32_exact_seconds"]
    assert compiled["compiled"] and compiled["status"].startswith("stopped after")
    assert found.rows[1].median.startswith("stopped after")


def test_a_profiles_drift_is_measured_on_a_checkpoint(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(profile_drift, "STEPS", 3)
    flags = json.loads((data_dir / "adm_flags.json").read_text())["adm32"]
    process = ("diffusion_steps", "noise_schedule", "rescale_timesteps", "predict_xstart")
    card = tmp_path / "tiny.yaml"
    network = {k: v for k, v in flags.items() if k not in process}
    card.write_text(yaml.safe_dump({"extends": "adm-32", "title": "Tiny", "network": network}))
    found = profile_drift.measure(models=[str(card)], weights=data_dir / "adm32.pt", num_samples=32).figures
    exact = {k: v for k, v in found.items() if "_exact_" in k and k.endswith("_drift")}
    fast = {k: v for k, v in found.items() if "_fast_" in k and k.endswith("_drift")}
    assert len(exact) == len(fast) == len(profile_drift.STATISTICS)
    assert set(exact.values()) == {0.0}
    # bfloat16 moves the statistics, and by little.
    assert any(v != 0 for v in fast.values()) and all(
        math.isfinite(v) and abs(v) < 0.1 for v in fast.values()
    )


def test_options_of_another_benchmark_are_refused():
    with pytest.raises(UsageError, match="benchmark mixture has no option models"):
        run_benchmarks(["mixture"], repeats=1, options={"models": ["adm-32"]})
