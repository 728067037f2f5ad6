"""Top correlations of patches while streaming, against one torch.corrcoef per patch on the whole array.

Both on one thread, on the same array in memory, in CPU seconds: what else the machine does counts on neither
side. torch.corrcoef needs all samples at once and makes a copy of them per patch; the statistic sees blocks of 512
samples, checks that they are finite, and keeps up to 20 groups for its jackknife. The last comparison is of the mean
with its interval at n = 2048, which is 16 more reductions; torch.corrcoef gives none.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from workflows.bench.paired import Comparison, Measurement, Side, TableRow, run_pairs, torch_threads

SAMPLES_PER_READ = 512
TOP_K = 20


def measure(
    *,
    repeats: int = 5,
    num_samples: int = 8192,
    num_with_interval: int = 2048,
    sample_shape: tuple[int, int, int] = (3, 32, 32),
    patch_size: int = 8,
) -> Measurement:
    """Time both ways to the mean of the top 20 |r|, on white noise, torch in float32 and in float64.

    Figures, by type: <type>_ratio, <type>_difference (absolute, of the two means); and interval_ratio.
    """
    from taba_core import rng
    from taba_core.blas import use_one_blas_thread
    from taba_core.stats import PatchCorrelation, estimates, from_arrays, reduce
    from taba_core.stats.tree import Reduced

    x = rng.normal(range(num_samples), sample_shape, seed=0, stream="noise")
    statistic = PatchCorrelation("x", patch_size, TOP_K)

    def reduced(n: int) -> Reduced:
        read, of = from_arrays({"x": x[:n]}), {"r": statistic}
        return reduce(read, n, of, scheduler="sync", workers=1, samples_per_read=SAMPLES_PER_READ)["r"]

    def streaming() -> float:
        return float(reduced(num_samples).summary()["mean_top"])

    def with_interval() -> float:
        return float(estimates(reduced(num_with_interval))["mean_top"].value)

    rows: list[TableRow] = []
    figures: dict[str, float] = {}
    use_one_blas_thread()
    for kind in ("float32", "float64"):

        def at_once(kind: str = kind) -> float:
            return top_of_corrcoef(x, patch_size, kind)

        with torch_threads(1):
            pairs = run_pairs(cpu_timed(streaming), cpu_timed(at_once), repeats=repeats)
            figures[f"{kind}_difference"] = abs(streaming() - at_once())
        figures[f"{kind}_ratio"] = pairs.ratio
        comparison = Comparison(
            what=f"top-{TOP_K} patch correlation",
            n=f"n={num_samples}, {'x'.join(map(str, sample_shape))}, patches of {patch_size}",
            sides=("streaming", f"torch.corrcoef, {kind}"),
            target=">= 1",
        )
        rows += comparison.rows(pairs)
    with torch_threads(1):
        few = x[:num_with_interval]
        pairs = run_pairs(
            cpu_timed(with_interval),
            cpu_timed(lambda: top_of_corrcoef(few, patch_size, "float32")),
            repeats=repeats,
        )
    figures["interval_ratio"] = pairs.ratio
    comparison = Comparison(
        what="the same with its interval",
        n=f"n={num_with_interval}",
        sides=("streaming", "torch.corrcoef, float32, which has no interval"),
        target="",
    )
    rows += comparison.rows(pairs)
    worst = max(figures[f"{kind}_difference"] for kind in ("float32", "float64"))
    return Measurement(tuple(rows), figures, (f"largest difference of the two means: {worst:.1e}",))


def cpu_timed(function: Callable[[], object]) -> Side:
    """The side that runs `function` and measures the CPU seconds of this process."""

    def side() -> float:
        begun = time.process_time()
        function()
        return time.process_time() - begun

    return side


def top_of_corrcoef(x: Any, patch_size: int, kind: str) -> float:
    """Mean of the largest |r| of every patch as one would write it, (n, C, H, W) in memory."""
    import torch

    n, channels, height, width = x.shape
    size, features = patch_size, channels * patch_size**2
    states = torch.from_numpy(x).to(getattr(torch, kind))
    cut = states.reshape(n, channels, height // size, size, width // size, size)
    patches = cut.permute(0, 2, 4, 1, 3, 5).reshape(n, -1, features)
    upper = torch.triu_indices(features, features, 1)
    top = [
        torch.corrcoef(patches[:, patch].T)[upper[0], upper[1]].abs().topk(TOP_K).values
        for patch in range(patches.shape[1])
    ]
    return float(torch.stack(top).mean())
