"""Writing whole shards, against a plain sequential write with fsync of the same bytes.

Our side is everything a worker does with a finished array: the check for values that are not finite, the layout
of the shard, a checksum per chunk and one of the file, write beside, sync, rename, sync of the directory. The
plain side writes the finished bytes from memory with one call and syncs the file. Both use the file system of
the working directory.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from workflows.bench.paired import Comparison, Measurement, TableRow, run_pairs, timed
from workflows.text import bytes_text

# Samples of a shard and the shape of a state at T = 100: those of DiT (105 MB) and ADM-64 (315 MB).
SHARDS = {"105 MB": (64, (4, 32, 32)), "315 MB": (64, (3, 64, 64))}


def measure(
    *,
    repeats: int = 5,
    shards: dict[str, tuple[int, tuple[int, int, int]]] | None = None,
    num_steps: int = 100,
    directory: str = ".",
) -> Measurement:
    """Time both sides on shards of `x_t`.

    Figures, by shard: "<shard>/share" (plain time over ours), "<shard>/bytes_per_second" (ours).
    """
    rows: list[TableRow] = []
    figures: dict[str, float] = {}
    for name, (samples, shape) in (shards or SHARDS).items():
        with tempfile.TemporaryDirectory(prefix="taba-bench-", dir=directory) as scratch:
            size = _measure_one(name, samples, shape, num_steps, Path(scratch), repeats, rows, figures)
        figures[f"{name}/bytes"] = float(size)
    note = "share = plain time over ours; wanted >= 0.8 on a disk whose machine has a core to spare"
    shares = ", ".join(f"{n} {figures[f'{n}/share']:.2f}" for n in (shards or SHARDS))
    return Measurement(tuple(rows), figures, (note, f"share of the plain write's speed: {shares}"))


def _measure_one(
    name: str,
    samples: int,
    shape: tuple[int, int, int],
    num_steps: int,
    scratch: Path,
    repeats: int,
    rows: list[TableRow],
    figures: dict[str, float],
) -> int:
    from taba_core import rng
    from taba_core.artifacts.generation import Generation
    from taba_core.artifacts.layout import Extent
    from taba_core.model_spec import ModelSpec
    from taba_core.store import Store

    spec = Generation(
        model=ModelSpec(name="bench"),
        batch_size=samples,
        num_inference_steps=num_steps,
        seed=0,
    )
    group = Store.open(scratch / "store", mode="a").ensure(spec, ["x_t"], Extent(samples, samples), shape)
    block = rng.normal(range(samples), (num_steps, *shape), seed=0, stream="bench")
    group.write_shard(0, {"x_t": block})
    file = group.array("x_t").file(0)
    data, plain = file.read_bytes(), scratch / "plain"

    def write_plainly() -> None:
        with plain.open("wb", buffering=0) as out:
            rest = memoryview(data)
            while rest:
                rest = rest[out.write(rest) :]
            os.fsync(out.fileno())

    pairs = run_pairs(
        timed(write_plainly), timed(lambda: group.write_shard(0, {"x_t": block})), repeats=repeats
    )
    seconds = pairs.medians[1]
    figures[f"{name}/share"] = 1 / pairs.ratio
    figures[f"{name}/bytes_per_second"] = len(data) / seconds
    rows += Comparison(
        what=f"shard of {bytes_text(len(data))}",
        n=f"{samples} samples, T={num_steps}",
        sides=("plain write and fsync", "our shard write"),
        figures=(f"{bytes_text(len(data) / pairs.medians[0])}/s", f"{bytes_text(len(data) / seconds)}/s"),
        target="<= 1.25",
    ).rows(pairs)
    return len(data)
