"""Train all networks of the box: each in a process of its own, at once on a GPU or in turn on a CPU.

A network that fails does not stop the others; what each wrote last is kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from taba_core.errors import UsageError
from taba_core.training.checkpoint import write_text_whole
from taba_core.training.data import source_for
from taba_core.training.recipe import Recipe, box_recipes, recipe_named, recipes

AUTOENCODER_SHARE = 0.3  # of the minutes when everything runs at once; latent networks have the rest
FINISH_SECONDS = {"cuda": 15.0, "cpu": 60.0}  # kept of a budget for writing and measuring at its end
GRACE_SECONDS = 1800.0  # after which a network that does not end is ended
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class BoxRun:
    """What is asked.

    Attributes:
      out: folder of all files.
      minutes: time budget of everything together; or `steps` for each network; or neither, where every network's
        training has a length of its own.
      names: recipes; () is those of the box. Autoencoders that these need and that are not there yet are trained too.
      device: cpu, cuda or cuda:N.
      parallel: whether networks train at once; None: on a GPU.
      options: further options of each network's training, as the command line of this package spells them.
    """

    out: Path
    minutes: float | None = None
    steps: int | None = None
    names: tuple[str, ...] = ()
    device: str = "cpu"
    parallel: bool | None = None
    options: tuple[str, ...] = ()


@dataclass
class _Worker:
    recipe: Recipe
    process: subprocess.Popen[bytes]
    log: Path
    ends_by: float
    shown: int = field(default=0)


def train_box(run: BoxRun) -> dict[str, str]:
    """Train the networks; name -> "trained", or what went wrong.

    Files in `out`: NAME.safetensors, NAME.json, NAME.png, NAME.log for each, and box.log; and trained-NAME, the folder
    that `--model` takes (of photo-adm: its card.yaml).

    Raises:
      UsageError: both of minutes and steps, or neither for a network without a length of its own; an unknown name.
    """
    wanted = _wanted(run)
    lengths = (run.minutes is not None) + (run.steps is not None)
    if lengths > 1 or (lengths == 0 and any(recipe.steps is None for recipe in wanted)):
        raise UsageError("give either --minutes or --steps, not both or neither.")
    run.out.mkdir(parents=True, exist_ok=True)
    with (run.out / "box.log").open("a", encoding="utf-8") as log:
        return _Box(run, wanted, log).train()


def check_data(
    run: BoxRun, *, data: str | None = None, data_path: str | None = None, photos: str = "builtin"
) -> None:
    """Refuse images that are not here, or that a network of a run cannot take, before any is trained.

    Raises:
      UsageError: as `source_for`.
    """
    for recipe in _wanted(run):
        source_for(recipe, data, data_path, photos)


def _wanted(run: BoxRun) -> list[Recipe]:
    """The recipes in an order in which autoencoders come before what needs them."""
    chosen = {name: recipe_named(name) for name in run.names or tuple(box_recipes())}
    for recipe in list(chosen.values()):
        needed = recipe.autoencoder
        if needed is not None and not (run.out / f"{needed}.safetensors").is_file():
            chosen[needed] = recipe_named(needed)
    return sorted(chosen.values(), key=lambda recipe: recipe.family != "autoencoder")


class _Box:
    def __init__(self, run: BoxRun, wanted: Sequence[Recipe], log: IO[str]) -> None:
        self.run, self.log = run, log
        self.waiting = list(wanted)
        self.running: list[_Worker] = []
        self.result: dict[str, str] = {}
        self.parallel = run.device.startswith("cuda") if run.parallel is None else run.parallel
        self.started = time.monotonic()
        self.shares = sum(recipe.minutes_share for recipe in wanted)
        self.autoencoders = {recipe.name for recipe in wanted if recipe.family == "autoencoder"}

    def train(self) -> dict[str, str]:
        names = ", ".join(recipe.name for recipe in self.waiting)
        self._say(f"training {names} on {self.run.device}, {'at once' if self.parallel else 'in turn'}")
        try:
            while self.waiting or self.running:
                self._start_ready()
                self._look()
                time.sleep(POLL_SECONDS)
        finally:
            for worker in self.running:
                worker.process.terminate()
        for name, outcome in self.result.items():
            self._say(f"{name}: {outcome}{self._size(name)}")
        text = json.dumps(self.result, indent=1)
        write_text_whole(self.run.out / "box.json", text)
        return self.result

    def _start_ready(self) -> None:
        for recipe in list(self.waiting):
            if self.running and not self.parallel:
                return
            needed = recipe.autoencoder
            if needed in self.autoencoders and needed not in self.result:
                continue
            self.waiting.remove(recipe)
            if needed in self.autoencoders and self.result[str(needed)] != "trained":
                self.result[recipe.name] = f"not trained: {needed} failed"
                continue
            self.running.append(self._start(recipe))

    def _start(self, recipe: Recipe) -> _Worker:
        log = self.run.out / f"{recipe.name}.log"
        command = [sys.executable, "-m", "taba_core.training", recipe.name, "--out", str(self.run.out)]
        command += ["--device", self.run.device, *self.run.options]
        seconds = self._seconds(recipe)
        if seconds is None:
            command += ["--steps", str(self.run.steps or recipe.steps)]
        else:
            command += ["--seconds", f"{seconds:.1f}"]
        with log.open("ab") as stream:
            shown = stream.tell()
            process = subprocess.Popen(
                command, stdout=stream, stderr=subprocess.STDOUT, env=self._environment()
            )
        ends_by = float("inf") if seconds is None else time.monotonic() + seconds + GRACE_SECONDS
        return _Worker(recipe, process, log, ends_by, shown)

    def _environment(self) -> dict[str, str]:
        environment = dict(os.environ, PYTHONUNBUFFERED="1")
        if self.parallel:  # processes that compile and compute side by side share the cores
            share = max((os.cpu_count() or 1) // 4, 1)
            environment.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(share))
            environment.setdefault("OMP_NUM_THREADS", str(share))
        return environment

    def _seconds(self, recipe: Recipe) -> float | None:
        """Seconds that a network may take, from its process' start to its last loss."""
        if self.run.minutes is None:
            return None
        finish = FINISH_SECONDS["cuda" if self.run.device.startswith("cuda") else "cpu"]
        total = self.run.minutes * 60.0
        if not self.parallel:
            return max(total * recipe.minutes_share / self.shares - finish, 1.0)
        if recipe.family == "autoencoder":
            return max(total * AUTOENCODER_SHARE - finish, 1.0)
        return max(total - (time.monotonic() - self.started) - finish, 1.0)

    def _look(self) -> None:
        for worker in list(self.running):
            self._echo(worker)
            code = worker.process.poll()
            if code is None and time.monotonic() > worker.ends_by:
                worker.process.kill()
                continue
            if code is not None:
                self._echo(worker)
                self.running.remove(worker)
                failure = f"failed, exit status {code}, see {worker.log.name}"
                self.result[worker.recipe.name] = failure if code else "trained"

    def _echo(self, worker: _Worker) -> None:
        with worker.log.open("rb") as stream:
            stream.seek(worker.shown)
            text = stream.read()
        worker.shown += len(text)
        if text:
            self._write(text.decode(errors="replace"))

    def _size(self, name: str) -> str:
        path = self.run.out / f"{name}.safetensors"
        return f", {path.stat().st_size / 1e6:.2f} MB" if path.is_file() else ""

    def _say(self, text: str) -> None:
        self._write(f"{time.strftime('%H:%M:%S')} box               {text}\n")

    def _write(self, text: str) -> None:
        print(text, end="", flush=True)
        self.log.write(text)
        self.log.flush()


def failed(result: dict[str, str]) -> list[str]:
    """Names of the networks that were not trained."""
    return [name for name, outcome in result.items() if outcome != "trained"]


def describe(out: Path) -> dict[str, Any]:
    """What is known of each network in a folder, by name: its metadata file."""
    found = {}
    for name in recipes():
        path = out / f"{name}.json"
        if path.is_file():
            found[name] = json.loads(path.read_text(encoding="utf-8"))
    return found
