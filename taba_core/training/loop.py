"""The training loop: AdamW, warm-up and fall of the learning rate, moving average of the weights.

A run lasts a number of steps, or a number of seconds. By steps it is reproducible: the same bits on the same kind of
device, killed and resumed or not. By seconds the learning rate follows the share of the seconds that is used, so the
run depends on the machine's speed, and only its recorded number of steps says what happened.

Several ranks share a run of a number of steps: each draws the whole batch and keeps its own rows, gradients are
averaged over the ranks, and every rank holds the same weights. The first rank alone writes.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Container, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from taba_core.errors import WorkError
from taba_core.training.checkpoint import load_checkpoint, save_checkpoint
from taba_core.training.draws import step_seed
from taba_core.training.ranks import ALONE, Ranks
from taba_core.training.trainee import Trainee

STEPS_BETWEEN_CHECKS = 20  # how often the loss is read, which waits for a GPU
FINAL_RATE = 0.01  # of the learning rate, at the end
Say = Callable[[str], None]


@dataclass(frozen=True)
class LoopSettings:
    """How a run is made; `steps` or `seconds` says how long it is.

    Attributes:
      seed: of initial weights and all draws.
      batch_size: rows of the global batch.
      learning_rate: at its peak.
      steps: number of steps.
      seconds: seconds of this process' training; compiling comes off them, before the learning rate begins to fall.
      warmup_steps: steps in which the learning rate rises.
      rate_fall: what it does then: "cosine" falls to a hundredth, "constant" stays.
      ema: decay of the moving average.
      ema_warmup: whether it is min(ema, (1 + k) / (10 + k)) at step k.
      clip: largest norm of the gradient; 0 leaves it as it is.
      data: fingerprint of the images that are trained on.
      compile: whether the loss goes through torch.compile; where that fails the run goes on without.
    """

    seed: int
    batch_size: int
    learning_rate: float
    steps: int | None = None
    seconds: float | None = None
    warmup_steps: int = 200
    rate_fall: Literal["cosine", "constant"] = "cosine"
    ema: float = 0.999
    ema_warmup: bool = True
    clip: float = 1.0
    data: str = ""
    compile: bool = False


@dataclass
class Progress:
    """How far a run is.

    Attributes:
      step: steps done.
      seconds: seconds used, reports included.
      curve: (step, mean loss since the entry before) now and then.
      compiled: whether the loss was compiled.
    """

    step: int = 0
    seconds: float = 0.0
    curve: list[tuple[int, float]] = field(default_factory=list)
    compiled: bool = False


class Loop:
    """One run of one network.

    Args:
      trainee: what is trained.
      module: its module, on its device.
      settings: how.
      checkpoint: file of the run's state; read if it is there, written at every report.
      say: where a line of text goes.
      ranks: the processes that share the run, and which of them this is.
    Raises:
      UsageError: the checkpoint is of another run. WorkError: it is damaged.
    """

    def __init__(
        self,
        trainee: Trainee,
        module: nn.Module,
        settings: LoopSettings,
        checkpoint: Path,
        say: Say = print,
        *,
        ranks: Ranks = ALONE,
    ) -> None:
        self.trainee, self.module, self.settings, self.checkpoint, self.say = (
            trainee, module, settings, checkpoint, say,
        )  # fmt: skip
        self.ranks = ranks
        self.average = copy.deepcopy(module).requires_grad_(False).eval()
        self.progress = Progress()
        self._budget = settings.seconds or 0.0
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        self._averaged: list[Tensor] = [
            average
            for average, p in zip(self.average.parameters(), module.parameters(), strict=True)
            if p.requires_grad
        ]
        on_gpu = self._parameters[0].is_cuda
        self.optimizer = torch.optim.AdamW(
            self._parameters, lr=settings.learning_rate, weight_decay=0.0, fused=True if on_gpu else None
        )
        self._loss: Callable[[Mapping[str, Tensor]], Tensor] = ranks.shared(_LossModule(trainee, module))
        if settings.compile:
            self._loss = torch.compile(self._loss, dynamic=False)
            self.progress.compiled = True
        self._resume()

    def run(
        self,
        report: Callable[[Loop], None],
        report_seconds: float,
        keep: Callable[[Loop], None] = lambda loop: None,
        kept_steps: Container[int] = (),
        look: Callable[[Loop], None] = lambda loop: None,
    ) -> Progress:
        """Train to the end; `report` is called every so many seconds, and at the end, after the state is saved.

        Args:
          keep: called when as many steps as one of `kept_steps` are done; 0 is before the first.
          look: called whenever the loss was read.

        Raises:
          WorkError: the loss is NaN or infinite; the last good checkpoint is kept.
        """
        if self.progress.step in kept_steps:
            keep(self)
        began = time.monotonic()
        started = began if self._finished() else self._first_step()
        self._budget = max(self._budget - (started - began), 1.0)
        before, last_report = self.progress.seconds, time.monotonic()
        total, count = torch.zeros((), device=self._parameters[0].device), 0
        while not self._finished():
            total, count = total + self._step(self.progress.step), count + 1
            self.progress.step += 1
            self.progress.seconds = before + time.monotonic() - started
            kept = self.progress.step in kept_steps
            if self.progress.step % STEPS_BETWEEN_CHECKS == 0 or kept or self._finished():
                self._record(self.ranks.mean(total) / count)
                total, count = torch.zeros_like(total), 0
                look(self)
            if kept:
                keep(self)
            due = time.monotonic() - last_report > report_seconds
            if count == 0 and due and not self._finished():
                self._save_and(report)
                last_report = time.monotonic()
        self._save_and(report)
        return self.progress

    def share_used(self) -> float:
        """Share of the run's steps or seconds that is used, 0 to 1."""
        if self.settings.steps is not None:
            return min(self.progress.step / max(self.settings.steps, 1), 1.0)
        return min(self.progress.seconds / self._budget, 1.0)

    def rate(self) -> float:
        """Learning rate of the next step: linear warm-up times, where it falls, a cosine fall to a hundredth."""
        warm = min((self.progress.step + 1) / max(self.settings.warmup_steps, 1), 1.0)
        if self.settings.rate_fall == "constant":
            return self.settings.learning_rate * warm
        fall = 0.5 * (1.0 + math.cos(math.pi * self.share_used()))
        return self.settings.learning_rate * warm * (FINAL_RATE + (1.0 - FINAL_RATE) * fall)

    def _finished(self) -> bool:
        return self.progress.step > 0 and self.share_used() >= 1.0

    def _first_step(self) -> float:
        """Take the first step of this process, which may compile; when it ended."""
        if self.settings.compile:
            try:
                self._trial()
            except Exception as error:  # the compiler raises whatever its parts stumble over
                self.say(f"torch.compile failed, going on without: {type(error).__name__}: {error}"[:600])
                self._loss = self.ranks.shared(_LossModule(self.trainee, self.module))
                self.progress.compiled = False
        else:
            self._trial()
        if self._parameters[0].is_cuda:
            torch.cuda.synchronize()
        return time.monotonic()

    def _trial(self) -> None:
        """Forward and backward of the next step, thrown away: it compiles, and leaves no trace."""
        self._loss(self.trainee.batch(self.progress.step)).backward()
        self.optimizer.zero_grad(set_to_none=True)

    def _step(self, step: int) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        torch.manual_seed(step_seed(self.settings.seed, self.ranks.stream("module"), step))  # of dropout
        loss = self._loss(self.trainee.batch(step))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.settings.clip:
            nn.utils.clip_grad_norm_(self._parameters, self.settings.clip)
        self.optimizer.step()
        decay = self.settings.ema
        if self.settings.ema_warmup:
            decay = min(decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._averaged, [p.detach() for p in self._parameters], 1.0 - decay)
        return loss.detach()

    def _record(self, loss: float) -> None:
        if not math.isfinite(loss):
            saved = self._saved()
            kept = f"the state of step {saved} is kept" if saved else "no checkpoint was written yet"
            raise WorkError(
                f"{self.trainee.recipe.name}: the loss is {loss} at step {self.progress.step}; {kept} "
                f"({self.checkpoint}). Train with a lower learning rate (taba train: "
                "--learning-rate; study training: --set training.learning_rate)."
            )
        self.progress.curve.append((self.progress.step, loss))

    def _saved(self) -> int:
        state = load_checkpoint(self.checkpoint) if self.checkpoint.is_file() else None
        return int(state["progress"]["step"]) if state else 0

    def _save_and(self, report: Callable[[Loop], None]) -> None:
        if not self.ranks.first:
            return
        if all(bool(p.isfinite().all()) for p in self._parameters):
            save_checkpoint(self.checkpoint, self._state())
        report(self)

    def _state(self) -> dict[str, Any]:
        return {
            "run": self._identity(),
            "progress": asdict(self.progress),
            "module": self.module.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must share with the run that goes on with it."""
        settings = asdict(self.settings)
        del settings["seconds"], settings["compile"]
        return {"recipe": self.trainee.recipe.model_dump(mode="json"), "settings": settings}

    def _resume(self) -> None:
        if not self.checkpoint.is_file():
            return
        state = load_checkpoint(self.checkpoint, self._identity())
        self.module.load_state_dict(state["module"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        compiled = self.progress.compiled
        self.progress = Progress(**state["progress"])
        self.progress.curve = [(int(step), float(loss)) for step, loss in self.progress.curve]
        self.progress.compiled = compiled
        self.say(f"resumed at step {self.progress.step}")


class _LossModule(nn.Module):
    """The loss as a module, so that the compiler sees network and objective as one piece."""

    def __init__(self, trainee: Trainee, module: nn.Module) -> None:
        super().__init__()
        self.trainee, self.module = trainee, module

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean loss of a batch."""
        return self.trainee.loss(self.module, batch)
