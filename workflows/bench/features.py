"""Peak memory of the measures of two sets of features, at two numbers of images: it must not grow with them.

The rows are made by counter and lie in a store, as the features of two sets of images do. Each measure runs in a
process of its own that reads the store as study `sample-quality` does, on two threads. The peak is the highest
resident memory of the process less that before the first block; libraries are loaded before. A block of the
kernel distance has n / 20 rows and at most 1,024, so the peak of that measure grows up to n = 20,480 and not beyond it
(of 64 features it is 46.0 MB there and 47.8 MB at n = 40,960).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflows.bench.correlation_memory import resident
from workflows.bench.paired import Measurement, TableRow, seconds_text
from workflows.launch import program
from workflows.text import bytes_text

if TYPE_CHECKING:
    from workflows.analysis.inputs import Inputs

MEASURES = {
    "frechet": "Fréchet distance",
    "kernel": "kernel distance",
    "neighbours": "precision, recall, density, coverage",
}
SETS = {"real": 0, "samples": 1}  # seeds
_PER_SHARD = 64


def measure(
    *,
    repeats: int = 1,
    sizes: tuple[int, ...] = (5120, 20480),
    num_features: int = 2048,
    directory: str | None = None,
) -> Measurement:
    """Peak and seconds of every measure at every size, once (`repeats` is of no use to a peak).

    Figures, by measure and size: "<measure>/<n>/bytes", "<measure>/<n>/seconds", and the values by their own names.
    """
    rows: list[TableRow] = []
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="taba-bench-", dir=directory) as scratch:
        place = str(Path(scratch) / "store")
        write_features(place, max(sizes), num_features)
        for name, title in MEASURES.items():
            for n in sizes:
                asked = json.dumps({"name": name, "place": place, "n": n, "num_features": num_features})
                done = subprocess.run(program(__name__, asked), capture_output=True, text=True, check=True)
                found = json.loads(done.stdout)
                figures |= {
                    f"{name}/{n}/{key}": value for key, value in (found | found.pop("values")).items()
                }
                both = 2 * 4 * n * num_features
                rows.append(
                    TableRow(
                        title if n == sizes[0] else "",
                        str(n),
                        f"sets of {bytes_text(both)}",
                        bytes_text(found["bytes"]),
                        figure=seconds_text(found["seconds"]),
                        target="flat in n",
                    )
                )
    return Measurement(
        tuple(rows), figures, (f"{num_features} features in float32, {_PER_SHARD} rows a file",)
    )


def write_features(place: str, n: int, num_features: int) -> None:
    """Two sets of normal rows by counter, the second one narrower, as features of two sets of images in a store."""
    from taba_core import rng
    from taba_core.artifacts.layout import Extent
    from taba_core.store import Store

    store = Store.open(place, mode="a")
    for of, seed in SETS.items():
        group = store.ensure(_spec(of, num_features), ["features"], Extent(n, _PER_SHARD), (3, 8, 8))
        for shard in range(group.num_shards):
            start, stop = group.shard_range(shard)
            rows = rng.normal(range(start, stop), (num_features,), seed=seed, stream="bench")
            group.write_shard(shard, {"features": rows * (1 - seed / 100)})


def _spec(of: str, num_features: int) -> Any:
    from taba_core.artifacts.features import Features
    from taba_core.artifacts.generation import Generation
    from taba_core.model_spec import ModelSpec

    images = Generation(
        model=ModelSpec(name="bench"), batch_size=_PER_SHARD, num_inference_steps=1, seed=SETS[of]
    )
    return Features(source=images, extractor="bench", fingerprint="1", num_features=num_features)


def _inputs(place: str, n: int, num_features: int) -> Inputs:
    from taba_core.artifacts.request import Request
    from taba_core.store import Store
    from workflows.analysis.inputs import Inputs

    requests = {of: Request(_spec(of, num_features), ("features",), n) for of in SETS}
    return Inputs(
        Store.open(place, mode="r"), requests, sample_shape=(3, 8, 8), scheduler="threads", workers=2
    )


def run_one(name: str, place: str, n: int, num_features: int) -> dict[str, Any]:
    """One measure of the first n rows of both sets, in this process: bytes, seconds, values."""
    _measured(name, _inputs(place, min(n, 64), num_features))
    before, begun = resident("VmRSS"), time.perf_counter()
    values = _measured(name, _inputs(place, n, num_features))
    return {
        "bytes": max(resident("VmHWM") - before, 1),
        "seconds": time.perf_counter() - begun,
        "values": values,
    }


def _measured(name: str, inputs: Inputs) -> dict[str, float]:
    from taba_core.stats.frechet import FrechetDistance
    from taba_core.stats.kernel_distance import kernel_distance
    from taba_core.stats.manifold import neighbour_measures

    n = inputs.num_samples
    if name == "frechet":
        columns = {"features": ("samples", "features"), "features_real": ("real", "features")}
        return {name: float(inputs.reduce_wide(columns, FrechetDistance())["distance"].value)}
    real, samples = (inputs.rows(of, "features", n) for of in SETS)
    if name == "kernel":
        return {name: float(kernel_distance(real, samples).value)}
    return {one: float(value.value) for one, value in neighbour_measures(real, samples).items()}


if __name__ == "__main__":
    print(json.dumps(run_one(**json.loads(sys.argv[1]))))
