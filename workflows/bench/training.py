"""Training: a plain loop in eager float32 against ranks of one thread each on Ray.

Both train the network of a recipe on the same batches. The plain loop draws a batch, computes the loss and its
gradients, and steps the optimiser; ours clips gradients, averages weights, reads the loss and writes its state as well.
Starting processes is not counted: it is paid once.

Ranks on all cores are set beside a loop on one thread, beside one whose operations use all cores, and, as the most that
a trainer of this network can reach here in eager float32, beside independent loops, one on each core.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from workflows.bench.paired import Comparison, Measurement, Pairs, TableRow, run_in_turn, torch_threads

STEPS = 60
RECIPE = "photo-tiny"


def measure(*, repeats: int = 5, steps: int = STEPS, recipe: str = RECIPE) -> Measurement:
    """Time ranks on all cores against plain loops, and one rank against one loop on one core.

    Figures: "speed" (a plain loop's seconds an image on one thread over those of ranks on all cores), "threads" (the
    same of a loop whose operations use all cores), "bound" (the same of independent loops), "overhead" (ours
    over the plain loop's, on one core), and images a second of every side: "all/ours", "one/plain", "all/threads",
    "all/independent", "one/ours".
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    sides = {
        "one/plain": partial(_plain, recipe, steps, 1),
        "all/ours": partial(_ours, recipe, steps, cores),
        "all/threads": partial(_plain, recipe, steps, cores),
        "all/independent": partial(_independent, recipe, steps, cores),
        "one/ours": partial(_ours, recipe, steps, 1),
    }
    measured = run_in_turn(sides, repeats=repeats)
    ours = measured["all/ours"]
    compared = (
        (
            "speed",
            Pairs(ours, measured["one/plain"]),
            f"{cores} ranks on Ray",
            "plain loop, one thread",
            ">= 1.5",
        ),
        (
            "threads",
            Pairs(ours, measured["all/threads"]),
            f"{cores} ranks on Ray",
            f"plain loop, {cores} threads",
            "",
        ),
        (
            "bound",
            Pairs(ours, measured["all/independent"]),
            f"{cores} ranks on Ray",
            f"{cores} loops apart",
            "",
        ),
        (
            "overhead",
            Pairs(measured["one/plain"], measured["one/ours"]),
            "plain loop",
            "one rank on Ray",
            "<= 1.05",
        ),
    )
    rows: list[TableRow] = []
    for name, pairs, first, second, target in compared:
        texts = tuple(f"{1 / value:.1f} images/s" for value in pairs.medians)
        what = f"{recipe}, one core" if name == "overhead" else f"{recipe}, {cores} cores"
        rows += Comparison(what, f"{steps} steps", (first, second), texts, target).rows(pairs)
    figures = {name: pairs.ratio for name, pairs, *_ in compared}
    speeds = {name: 1 / statistics.median(seconds) for name, seconds in measured.items()}
    note = "seconds are those of one image; starting the processes, once a run, is not among them"
    return Measurement(tuple(rows), figures | speeds, (note,))


def _independent(recipe: str, steps: int, loops: int) -> float:
    """Seconds an image of loops in processes of their own, one thread each, that exchange nothing."""
    with ProcessPoolExecutor(loops, mp_context=multiprocessing.get_context("spawn")) as pool:
        each = list(pool.map(_plain, [recipe] * loops, [steps] * loops, [1] * loops))
    return 1 / sum(1 / seconds for seconds in each)


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
