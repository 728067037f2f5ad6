"""What the README shows works as written."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from taba_core.diffusion.inversion import Step, StepMethod, inversion_method, invert, list_methods
from taba_core.models.base import load_model
from taba_core.models.catalog import load_card
from taba_core.models.grids import timestep_grid
from workflows.__main__ import main

README = Path(__file__).parents[2] / "README.md"


def python_blocks():
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.S)


def test_the_query_prints_the_number_of_the_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = ["num_samples=48", "num_inference_steps=10", "bootstrap_replicates=100"]
    sets = [part for s in settings for part in ("--set", s)]
    with pytest.raises(SystemExit) as stop:
        main(
            [
                "run",
                "correlation",
                "--model",
                "gaussian",
                "--store",
                "runs/demo",
                "--executor",
                "local",
                *sets,
            ]
        )
    assert not stop.value.code
    capsys.readouterr()
    exec(python_blocks()[0], {})
    printed = float(capsys.readouterr().out.split()[-1])
    rows = json.loads(Path("runs/demo/report/results.json").read_text())
    (reported,) = [r["value"] for r in rows if (r["item"], r["column"]) == ("table2", "latent")]
    assert printed == pytest.approx(reported, abs=1e-6)


def test_the_inversion_method_of_the_readme_registers_and_inverts():
    names = {
        "inversion_method": inversion_method,
        "dataclass": dataclass,
        "Step": Step,
        "StepMethod": StepMethod,
    }
    exec(python_blocks()[1], names)
    assert "half-step" in list_methods()
    model = load_model("gaussian")
    grid = timestep_grid(load_card("gaussian"), 5)
    image = torch.zeros(2, *model.sample_shape) + 0.1
    # The example repeats DDIM's step, so it must give DDIM's latent.
    assert torch.equal(invert(model, image, grid, "half-step"), invert(model, image, grid, "ddim"))


def test_the_readme_fits_a_screen_or_so():
    assert len(README.read_text().splitlines()) <= 90
