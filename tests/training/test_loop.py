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


@pytest.mark.follows("Give another --out, or remove the file to begin anew.")
def test_a_state_of_another_run_is_refused(tmp_path):
    path = tmp_path / "state.pt"
    Loop(Line(), network(), settings(steps=20), path).run(lambda loop: None, 1e9)
    with pytest.raises(UsageError, match=r"of another run: settings.seed is 0 there and 1 now"):
        Loop(Line(), network(), settings(steps=20, seed=1), path)
    assert Loop(Line(), network(), settings(steps=20, seed=1), tmp_path / "other.pt").progress.step == 0
    path.unlink()
    assert Loop(Line(), network(), settings(steps=20, seed=1), path).progress.step == 0


@pytest.mark.follows("). Remove it to begin anew.")
def test_a_damaged_state_is_refused_with_the_way_out(tmp_path):
    path = tmp_path / "state.pt"
    path.write_bytes(b"PK" + bytes(100))
    with pytest.raises(WorkError, match=r"no complete checkpoint .* Remove it to begin anew"):
        Loop(Line(), network(), settings(), path)
    path.unlink()
    assert Loop(Line(), network(), settings(), path).progress.step == 0


@pytest.mark.follows("Make room on the disk and run the same command again: it goes on from there.")
def test_a_full_disk_keeps_the_state_before_and_the_run_goes_on_from_there(tmp_path, monkeypatch):
    whole = Loop(Line(), network(), settings(), tmp_path / "whole.pt", lambda text: None)
    whole.run(lambda loop: None, 1e9)
    path, save = tmp_path / "state.pt", torch.save
    reports = []

    def fills_up(loop):
        reports.append(loop.progress.step)
        monkeypatch.setattr(torch, "save", full)

    def full(state, place):
        place.write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    with pytest.raises(WorkError, match=r"could not be written .* the file before it, if any, is untouched"):
        Loop(Line(), network(), settings(), path, lambda text: None).run(fills_up, -1.0)
    assert reports == [20] and [file.name for file in tmp_path.iterdir() if "state" in file.name] == [
        "state.pt"
    ]
    monkeypatch.setattr(torch, "save", save)
    again = Loop(Line(), network(), settings(), path, lambda text: None)
    assert again.progress.step == 20
    again.run(lambda loop: None, 1e9)
    for a, b in zip(again.average.parameters(), whole.average.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_rate_rises_and_falls_by_a_cosine(tmp_path):
    loop = Loop(Line(), network(), settings(steps=1000, warmup_steps=100), tmp_path / "state.pt")
    loop.progress.step = 0
    assert loop.rate() == pytest.approx(0.01 / 100)
    loop.progress.step = 500
    assert loop.rate() == pytest.approx(0.01 * (0.01 + 0.99 * 0.5))
    loop.progress.step = 1000
    assert loop.rate() == pytest.approx(0.0001)


def test_a_constant_rate_stays_and_needs_no_warm_up(tmp_path):
    fields = {"steps": 1000, "warmup_steps": 0, "rate_fall": "constant"}
    loop = Loop(Line(), network(), settings(**fields), tmp_path / "state.pt")
    for step in (0, 500, 1000):
        loop.progress.step = step
        assert loop.rate() == 0.01


def test_the_average_follows_its_decay_from_the_first_step_or_after_a_warm_up(tmp_path):
    """After one step the average is decay * w_0 + (1 - decay) * w_1: .75 of w_0, or 1/10 of it (k = 0)."""
    for warmup, decay in ((False, 0.75), (True, 0.1)):
        given = settings(steps=1, ema=0.75, ema_warmup=warmup)
        before = [p.detach().clone() for p in network().parameters()]
        loop = Loop(Line(), network(), given, tmp_path / f"{warmup}.pt", lambda text: None)
        loop.run(lambda loop: None, 1e9)
        for average, old, new in zip(
            loop.average.parameters(), before, loop.module.parameters(), strict=True
        ):
            assert not torch.equal(old, new)
            assert (average - (decay * old + (1 - decay) * new)).abs().max() < 1e-7


def test_a_gradient_is_clipped_to_the_norm_or_left_as_it_is(tmp_path):
    found = {}
    for clip in (0.0, 1e-3, 1e6):
        loop = Loop(
            Line(), network(), settings(steps=1, clip=clip), tmp_path / f"{clip}.pt", lambda text: None
        )
        loop.run(lambda loop: None, 1e9)
        norms = torch.stack([p.grad.norm() for p in loop.module.parameters()])
        found[clip] = float(norms.norm())
    assert found[0.0] == found[1e6] > 0.1
    assert found[1e-3] == pytest.approx(1e-3, rel=1e-3)


def test_a_state_of_other_images_is_refused(tmp_path):
    path = tmp_path / "state.pt"
    Loop(Line(), network(), settings(steps=20, data="aa"), path).run(lambda loop: None, 1e9)
    with pytest.raises(UsageError, match=r"of another run: settings.data is 'aa' there and 'bb' now"):
        Loop(Line(), network(), settings(steps=20, data="bb"), path)


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
