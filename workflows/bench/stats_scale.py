"""Peak memory of every statistic at the paper's scale: n = 10,240 at 3x64x64, streamed from a made-up source.

Every statistic runs in a process of its own, on two threads, with its intervals; the samples are made block by block
and never all there. The peak is all resident memory of the process, the interpreter and libraries included.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workflows.bench.correlation_memory import resident
from workflows.bench.paired import Measurement, TableRow, seconds_text
from workflows.launch import program
from workflows.text import bytes_text

if TYPE_CHECKING:
    from taba_core.stats import Statistic

NUM_STEPS = 10
_POOL = 1 << 20


def measure(
    *,
    repeats: int = 1,
    num_samples: int = 10240,
    sample_shape: tuple[int, int, int] = (3, 64, 64),
    num_features: int = 2048,
    names: Sequence[str] | None = None,
) -> Measurement:
    """Peak and seconds of every statistic, once (`repeats` is of no use to a peak).

    Figures: <name>_peak_bytes, <name>_state_bytes, largest_bytes.
    """
    rows: list[TableRow] = []
    figures: dict[str, float] = {}
    for name in names or STATISTICS:
        asked = json.dumps({"name": name, "n": num_samples, "shape": sample_shape, "features": num_features})
        done = subprocess.run(program(__name__, asked), capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        figures |= {f"{name}_peak_bytes": found["peak"], f"{name}_state_bytes": found["state"]}
        rows.append(
            TableRow(
                name,
                f"{num_samples}",
                found["reads"],
                bytes_text(found["peak"]),
                figure=f"state {bytes_text(found['state'])}, {seconds_text(found['seconds'])}",
                target="< 2 GiB",
            )
        )
    figures["largest_bytes"] = max(figures[f"{row.what}_peak_bytes"] for row in rows)
    note = f"largest peak {bytes_text(int(figures['largest_bytes']))}; paths of T={NUM_STEPS}"
    return Measurement(tuple(rows), figures, (note,))


STATISTICS = (
    "correlation",
    "lag",
    "moments",
    "entry-kl",
    "region-error",
    "step-error",
    "path-distance",
    "triangle",
    "channel-pca",
    "reconstruction",
    "ssim",
    "png",
    "local-variance",
    "spectrum",
    "frechet",
    "alignment",
    "inception-score",
    "cosine",
    "quantiles",
    "top-examples",
)


def statistic(name: str, num_features: int) -> Statistic:
    """One of `STATISTICS`, as studies use it."""
    from taba_core import stats

    make = {
        "correlation": lambda: stats.PatchCorrelation("latent"),
        "lag": lambda: stats.LagCorrelation("latent"),
        "moments": lambda: stats.Moments("latent"),
        "entry-kl": stats.EntryKL,
        "region-error": stats.RegionError,
        "step-error": stats.StepError,
        "path-distance": stats.PathDistance,
        "triangle": stats.Triangle,
        "channel-pca": lambda: stats.ChannelPCA("latent"),
        "reconstruction": stats.ReconstructionError,
        "ssim": stats.StructuralSimilarity,
        "png": stats.PngBits,
        "local-variance": lambda: stats.LocalVariance("latent"),
        "spectrum": lambda: stats.PowerSpectrum("latent"),
        "frechet": stats.FrechetDistance,
        "alignment": lambda: stats.FeatureAlignment("features_small", "features_other"),
        "inception-score": stats.InceptionScore,
        "cosine": stats.CosineSimilarity,
        "quantiles": lambda: stats.Quantiles("score"),
        "top-examples": lambda: stats.TopExamples(stats.ReconstructionError(), "mae"),
    }
    return make[name]()


@dataclass(frozen=True)
class Source:
    """Made-up samples: windows of one pool of normal numbers, another window for every sample and variable."""

    shape: tuple[int, ...]
    num_features: int

    def __call__(self, start: int, stop: int, variables: tuple[str, ...]) -> dict[str, Any]:
        """Blocks as `taba_core.stats.reduce` reads them."""
        import numpy as np

        block: dict[str, Any] = {"sample": np.arange(start, stop)}
        for place, name in enumerate(variables, start=1):
            block[name] = self._values(name, start, stop, 7919 * place)
        return block

    def _values(self, name: str, start: int, stop: int, stride: int) -> Any:
        import numpy as np

        shapes: dict[str, tuple[int, ...]] = {
            **dict.fromkeys(("x_t", "eps_t", "eps_hat"), (NUM_STEPS, *self.shape)),
            **dict.fromkeys(("features", "features_real"), (self.num_features,)),
            **dict.fromkeys(("features_small", "features_other"), (max(self.num_features // 8, 2),)),
            "probability": (1000,),
            "region": self.shape[1:],
            "score": (),
        }
        shape = shapes.get(name, self.shape)
        size, pool = int(np.prod(shape)), _pool()
        windows = [pool[(i * stride) % _POOL :][:size] for i in range(start, stop)]
        values = np.stack(windows).reshape(stop - start, *shape)
        if name == "region":
            return (values > 0.3).astype(np.uint8)
        if name == "probability":
            return np.exp(values) / np.exp(values).sum(axis=1, keepdims=True)
        return values


_made: list[Any] = []


def _pool() -> Any:
    if not _made:
        from taba_core import rng

        rows = rng.normal(range(3), (_POOL // 2,), seed=0, stream="pool").reshape(-1)
        _made.append(rows)
    return _made[0]


def run_one(name: str, n: int, shape: Sequence[int], features: int) -> dict[str, Any]:
    """Reduce n samples to one statistic with its intervals, in this process."""
    from taba_core.stats import estimates, reduce

    chosen = statistic(name, features)
    source = Source(tuple(shape), features)
    _pool()
    begun = time.perf_counter()
    found = reduce(source, n, {name: chosen}, workers=2)[name]
    estimates(found)
    return {
        "peak": resident("VmHWM"),
        "state": sum(values.nbytes for values in found.total.values()),
        "seconds": time.perf_counter() - begun,
        "reads": ", ".join(chosen.variables),
    }


if __name__ == "__main__":
    print(json.dumps(run_one(**json.loads(sys.argv[1]))))
