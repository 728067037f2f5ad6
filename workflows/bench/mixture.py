"""Evaluations of the photo mixture a second, and against the plain loop over its components.

States are those of a sampling run, at levels spread over it, so that responsibilities are as sharp as in use.
The preparation of a level (once a level and worker) is not in the times; it is printed.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from workflows.bench.paired import (
    Comparison,
    Measurement,
    TableRow,
    run_pairs,
    seconds_text,
    timed,
    torch_threads,
)
from workflows.text import count_text

if TYPE_CHECKING:
    from torch import Tensor

    from taba_core.models.photo_mixture import PhotoMixture

States = Sequence[tuple[float, "Tensor"]]
PASSES = 5  # of the fast side: brings its run nearer to the length of the slow one
SEED = 420


def measure(
    *,
    repeats: int = 5,
    batch_size: int = 64,
    num_inference_steps: int = 50,
    num_levels: int = 10,
    workers: int = 2,
    options: dict[str, Any] | None = None,
) -> Measurement:
    """Time `eps` against `eps_loop`: torch on `workers` threads, then `workers` threads with one each.

    Figures: image_nfe_per_second (of the first), image_nfe_per_second_threads (of the second),
    max_difference of the two ways over all states.
    """
    from taba_core.models.photo_mixture import PhotoMixture

    model = load_mixture(options)
    states = sampling_states(model, batch_size, num_inference_steps, num_levels)
    level_seconds = _prepare_seconds(model, states)
    # One model a thread, as every worker has its own.
    models = [PhotoMixture(model.mixture, options=model.options) for _ in range(workers)]
    rows: list[TableRow] = []
    rates: list[float] = []
    for side, around in (
        (f"torch on {workers} threads", functools.partial(_one_caller, model, states, workers)),
        (f"{workers} workers of 1 thread", functools.partial(_many_callers, models, states)),
    ):
        callers = 1 if around.func is _one_caller else workers
        pairs = run_pairs(timed(around("eps", PASSES)), timed(around("eps_loop", 1)), repeats=repeats)
        work = batch_size * len(states) * callers
        # Per pass, so that both sides are the same work.
        pairs = type(pairs)(tuple(s / PASSES for s in pairs.first), pairs.second)
        rate = [work / median for median in pairs.medians]
        comparison = Comparison(
            what=f"mixture of {len(model.mixture.mean)} components of rank {model.mixture.factors.shape[2]}",
            n=f"{callers} x {batch_size} images x {len(states)} levels",
            sides=(f"all at once, {side}", f"loop over components, {side}"),
            figures=(f"{count_text(rate[0])} image-NFE/s", f"{count_text(rate[1])} image-NFE/s"),
            target=">= 2,000 image-NFE/s all at once (two idle cores)",
        )
        rows += comparison.rows(pairs)
        rates.append(rate[0])
    difference = max_difference(model, states)
    return Measurement(
        tuple(rows),
        {
            "image_nfe_per_second": rates[0],
            "image_nfe_per_second_threads": rates[1],
            "max_difference": difference,
        },
        (
            f"largest difference of the two ways: {difference:.1e} (eps is of order 1)",
            f"preparing a level: {seconds_text(level_seconds)}, once a level and worker, not counted",
        ),
    )


def load_mixture(options: dict[str, Any] | None = None) -> PhotoMixture:
    """The photo mixture with these options, fitted or from the cache."""
    from taba_core.models.base import load_model
    from taba_core.models.photo_mixture import PhotoMixture

    model = load_model("photo-mixture", options=options or {})
    assert isinstance(model, PhotoMixture)
    return model


def sampling_states(
    model: PhotoMixture, batch_size: int, num_inference_steps: int, num_levels: int
) -> States:
    """Timestep and x_t of `num_levels` steps spread over a sampling run of T steps."""
    import numpy as np
    import torch

    from taba_core import rng
    from taba_core.diffusion import generate
    from taba_core.diffusion.sampling import StepRecord
    from taba_core.models.catalog import load_card
    from taba_core.models.grids import timestep_grid

    grid = timestep_grid(load_card("photo-mixture"), num_inference_steps)
    wanted = {int(step) for step in np.linspace(1, num_inference_steps, num_levels).round()}
    states: list[tuple[float, torch.Tensor]] = []

    def record(step: StepRecord) -> None:
        if step.step in wanted:
            states.append((float(grid.network_times[step.step - 1]), step.x_from))

    noise = rng.normal(range(batch_size), model.sample_shape, seed=SEED, stream="noise")
    with torch.inference_mode():
        generate(model, torch.from_numpy(noise), grid, on_step=record)
    return states


def max_difference(model: PhotoMixture, states: States) -> float:
    """Largest |eps - eps_loop| over the states."""
    import torch

    with torch.inference_mode():
        return max(float((model.eps(x, t, {}) - model.eps_loop(x, t, {})).abs().max()) for t, x in states)


def _prepare_seconds(model: PhotoMixture, states: States) -> float:
    """Seconds to prepare one level: first evaluation less the second, mean over fresh levels."""
    from taba_core.models.photo_mixture import PhotoMixture

    fresh = PhotoMixture(model.mixture, options=model.options)
    with torch_threads(1):
        sweep = timed(functools.partial(_evaluate, fresh, "eps", states, 1))
        cold, warm = sweep(), sweep()
    return max(cold - warm, 0.0) / len(states)


def _evaluate(model: PhotoMixture, way: str, states: States, passes: int) -> None:
    import torch

    eps = getattr(model, way)
    with torch.inference_mode():
        for _ in range(passes):
            for t, x in states:
                eps(x, t, {})


def _one_caller(
    model: PhotoMixture, states: States, threads: int, way: str, passes: int
) -> Callable[[], None]:
    def run() -> None:
        with torch_threads(threads):
            _evaluate(model, way, states, passes)

    return run


def _many_callers(
    models: Sequence[PhotoMixture], states: States, way: str, passes: int
) -> Callable[[], None]:
    def work(model: PhotoMixture) -> None:
        with torch_threads(1):
            _evaluate(model, way, states, passes)

    def run() -> None:
        threads = [threading.Thread(target=work, args=(model,)) for model in models]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return run
