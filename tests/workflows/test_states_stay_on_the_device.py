"""A worker that runs ahead of its device leaves rows of statistics to whoever writes the shard: the same bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engine_runs import ARGUMENTS, fingerprints, taba

from taba_core.errors import WorkError
from taba_core.stats import StepError
from workflows.compute import workbench
from workflows.compute.arrays import DeviceArray, all_in_memory, in_memory, later
from workflows.compute.conditioning import prompts_to_bytes
from workflows.compute.worker import ShardWorker


@pytest.fixture
def ahead(monkeypatch):
    """Workers on the CPU that do as workers on a device do."""
    original = workbench.Workbench.__init__

    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.runs_ahead = True

    monkeypatch.setattr(workbench.Workbench, "__init__", init)


def test_a_worker_that_runs_ahead_stores_the_same_bits(tmp_path, ahead, monkeypatch):
    begun, rows = [], StepError.rows
    run = ShardWorker.run

    def noted(self, task):
        begun.append("unit")
        finish = run(self, task)
        begun.append("computed")
        return finish

    def rows_noted(self, block):
        begun.append("rows")
        return rows(self, block)

    monkeypatch.setattr(ShardWorker, "run", noted)
    monkeypatch.setattr(StepError, "rows", rows_noted)
    assert taba(*ARGUMENTS, "location", "--workers", "1", "--store", tmp_path / "ahead") == 0
    units = "".join(word[0] for word in begun)
    assert "ucr" in units and "ur" not in units  # rows are made when the unit has been computed
    monkeypatch.undo()
    assert taba(*ARGUMENTS, "location", "--store", tmp_path / "here") == 0
    assert fingerprints(tmp_path / "ahead") == fingerprints(tmp_path / "here")


def test_a_prediction_that_is_not_finite_still_ends_the_unit_with_its_own_complaint(
    tmp_path, ahead, monkeypatch, capsys
):
    from taba_core.diffusion.finite import check_finite
    from taba_core.models.gaussian import GaussianField

    eps = GaussianField.eps

    def broken(self, x_t, t, cond):
        found = eps(self, x_t, t, cond) * torch.nan
        check_finite(found, f"gaussian: the network returned NaN at t={t:g}")
        return found

    monkeypatch.setattr(GaussianField, "eps", broken)
    assert taba(*ARGUMENTS, "--store", tmp_path / "s") == 3
    assert "gaussian: the network returned NaN at t=" in capsys.readouterr().err


def test_rows_are_made_once_for_all_their_names_and_states_are_not_copied_on_the_cpu():
    calls = []

    def make():
        calls.append(1)
        return {"a": np.zeros(2), "b": np.ones(3)}

    held = later(make, ("a", "b"))
    assert calls == []
    made = all_in_memory(held | {"c": np.arange(2)})
    assert calls == [1] and [made[name].tolist() for name in "abc"] == [[0, 0], [1, 1, 1], [0, 1]]
    states = DeviceArray(torch.zeros(2))
    in_memory(states)[0] = 7
    assert states.tensor.tolist() == [7, 0] and in_memory(states) is in_memory(states)


def test_a_state_too_large_for_the_device_is_kept_in_main_memory(monkeypatch):
    bench = workbench.Workbench("cpu")
    bench.device = "cuda"
    free = 1_000_000
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, free))
    asked = []

    def empty(shape, *, dtype, device):
        asked.append(device)
        return torch.zeros(1)

    monkeypatch.setattr(torch, "empty", empty)
    bench.empty((50_000,))
    bench.empty((50_001,))
    assert asked == ["cuda", "cpu"]


def test_an_error_of_a_unit_that_is_written_is_the_units(ahead):
    def make():
        raise WorkError("rows cannot be made")

    with pytest.raises(WorkError, match="rows cannot be made"):
        all_in_memory(later(make, ("a",)))


class Reads:
    """A model whose text encoder notes what it is asked."""

    def __init__(self):
        self.text, self.asked = self, []

    def encode(self, prompts):
        self.asked.append(tuple(prompts))
        return {"prompt_embeds": torch.tensor([[float(len(prompt))] for prompt in prompts])}


def test_parts_of_a_unit_share_the_encoding_of_their_prompts(monkeypatch):
    bench, model = workbench.Workbench("cpu"), Reads()
    monkeypatch.setattr(bench, "model", lambda spec: model)
    batches = [{"prompt": prompts_to_bytes([f"prompt {i}", "a"])} for i in range(5)]
    first = bench.condition("spec", batches[0])
    again = bench.condition("spec", {"prompt": batches[0]["prompt"].copy()})
    assert model.asked == [("prompt 0", "a")] and again["prompt_embeds"] is first["prompt_embeds"]
    again.clear()  # what one part does with its dictionary is its own
    assert bench.condition("spec", batches[0]).keys() == {"prompt_embeds"}
    bench.condition("another", batches[0])
    assert len(model.asked) == 2
    for batch in batches:
        bench.condition("spec", batch)
    bench.condition("spec", batches[4])
    assert len(model.asked) == 6
    bench.condition("spec", batches[0])  # only the last few are kept
    assert len(model.asked) == 7
