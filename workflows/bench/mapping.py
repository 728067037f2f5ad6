"""Smallest-distance mapping by a screened matrix product, against its definition on the same arrays."""

from __future__ import annotations

from typing import Any

from workflows.bench.paired import Comparison, Measurement, run_pairs, timed


def measure(
    *, repeats: int = 5, num_samples: int = 1024, sample_shape: tuple[int, ...] = (3, 32, 32)
) -> Measurement:
    """Time both ways to the nearest candidate of every query, on white queries and candidates near their own.

    Figures: ratio (definition in float64, as ours), ratio_float32 (definition in the stored precision, as the
    reference's), different_ids, different_ids_float32, hits (share).
    """
    import numpy as np

    from taba_core import rng
    from taba_core.blas import use_one_blas_thread
    from taba_core.stats.nearest import nearest, nearest_direct

    ids = range(num_samples)
    queries = rng.normal(ids, sample_shape, seed=0, stream="noise").reshape(num_samples, -1)
    own = rng.normal(ids, sample_shape, seed=0, stream="image").reshape(num_samples, -1)
    # Candidates of different norms that hold a little of their own query: some queries miss.
    candidates = ((0.05 * queries + own) * np.linspace(0.9, 1.0, num_samples)[:, None]).astype(np.float32)

    def by_product() -> Any:
        return nearest(queries, candidates)

    def by_definition() -> Any:
        return nearest_direct(queries, candidates)

    def in_float32() -> Any:
        return np.array([np.square(query - candidates).mean(axis=1).argmin() for query in queries])

    use_one_blas_thread()
    exact = run_pairs(timed(by_product), timed(by_definition), repeats=repeats)
    single = run_pairs(timed(by_product), timed(in_float32), repeats=repeats)
    found = by_product()
    size = f"m={num_samples}, d={queries.shape[1]}"
    rows = [
        row
        for side, pairs in (("definition, float64", exact), ("definition, float32", single))
        for row in Comparison("nearest in l2", size, ("screened product", side), target=">= 20").rows(pairs)
    ]
    different, single_different = (
        int((found.id != other).sum()) for other in (by_definition().id, in_float32())
    )
    return Measurement(
        tuple(rows),
        {
            "ratio": exact.ratio,
            "ratio_float32": single.ratio,
            "different_ids": different,
            "different_ids_float32": single_different,
            "hits": float(np.mean(found.id == np.arange(num_samples))),
        },
        (
            f"indices that differ: {different} from the definition in float64, {single_different} in float32; one BLAS "
            "thread; a second direction and the cosine take the same product",
        ),
    )
