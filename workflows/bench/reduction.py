"""One reduction of a large store: by the driver's threads, and by workers of 1, 2 and 4 Ray nodes on this machine.

Each node is a raylet with one core. The driver hands out runs of blocks, merges the states that come back, and reads no
array. Every side runs in a process of its own; the clock starts when its workers are built. The statistics are patch
correlations with their jackknife groups, correlations of neighbours, and moments, of images of 3x64x64.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from taba_core.errors import WorkError
from workflows.bench.paired import Measurement, TableRow, seconds_text
from workflows.launch import inline_program
from workflows.text import bytes_text, count_text

if TYPE_CHECKING:
    from taba_core.artifacts.generation import Generation
    from taba_core.stats.base import Statistic
    from taba_core.stats.tasks import Mapper

SHAPE = (3, 64, 64)
SAMPLES_PER_SHARD = 512
NODES = (1, 2, 4)


def measure(
    *, repeats: int = 1, size: float = 8.0, nodes: tuple[int, ...] = NODES, directory: str = "."
) -> Measurement:
    """Build a store of `size` gigabytes in a directory and reduce it on every side.

    Figures, by side ("driver", "<k> nodes"): "<side>/seconds", "<side>/growth" (bytes by which the peak of the driver's
    memory rises); and equal, 1 if all sides gave the same bits, else 0.

    Raises:
      WorkError: a side's process failed.
    """
    with tempfile.TemporaryDirectory(prefix="taba-bench-", dir=directory) as scratch:
        place = Path(scratch) / "store"
        num_samples = build(place, size * 1e9)
        sides = [0, *nodes]
        runs = {side: [_in_a_process(place, num_samples, side) for _ in range(repeats)] for side in sides}
    digests = {run["digest"] for of in runs.values() for run in of}
    figures = {"equal": float(len(digests) == 1)}
    rows = []
    seconds = {side: median(run["seconds"] for run in of) for side, of in runs.items()}
    for side, of in runs.items():
        name = f"{side} node{'s' if side > 1 else ''}" if side else "driver"
        growth = median(run["growth"] for run in of)
        figures |= {f"{name}/seconds": seconds[side], f"{name}/growth": growth}
        rows.append(
            TableRow(
                "" if side else "reduction",
                f"n={count_text(num_samples)}, {bytes_text(size * 1e9)}" if not side else "",
                name if side else f"driver, {os.cpu_count()} threads",
                seconds_text(seconds[side]),
                figure=f"{bytes_text(size * 1e9 / seconds[side])}/s, driver grows by {bytes_text(growth)}",
                ratio=f"{seconds[nodes[0]] / seconds[side]:.3g} x one node",
            )
        )
    same = "all sides gave the same bits" if figures["equal"] else "THE SIDES DIFFER IN THEIR BITS"
    return Measurement(tuple(rows), figures, (same,))


def build(place: Path, num_bytes: float) -> int:
    """A store of one variable of about that many bytes, of normal numbers; returns the number of samples."""
    import numpy as np

    from taba_core.artifacts.layout import Extent
    from taba_core.store import Store

    samples = max(1, round(num_bytes / (4 * np.prod(SHAPE))))
    store = Store.open(place, mode="a")
    group = store.ensure(_artifact(), ["image"], Extent(samples, SAMPLES_PER_SHARD), SHAPE)
    for shard in range(group.num_shards):
        start, stop = group.shard_range(shard)
        block = np.random.default_rng(shard).standard_normal((stop - start, *SHAPE), dtype=np.float32)
        group.record(group.write_shard(shard, {"image": block}))
    return samples


def _artifact() -> Generation:
    from taba_core.artifacts.generation import Generation
    from taba_core.model_spec import ModelSpec

    return Generation(model=ModelSpec(name="bench"), batch_size=64, num_inference_steps=2, seed=0)


def _statistics() -> dict[str, Statistic]:
    from taba_core.stats import LagCorrelation, Moments, PatchCorrelation

    return {
        "patches": PatchCorrelation("image"),
        "neighbours": LagCorrelation("image"),
        "moments": Moments("image"),
    }


def reduce_on(place: str, num_samples: int, nodes: int) -> dict[str, Any]:
    """Reduce a store on so many nodes, or in this process for 0: seconds, growth of the peak, digest of the states."""
    from taba_core.stats import reduce
    from workflows.analysis.inputs import JoinedReader

    read = JoinedReader(place, {"image": (_artifact().attrs(), "image")}, SHAPE)
    with _mapper_of(nodes) as mapper:
        reduce(read, min(64, num_samples), _statistics(), scheduler="sync")  # what the first use loads
        if mapper is not None:
            # The workers are built, and have read what a reduction needs.
            list(mapper.map(_warm_up, [(read, min(16, num_samples))] * (4 * nodes)))
        before, begun = _peak(), time.perf_counter()
        reduced = reduce(read, num_samples, _statistics(), scheduler=mapper or "threads")
        seconds, growth = time.perf_counter() - begun, _peak() - before
    digest = hashlib.blake2b(digest_size=8)
    for of in reduced.values():
        for state in (of.total, *of.groups):
            for name in sorted(state):
                digest.update(state[name].tobytes())
    return {"seconds": seconds, "growth": growth, "digest": digest.hexdigest()}


def _warm_up(read: Callable[..., Any], samples: int) -> None:
    from taba_core.stats import reduce

    reduce(read, samples, _statistics(), scheduler="sync")


@contextmanager
def _mapper_of(nodes: int) -> Iterator[Mapper | None]:
    """Workers on a cluster of that many nodes of one core, beside a head without any; None for 0."""
    if not nodes:
        yield None
        return
    from ray.cluster_utils import Cluster

    from cluster.pool.executor import Resources
    from cluster.ray.executor import RayExecutor
    from workflows.execution.shared_executor import SharedExecutor
    from workflows.launch import PACKAGES

    memory = {"object_store_memory": 100_000_000}
    machines = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **memory}
    )
    executor = SharedExecutor(lambda: RayExecutor(machines.address, packages=PACKAGES), Resources())
    try:
        for _ in range(nodes):
            machines.add_node(num_cpus=1, **memory)
        yield executor.mapper()
    finally:
        executor.close()
        machines.shutdown()


def _peak() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def _in_a_process(place: Path, num_samples: int, nodes: int) -> dict[str, Any]:
    code = (
        "import json; from workflows.bench.reduction import reduce_on; "
        f"print(json.dumps(reduce_on({str(place.resolve())!r}, {num_samples}, {nodes})))"
    )
    # A token would have to be given to every node; the cluster is this process's, and gone with it.
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(inline_program(code), capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise WorkError(f"the reduction on {nodes} nodes failed: {done.stderr.strip()[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))
