"""The loop: draws that know no workers, bits that survive a kill, a NaN that stops with the last state kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from taba_core.errors import UsageError, WorkError
from taba_core.training.checkpoint import load_checkpoint
from taba_core.training.draws import StepDraws
from taba_core.training.loop import Loop, LoopSettings
from taba_core.training.recipe import recipe_named


class Line:
    """A trainee of two weights: fits y = 3 x with dropout, to hold the randomness inside modules as well."""

    recipe = recipe_named("photo-adm")

    def __init__(self, seed: int = 0, breaks_at: int | None = None) -> None:
        self.draws, self.breaks_at = StepDraws(seed, 8, torch.device("cpu")), breaks_at

    def batch(self, step):
        x = self.draws.normal(step, "x", (4,))
        if step == self.breaks_at:
            x = x * float("nan")
        return {"x": x}

    def loss(self, module, batch):
        return (module(batch["x"]) - 3.0 * batch["x"]).square().mean()


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 4))


def settings(**fields) -> LoopSettings:
    return LoopSettings(
        **({"seed": 0, "batch_size": 8, "learning_rate": 0.01, "steps": 60, "warmup_steps": 5} | fields)
    )


class Killed(Exception):
    pass


def test_a_killed_run_ends_with_the_bits_of_an_undisturbed_one(tmp_path):
    whole = Loop(Line(), network(), settings(), tmp_path / "whole.pt")
    whole.run(lambda loop: None, 1e9)

    def kill(loop):
        raise Killed

    for _ in range(3):  # killed at every report: at steps 20 and 40, and at the end
        with pytest.raises(Killed):
            Loop(Line(), network(), settings(), tmp_path / "killed.pt", lambda text: None).run(kill, -1.0)
    again = Loop(Line(), network(), settings(), tmp_path / "killed.pt", lambda text: None)
    assert again.progress.step == whole.progress.step == 60
    for a, b in zip(again.average.parameters(), whole.average.parameters(), strict=True):
        assert torch.equal(a, b)
    assert again.progress.curve == whole.progress.curve
    assert whole.progress.curve[-1][1] < whole.progress.curve[0][1]


def test_a_nan_stops_the_run_and_keeps_the_last_good_state(tmp_path):
    path = tmp_path / "state.pt"
    loop = Loop(Line(breaks_at=45), network(), settings(), path)
    with pytest.raises(WorkError, match=r"the loss is nan at step 60; the state of step 40 is kept"):
        loop.run(lambda loop: None, -1.0)
    state = load_checkpoint(path)
    assert state["progress"]["step"] == 40
    assert all(bool(value.isfinite().all()) for value in state["module"].values())


def test_a_state_of_another_run_is_refused(tmp_path):
    path = tmp_path / "state.pt"
    Loop(Line(), network(), settings(steps=20), path).run(lambda loop: None, 1e9)
    with pytest.raises(UsageError, match=r"of another run: settings.seed is 0 there and 1 now"):
        Loop(Line(), network(), settings(steps=20, seed=1), path)


def test_a_damaged_state_is_refused_with_the_way_out(tmp_path):
    path = tmp_path / "state.pt"
    path.write_bytes(b"PK" + bytes(100))
    with pytest.raises(WorkError, match=r"no complete checkpoint .* Remove it to begin anew"):
        Loop(Line(), network(), settings(), path)


def test_the_rate_rises_and_falls_by_a_cosine(tmp_path):
    loop = Loop(Line(), network(), settings(steps=1000, warmup_steps=100), tmp_path / "state.pt")
    loop.progress.step = 0
    assert loop.rate() == pytest.approx(0.01 / 100)
    loop.progress.step = 500
    assert loop.rate() == pytest.approx(0.01 * (0.01 + 0.99 * 0.5))
    loop.progress.step = 1000
    assert loop.rate() == pytest.approx(0.0001)


@pytest.mark.parametrize("workers", [2, 3])
def test_the_global_batch_does_not_depend_on_the_number_of_workers(workers):
    device = torch.device("cpu")
    alone = StepDraws(3, 12, device).normal(7, "noise", (2, 2))
    parts = [
        StepDraws(3, 12, device, worker, workers).normal(7, "noise", (2, 2)) for worker in range(workers)
    ]
    assert torch.equal(torch.stack(parts, dim=1).flatten(0, 1), alone)
    assert not torch.equal(alone, StepDraws(3, 12, device).normal(8, "noise", (2, 2)))
    assert not torch.equal(alone, StepDraws(3, 12, device).normal(7, "other", (2, 2)))
