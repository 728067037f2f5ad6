"""A training run whose networks at stated steps are kept, by one process or by several that share it."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from taba_core.artifacts.training import Training
from taba_core.errors import UsageError
from taba_core.models.base import load_model
from taba_core.models.catalog import load_card
from taba_core.training.data import source_for
from taba_core.training.export import save_network, unpack
from taba_core.training.heldout import LEVELS, epsilon_errors, examples
from taba_core.training.loop import Loop, LoopSettings
from taba_core.training.pictures import COLUMNS, real, samples, save_grid
from taba_core.training.prepare import Preparation, of_recipe
from taba_core.training.ranks import Ranks
from taba_core.training.recipe import Recipe

HELD_OUT, HELD_OUT_SEED, PICTURE_SEED = 64, 7, 3
STATE_SECONDS = 30.0  # between two states: what a kill may cost
PROGRESS_SECONDS = 2.0  # between two lines of the live view


class Keeper(Protocol):
    """Where a training run puts what it makes."""

    @property
    def state(self) -> Path:
        """File from which a killed run goes on."""

    def facts(self, step: int) -> Mapping[str, Any] | None:
        """What is known of the network at a step; None where it is not kept yet."""

    def keep(self, step: int, write: Callable[[Path], None], facts: Mapping[str, Any]) -> None:
        """Keep the network at a step: `write` makes its folder."""

    def say(self, progress: Mapping[str, Any]) -> None:
        """Show how far the run is."""


@dataclass(frozen=True)
class TrainingProcess:
    """The process that a rank is.

    Attributes:
      device: cpu, cuda or cuda:N.
      ranks: the processes that share the run.
    """

    device: torch.device
    ranks: Ranks


def train_and_keep(spec: Training, keeper: Keeper, process: TrainingProcess) -> None:
    """Train to the end from the state that is there, and keep the network at every step of the spec's checkpoints.

    The same bits on the same kind of device, with as many ranks and one thread each, killed and resumed or not.

    Raises:
      UsageError: a recipe on latents, a batch that the ranks cannot share, data that are not those of the spec.
      WorkError: the loss is NaN, the disk is full, or the state is damaged; the networks that are kept stay.
    """
    _KeptRun(spec, keeper, process).run()


class _KeptRun:
    def __init__(self, spec: Training, keeper: Keeper, process: TrainingProcess) -> None:
        self.spec, self.keeper, self.process = spec, keeper, process
        self.recipe = Recipe.model_validate(spec.recipe)
        if spec.batch_size % process.ranks.count:
            raise UsageError(
                f"{spec.batch_size} rows of a batch cannot be shared by {process.ranks.count} workers; use a number of "
                f"workers that divides {spec.batch_size}."
            )
        self.source = source_for(self.recipe, path=spec.data_location or None)
        if self.source.fingerprint != spec.data:
            where = spec.data_location or f"the place of {self.recipe.data}"
            raise UsageError(
                f"{spec.name}: the images at {where} have fingerprint {self.source.fingerprint}, and the run is of "
                f"{spec.data}. Put them back, or start again: other images are another run."
            )
        _deterministic()
        self.shown = 0.0

    def run(self) -> None:
        ready = Preparation(
            self.recipe,
            self.source,
            self.spec.seed,
            self.spec.batch_size,
            self.process.device,
            self.process.ranks,
        )
        settings = LoopSettings(
            seed=self.spec.seed,
            batch_size=self.spec.batch_size,
            learning_rate=self.spec.learning_rate,
            steps=self.spec.steps,
            data=self.spec.data,
            **of_recipe(self.recipe),
        )
        trainee, network = ready.trainee(self._no_autoencoder), ready.network()
        loop = Loop(trainee, network, settings, self.keeper.state, _silent, ranks=self.process.ranks)
        loop.run(
            self._show_now,
            STATE_SECONDS,
            keep=self._keep,
            kept_steps=frozenset(self.spec.checkpoints),
            look=self._show,
        )

    def _no_autoencoder(self) -> Path:
        raise UsageError(
            f"{self.recipe.name} works on the latents of an autoencoder; networks on pixels can be trained here. "
            f"`taba train {self.recipe.name}` trains this one."
        )

    def _show_now(self, loop: Loop) -> None:
        self._show(loop, now=True)

    def _show(self, loop: Loop, *, now: bool = False) -> None:
        """Say how far the run is, at most every so many seconds."""
        if not self.process.ranks.first or not (now or time.monotonic() - self.shown > PROGRESS_SECONDS):
            return
        self.shown, progress = time.monotonic(), loop.progress
        done = max(progress.step, 1)
        self.keeper.say(
            {
                "step": progress.step,
                "steps": self.spec.steps,
                "loss": progress.curve[-1][1] if progress.curve else None,
                "seconds": round(progress.seconds, 2),
                "images_per_second": round(self.spec.images(progress.step) / max(progress.seconds, 1e-9), 1),
                "seconds_left": round(progress.seconds * (self.spec.steps - progress.step) / done, 1),
                "curve": progress.curve,
            }
        )

    def _keep(self, loop: Loop) -> None:
        """Keep the averaged network of this step, unless that was done before the run was killed."""
        step = loop.progress.step
        if not self.process.ranks.first or self.keeper.facts(step) is not None:
            return
        with tempfile.TemporaryDirectory(prefix="taba-network-") as scratch:
            file = Path(scratch) / f"{self.recipe.name}.safetensors"
            save_network(file, loop.average, self.recipe, self.source.facts())
            folder = Path(scratch) / self.spec.label(step)
            measured = self._measured(unpack(file, folder), folder)
            self.keeper.keep(step, partial(_copy, folder), self._facts(loop) | measured)

    def _measured(self, written: Path, folder: Path) -> dict[str, Any]:
        """Held-out errors of a network as its family's loader reads it, and a picture of its samples beside it."""
        model: Any = load_model(str(written), device=str(self.process.device))
        card = load_card(str(written))
        given = examples(model, card, self.source, HELD_OUT, region="held-out", seed=HELD_OUT_SEED)
        errors = epsilon_errors(model, card, given, seed=HELD_OUT_SEED)
        made = samples(model, card, self.source, COLUMNS, seed=PICTURE_SEED)
        save_grid(folder / "samples.png", [made, real(card, self.source, COLUMNS, seed=PICTURE_SEED)])
        return {"held_out_levels": list(LEVELS), "held_out_errors": [round(error, 6) for error in errors]}

    def _facts(self, loop: Loop) -> dict[str, Any]:
        on_gpu = self.process.device.type == "cuda"
        return {
            "images": self.spec.images(loop.progress.step),
            "seconds": round(loop.progress.seconds, 1),
            "device": torch.cuda.get_device_name(self.process.device) if on_gpu else "CPU",
            "workers": self.process.ranks.count,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }


def _copy(made: Path, place: Path) -> None:
    shutil.copytree(made, place)


def _deterministic() -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)


def _silent(text: str) -> None:
    """A line that nobody reads: the keeper shows how far the run is."""
