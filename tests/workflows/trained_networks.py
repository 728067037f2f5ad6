"""Small ADMs trained inside the test process, every checkpoint exported as a model of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from taba_core.models.base import load_model, model_spec
from taba_core.models.catalog import load_card
from taba_core.training import loop as loops
from taba_core.training.data import open_source
from taba_core.training.draws import StepDraws
from taba_core.training.export import save_network, unpack
from taba_core.training.heldout import epsilon_errors, examples
from taba_core.training.loop import Loop, LoopSettings
from taba_core.training.networks import build_network
from taba_core.training.recipe import Recipe
from taba_core.training.trainee import DenoiserTrainee, ImageStream
from workflows.configuration.trained import Checkpoint, TrainedRun

BATCH = 16


def recipe(size: int = 8, channels: int = 32) -> Recipe:
    """The structure and process of photo-adm at another size."""
    network = {
        "image_size": size, "num_channels": channels, "num_res_blocks": 1, "channel_mult": [1, 1],
        "attention_resolutions": [], "num_heads": 4, "use_scale_shift_norm": True, "learn_sigma": True,
        "class_cond": False,
    }  # fmt: skip
    return Recipe(
        name="micro-adm", family="adm", image_size=size, network=network,
        schedule={"kind": "cosine", "N": 4000, "max_beta": 0.999}, timestep_scale=0.25, objective="hybrid",
        low_share=0.25, low_power=2.0, batch_size=BATCH, cpu_batch_size=BATCH, learning_rate=1e-3, minutes_share=1.0,
    )  # fmt: skip


def train(folder: Path, of: Recipe, steps: Sequence[int], *, seed: int = 0, held_out: int = 16) -> TrainedRun:
    """Train to the last of `steps`, which are multiples of their smallest one above 0, and keep the network at each."""
    draws = StepDraws(seed, BATCH, torch.device("cpu"))
    stream = ImageStream(open_source("photographs").part("training"), draws, of.image_size)
    trainee = DenoiserTrainee(of, draws, stream)
    settings = LoopSettings(
        seed=seed,
        batch_size=BATCH,
        learning_rate=of.learning_rate,
        steps=steps[-1],
        warmup_steps=min(200, steps[-1] // 5),
    )
    folder.mkdir(parents=True, exist_ok=True)
    loop = Loop(trainee, build_network(of, seed), settings, folder / "state.pt", lambda text: None)
    kept: list[Checkpoint] = []
    every = loops.STEPS_BETWEEN_CHECKS
    loops.STEPS_BETWEEN_CHECKS = next(step for step in steps if step)

    def keep(loop: Loop) -> None:
        step = loop.progress.step
        if step in steps and step not in [one.step for one in kept]:
            kept.append(_checkpoint(folder, loop, held_out, step / steps[-1]))

    try:
        keep(loop)
        loop.run(keep, -1.0)
    finally:
        loops.STEPS_BETWEEN_CHECKS = every
    curve = loop.progress.curve
    return TrainedRun(
        seed, tuple(kept), tuple(step for step, _ in curve), tuple(float(loss) for _, loss in curve)
    )


def _checkpoint(folder: Path, loop: Loop, held_out: int, share: float) -> Checkpoint:
    step, source = loop.progress.step, open_source("photographs")
    file = folder / f"{step}.safetensors"
    save_network(file, loop.average, loop.trainee.recipe, source.facts())
    place = str(unpack(file, folder / f"seed{loop.settings.seed}-step{step}"))
    card, model = load_card(place), load_model(place)
    given = examples(model, card, source, held_out, region="held-out", seed=7)
    errors = tuple(epsilon_errors(model, card, given, seed=7, levels=(0, 1, 2)))
    return Checkpoint(step, step * BATCH, share, model_spec(place), errors)
