"""Predictions of every inversion step from cached states, against one restarted inversion a step.

The reference obtains the prediction of step l from an inversion whose first l-1 predictions are replaced by
those of the generation (paper, App. J), and evaluates the network in replaced steps too: T^2 evaluations an
image. The state that step l then stands on is the sampling path's own, which is stored: one evaluation of it
is enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from workflows.bench.mixture import SEED
from workflows.bench.paired import Comparison, Measurement, run_pairs, timed, torch_threads
from workflows.text import count_text

if TYPE_CHECKING:
    from torch import Tensor

    from taba_core.diffusion import CountedDenoiser, OraclePrediction, StepRecord, TimestepGrid


def measure(
    *,
    repeats: int = 5,
    num_samples: int = 16,
    num_inference_steps: int = 20,
    model_name: str = "photo-mixture",
    threads: int = 1,
) -> Measurement:
    """Time and count both ways to eps_hat of all T steps.

    Figures: nfe_cached, nfe_restarted, nfe_ratio, nfe_ratio_skipping (replaced steps not evaluated),
    max_difference of the predictions.
    """
    import torch

    from taba_core import rng
    from taba_core.diffusion import CountedDenoiser, generate
    from taba_core.models.base import load_model
    from taba_core.models.catalog import load_card
    from taba_core.models.grids import timestep_grid

    counted = CountedDenoiser(load_model(model_name))
    grid = timestep_grid(load_card(model_name), num_inference_steps)
    noise = torch.from_numpy(rng.normal(range(num_samples), counted.sample_shape, seed=SEED, stream="noise"))
    path: dict[int, StepRecord] = {}
    with torch_threads(threads), torch.inference_mode():
        image = generate(counted, noise, grid, on_step=lambda record: path.__setitem__(record.step, record))
        cached, restarted, skipping = _ways(counted, image, grid, path)
        found = [_counted(counted, way) for way in (cached, restarted, skipping)]
        pairs = run_pairs(timed(cached), timed(restarted), repeats=repeats)
    difference = float((found[0][0] - found[1][0]).abs().max())
    nfe = [count / num_samples for _, count in found]
    comparison = Comparison(
        what=f"eps_hat of all steps, {model_name}",
        n=f"{num_samples} images, T={num_inference_steps}",
        sides=("cached states", "restarted inversions"),
        figures=(f"{count_text(nfe[0])} NFE an image", f"{count_text(nfe[1])} NFE an image"),
        target=f"NFE ratio T = {num_inference_steps}",
    )
    return Measurement(
        comparison.rows(pairs),
        {
            "nfe_cached": nfe[0],
            "nfe_restarted": nfe[1],
            "nfe_ratio": nfe[1] / nfe[0],
            "nfe_ratio_skipping": nfe[2] / nfe[0],
            "max_difference": difference,
        },
        (
            f"NFE ratio {nfe[1] / nfe[0]:g}; {nfe[2] / nfe[0]:g} if replaced steps are not evaluated",
            f"largest difference of the predictions: {difference:.1e} (float32 states; eps is of order 1)",
        ),
    )


def _ways(
    model: CountedDenoiser, image: Tensor, grid: TimestepGrid, path: dict[int, StepRecord]
) -> tuple[Callable[[], Tensor], Callable[[], Tensor], Callable[[], Tensor]]:
    """eps_hat (B, T, C, H, W) from cached states; by restarts; by restarts that skip replaced evaluations."""
    import torch

    from taba_core.diffusion import DDIMInversion, OraclePrediction, invert, step_predictions

    steps = range(1, grid.num_inference_steps + 1)
    states = torch.stack([path[step].x_to for step in steps], dim=1)
    reference = {step: path[step].eps_t for step in steps}

    def restarted(method: Callable[[OraclePrediction], Any]) -> Tensor:
        predictions = []
        for step in steps:
            records: list[StepRecord] = []
            oracle = method(OraclePrediction(DDIMInversion(), step - 1))
            invert(model, image, grid, oracle, reference=reference, on_step=records.append)
            predictions.append(records[step - 1].eps_t)
        return torch.stack(predictions, dim=1)

    return (
        lambda: step_predictions(model, states, grid, steps),
        lambda: restarted(lambda oracle: replace(oracle, evaluate_swapped=True)),
        lambda: restarted(lambda oracle: oracle),
    )


def _counted(model: CountedDenoiser, way: Callable[[], Tensor]) -> tuple[Tensor, int]:
    before = model.num_evaluations
    return way(), model.num_evaluations - before
