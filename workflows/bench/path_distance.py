"""Distances of Figure 3 by inner products, against their definition on the same arrays.

`PathDistance` reads every state once and keeps three inner products; the definition forms every interpolant.
"""

from __future__ import annotations

from typing import Any

from workflows.bench.paired import Comparison, Measurement, run_pairs, timed


def measure(
    *,
    repeats: int = 5,
    num_samples: int = 64,
    num_steps: int = 50,
    sample_shape: tuple[int, ...] = (3, 32, 32),
) -> Measurement:
    """Time both ways to the same map D(t, w), on white noise.

    Figures: max_difference (absolute), largest (value of the map), ratio.
    """
    import numpy as np

    from taba_core import rng
    from taba_core.blas import use_one_blas_thread
    from taba_core.stats.trajectory import PathDistance, path_distance_direct

    ids = range(num_samples)
    block: dict[str, Any] = {
        "sample": np.asarray(ids),
        "noise": rng.normal(ids, sample_shape, seed=0, stream="noise"),
        "latent": rng.normal(ids, sample_shape, seed=0, stream="latent"),
        "x_t": rng.normal(ids, (num_steps, *sample_shape), seed=0, stream="x_t"),
    }
    statistic = PathDistance(image=None)
    weights = np.asarray(statistic.weights)

    def by_inner_products() -> Any:
        return statistic.summarise(statistic.update(statistic.init(), block))["distance"]

    def by_definition() -> Any:
        return path_distance_direct(block["noise"], block["latent"], block["x_t"], weights)

    use_one_blas_thread()
    pairs = run_pairs(timed(by_inner_products), timed(by_definition), repeats=repeats)
    fast, direct = by_inner_products(), by_definition()
    difference, largest = float(np.abs(fast - direct).max()), float(direct.max())
    comparison = Comparison(
        what="D(t, w), Figure 3",
        n=f"{num_samples} paths, T={num_steps}, d={int(np.prod(sample_shape))}, {len(weights)} weights",
        sides=("inner products", "definition"),
        target=">= 8",
    )
    return Measurement(
        comparison.rows(pairs),
        {"max_difference": difference, "largest": largest, "ratio": pairs.ratio},
        (f"largest difference of the two maps: {difference:.1e} at values up to {largest:.1f}",),
    )
