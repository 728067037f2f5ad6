"""Training: a plain loop in eager float32 on all cores, against ranks of one thread each on Ray.

Both train the network of a recipe on the same batches. The plain loop draws a batch, computes the loss and its
gradients, and steps the optimiser; ours clips gradients, averages weights, reads the loss and writes its state as well.
Starting processes is not counted: it is paid once.
"""

from __future__ import annotations

import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from workflows.bench.paired import Comparison, Measurement, run_pairs, torch_threads

STEPS = 60
RECIPE = "photo-tiny"


def measure(*, repeats: int = 5, steps: int = STEPS, recipe: str = RECIPE) -> Measurement:
    """Time both sides with all cores, and with one.

    Figures: "speed" (the plain loop's time over ours, on all cores), "overhead" (ours over the plain loop's, on one),
    and images a second of every side: "all/ours", "all/plain", "one/ours", "one/plain".
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ours, plain = partial(_ours, recipe, steps), partial(_plain, recipe, steps)
    # Seconds an image; the ratio is that of the second side to the first.
    speed = run_pairs(partial(ours, cores), partial(plain, cores), repeats=repeats)
    overhead = run_pairs(partial(plain, 1), partial(ours, 1), repeats=repeats)
    seconds = {
        ("all", "ours"): speed.medians[0],
        ("all", "plain"): speed.medians[1],
        ("one", "plain"): overhead.medians[0],
        ("one", "ours"): overhead.medians[1],
    }
    texts = [f"{1 / value:.1f} images/s" for value in seconds.values()]
    ranks, loop = "ranks on Ray, one thread each", "plain loop"
    n = f"{steps} steps"
    both = (
        *Comparison(f"{recipe}, {cores} cores", n, (ranks, loop), (texts[0], texts[1]), ">= 1.5").rows(speed),
        *Comparison(f"{recipe}, one core", n, (loop, ranks), (texts[2], texts[3]), "<= 1.05").rows(overhead),
    )
    figures = {f"{where}/{side}": 1 / value for (where, side), value in seconds.items()}
    note = "seconds are those of one image; starting the processes, once a run, is not among them"
    return Measurement(both, {"speed": speed.ratio, "overhead": overhead.ratio, **figures}, (note,))


def _plain(recipe: str, steps: int, threads: int) -> float:
    """Seconds an image of the plain loop on so many threads."""
    import torch

    with torch_threads(threads):
        module, trainee, batch_size = _prepared(recipe)
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=0.0)
        began = 0.0
        for step in range(steps + 1):
            if step == 1:  # the first one fills the caches
                began = time.perf_counter()
            optimizer.zero_grad()
            trainee.loss(module, trainee.batch(step)).backward()
            optimizer.step()
        return (time.perf_counter() - began) / (steps * batch_size)


def _prepared(name: str) -> tuple[Any, Any, int]:
    import torch

    from taba_core.training.data import source_for
    from taba_core.training.prepare import Preparation
    from taba_core.training.recipe import recipe_named

    recipe = recipe_named(name)
    ready = Preparation(recipe, source_for(recipe), 0, recipe.cpu_batch_size, torch.device("cpu"))
    return ready.network(), ready.trainee(lambda: Path()), recipe.cpu_batch_size


def _ours(recipe: str, steps: int, ranks: int) -> float:
    """Seconds an image of so many ranks, as `taba run training` starts them."""
    from cluster.pool.executor import Resources
    from taba_core.store import Store
    from taba_core.store.trainings import training_folder
    from workflows.analysis.study import read_settings
    from workflows.configuration.context import Context
    from workflows.configuration.trained import Wanted, training_of
    from workflows.execution.training import TrainingHost, train_missing

    spec = training_of(Context(recipe, "ddim", read_settings([])), 0, Wanted(steps, (steps,)))
    with tempfile.TemporaryDirectory(prefix="taba-bench-") as scratch:
        store = Store.open(Path(scratch) / "store", mode="a")
        train_missing(
            [spec], store, TrainingHost("ray", "local", ranks, Resources(num_cpus=1)), lambda stage: None
        )
        facts = training_folder(store, spec).facts(steps)
    assert facts is not None, "a run that has ended has kept its network"
    return float(facts["seconds"]) / spec.images(steps)
