"""Train one network: data, loop, reports, and its file."""

from __future__ import annotations

import copy
import json
import math
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from taba_core.errors import UsageError
from taba_core.models.base import load_model
from taba_core.models.catalog import load_card
from taba_core.models.codec import KLCodec
from taba_core.models.profile import usable_device
from taba_core.training.checkpoint import write_text_whole
from taba_core.training.classifier import measured
from taba_core.training.data import source_for
from taba_core.training.export import load_module, save_network, unpack
from taba_core.training.heldout import LEVELS, epsilon_errors, examples
from taba_core.training.latents import standardise
from taba_core.training.loop import Loop, LoopSettings, Progress
from taba_core.training.pictures import COLUMNS, real, samples, save_grid
from taba_core.training.prepare import Preparation, of_recipe
from taba_core.training.recipe import recipe_named

HELD_OUT_SEED, PICTURE_SEED = 7, 3
MEASURING_SHARE = 0.1  # of the time, at most, goes into measuring the network while it is trained
STANDARDISED_ON = 2048  # training crops that the latents' scale is measured on


@dataclass(frozen=True)
class OneRun:
    """What one network's training is asked to be.

    Attributes:
      name: of the recipe.
      out: folder of all files of the box.
      seconds, steps: how long; one of them, or neither where the recipe has a length of its own.
      device: cpu, cuda or cuda:N.
      seed: of the training.
      photos: "builtin" or a folder.
      data: source of the images; None for the recipe's.
      data_path: where they lie; None for the default place.
      batch_size: None for the recipe's.
      learning_rate: None for the recipe's.
      compile: whether the loss is compiled; None: on a GPU.
      pool: crops in the pool of a latent network.
      held_out: crops of the held-out measurement.
      picture_rows: rows of ten samples in the picture.
      report_seconds: how often the network is written and measured.
    """

    name: str
    out: Path
    seconds: float | None = None
    steps: int | None = None
    device: str = "cpu"
    seed: int = 0
    photos: str = "builtin"
    data: str | None = None
    data_path: str | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    compile: bool | None = None
    pool: int = 100_000
    held_out: int = 256
    picture_rows: int = 6
    report_seconds: float = 60.0


def train_one(run: OneRun) -> Path:
    """Train one network; the path of its file. The same call goes on where a killed one stopped.

    Raises:
      UsageError: neither or both of seconds and steps, an unknown name, a device that is not here, images that are not
        here or do not fit, no autoencoder yet.
      WorkError: a NaN loss, a full disk, a damaged checkpoint.
    """
    if run.seconds is None and run.steps is None:
        run = replace(run, steps=recipe_named(run.name).steps)
    if (run.seconds is None) == (run.steps is None):
        raise UsageError("give either a time budget (seconds) or a number of steps, not both or neither.")
    return _Training(run).train()


class _Training:
    def __init__(self, run: OneRun) -> None:
        self.started = time.monotonic()
        self.run, self.recipe = run, recipe_named(run.name)
        self.device = usable_device(run.device)
        self.source = source_for(self.recipe, run.data, run.data_path, run.photos)
        self.file = run.out / f"{run.name}.safetensors"
        self.on_gpu = self.device.type == "cuda"
        self.measured: dict[str, Any] = {}
        self.measured_at, self.measuring_took = -math.inf, 0.0
        _set_up(self.on_gpu, deterministic=run.steps is not None)

    def train(self) -> Path:
        settings = self._settings()
        ready = Preparation(
            self.recipe, self.source, self.run.seed, settings.batch_size, self.device, pool=self.run.pool
        )
        module = ready.network()
        trainee = ready.trainee(self._autoencoder, self.say)
        count = sum(p.numel() for p in module.parameters())
        self.say(f"{count:,} parameters on {self.device}, batch {settings.batch_size}")
        loop = Loop(trainee, module, settings, self.run.out / "checkpoints" / f"{self.run.name}.pt", self.say)
        loop.run(self._report, self.run.report_seconds)
        self.say("done")
        return self.file

    def say(self, text: str) -> None:
        """One line of the log."""
        print(f"{time.strftime('%H:%M:%S')} {self.run.name:17s} {text}", flush=True)

    def _settings(self) -> LoopSettings:
        recipe, run = self.recipe, self.run
        seconds = None
        if run.seconds is not None:  # what starting up takes comes off the budget
            seconds = max(run.seconds - (time.monotonic() - self.started), 1.0)
        return LoopSettings(
            seed=run.seed,
            batch_size=run.batch_size or (recipe.batch_size if self.on_gpu else recipe.cpu_batch_size),
            learning_rate=run.learning_rate or recipe.learning_rate,
            steps=run.steps,
            seconds=seconds,
            data=self.source.fingerprint,
            **of_recipe(recipe),
            compile=self.on_gpu if run.compile is None else run.compile,
        )

    def _autoencoder(self) -> Path:
        path = self.run.out / f"{self.recipe.autoencoder}.safetensors"
        if not path.is_file():
            raise UsageError(
                f"{self.run.name} works on the latents of {self.recipe.autoencoder}, and {path} is not there. Train "
                f"{self.recipe.autoencoder} first, with the same --out."
            )
        return path

    def _report(self, loop: Loop) -> None:
        """Write the network as it is, measure what was written where that is due, and say so."""
        facts = self._facts(loop.progress, loop.settings)
        average = loop.average
        if self.recipe.family == "autoencoder":
            average = self._standardised(average)
        save_network(self.file, average, self.recipe, facts)
        began, last = time.monotonic(), loop.share_used() >= 1.0
        if last or began - self.measured_at > self.measuring_took / MEASURING_SHARE:
            self.measured = self._measured(self._draws_pictures(loop)) | {"measured_step": loop.progress.step}
            self.measured_at = time.monotonic()
            self.measuring_took = self.measured_at - began
        facts |= self.measured
        text = json.dumps(facts, indent=1)
        write_text_whole(self.file.with_suffix(".json"), text)
        self.say(_line(facts, loop))

    def _facts(self, progress: Progress, settings: LoopSettings) -> dict[str, Any]:
        thinned = max(len(progress.curve) // 200, 1)
        return {
            "data": self.source.name,
            **self.source.facts(),
            "seed": self.run.seed,
            "steps": progress.step,
            "batch_size": settings.batch_size,
            "images": progress.step * settings.batch_size,
            "learning_rate": settings.learning_rate,
            "budget": {"steps": settings.steps, "seconds": settings.seconds},
            "seconds": round(progress.seconds, 1),
            "device": torch.cuda.get_device_name(self.device) if self.on_gpu else "CPU",
            "torch": torch.__version__,
            "compiled": progress.compiled,
            "loss_curve": [[step, round(loss, 5)] for step, loss in progress.curve[::thinned]],
        }

    def _standardised(self, average: Any) -> Any:
        module = copy.deepcopy(average)
        part = self.source.part("training", device=self.device)
        crops = part.counted(range(STANDARDISED_ON), self.recipe.image_size, seed=0, stream="scale")
        standardise(module, crops.images)
        return module

    def _measured(self, draw: bool) -> dict[str, Any]:
        """What the written file amounts to when the family's loader has read it."""
        if self.recipe.family == "autoencoder":
            return self._reconstruction(draw)
        if self.recipe.family == "classifier":
            module = load_module(self.file)[0]
            return measured(module, self.source, self.run.held_out, seed=HELD_OUT_SEED)
        autoencoder = self._autoencoder() if self.recipe.autoencoder else None
        place = str(unpack(self.file, self.run.out / f"trained-{self.run.name}", autoencoder=autoencoder))
        model: Any = load_model(place, device=str(self.device))
        card = load_card(place)
        given = examples(model, card, self.source, self.run.held_out, region="held-out", seed=HELD_OUT_SEED)
        errors = epsilon_errors(model, card, given, seed=HELD_OUT_SEED)
        if draw:
            made = samples(model, card, self.source, self.run.picture_rows * COLUMNS, seed=PICTURE_SEED)
            kept = real(card, self.source, 2 * COLUMNS, seed=PICTURE_SEED)
            save_grid(self.file.with_suffix(".png"), [made, kept])
        return {"held_out_levels": list(LEVELS), "held_out_errors": [round(error, 5) for error in errors]}

    def _reconstruction(self, draw: bool) -> dict[str, Any]:
        module, recipe, _ = load_module(self.file)
        codec = KLCodec(module.to(self.device), float(module.config.scaling_factor))
        crops = self.source.part("held-out").counted(
            range(self.run.held_out), recipe.image_size, seed=HELD_OUT_SEED, stream="held-out"
        )
        latents = codec.encode(crops.images)
        output = codec.decode(latents).cpu()
        if draw:
            save_grid(self.file.with_suffix(".png"), [crops.images[:40], output[:40]])
        return {
            "held_out_mean_absolute_error": round(float((output - crops.images).abs().mean()), 5),
            "held_out_rms_error": round(float((output - crops.images).square().mean().sqrt()), 5),
            "latent_std": [round(float(s), 4) for s in latents.std((0, 2, 3))],
        }

    def _draws_pictures(self, loop: Loop) -> bool:
        """Whether this report draws pictures: always where they are cheap, else at the end."""
        return self.on_gpu or loop.share_used() >= 1.0


def _line(facts: dict[str, Any], loop: Loop) -> str:
    progress, used = loop.progress, loop.share_used()
    loss = f"{progress.curve[-1][1]:.4f}" if progress.curve else "-"
    speed = facts["images"] / max(progress.seconds, 1e-9)
    left = progress.seconds * (1.0 - used) / max(used, 1e-9)
    return (
        f"step {progress.step:,}  loss {loss}  {_held_out_text(facts)}  {speed:,.0f} images/s  "
        f"{left / 60:.1f} min left"
    )


def _held_out_text(facts: dict[str, Any]) -> str:
    if "held_out_accuracy" in facts:
        return f"held-out accuracy {facts['held_out_accuracy']:.3f}"
    errors = " ".join(f"{e:.3f}" for e in facts.get("held_out_errors", [])[:3])
    return f"held-out error {errors or str(facts.get('held_out_mean_absolute_error')) + ' mean absolute'}"


def _set_up(on_gpu: bool, *, deterministic: bool) -> None:
    """Where the same steps must give the same bits, algorithms that do; else the fastest."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    elif on_gpu:
        torch.backends.cudnn.benchmark = True
