"""Peak memory of the correlation statistic at small and large n.

Every measurement is a fresh process that makes its samples block by block (no store), so that the peak is the
statistic's own: the highest resident memory less the resident memory before the first block.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from workflows.bench.paired import Comparison, Measurement, Pairs, TableRow
from workflows.launch import program
from workflows.text import bytes_text

WAYS = {
    "state": "one running state",
    "groups": "with its jackknife groups",
}
SAMPLES_PER_BLOCK = 64


def measure(
    *,
    repeats: int = 3,
    sizes: tuple[int, int] = (512, 8192),
    sample_shape: tuple[int, int, int] = (3, 32, 32),
    patch_size: int = 8,
) -> Measurement:
    """Peak memory at both sizes: of one state updated block by block, and as studies reduce it.

    Figures: <way>_bytes_small, <way>_bytes_large (peaks), state_small, state_large (final states).
    """
    rows: list[TableRow] = []
    figures: dict[str, float] = {}
    for way, title in WAYS.items():
        found = [[_in_fresh_process(way, n, sample_shape, patch_size) for n in sizes] for _ in range(repeats)]
        pairs = Pairs(*(tuple(run[i]["peak"] for run in found) for i in (0, 1)))
        state = [found[0][i]["state"] for i in (0, 1)]
        comparison = Comparison(
            what=f"patch correlation, {title}",
            n=f"{'x'.join(map(str, sample_shape))}, patches of {patch_size}",
            sides=(f"n={sizes[0]}", f"n={sizes[1]}"),
            figures=(f"state {bytes_text(state[0])}", f"state {bytes_text(state[1])}"),
            target="flat",
            unit=bytes_text,
        )
        rows += comparison.rows(pairs)
        figures |= {f"{way}_bytes_small": pairs.medians[0], f"{way}_bytes_large": pairs.medians[1]}
        figures |= {"state_small": state[0], "state_large": state[1]}
    return Measurement(
        tuple(rows),
        figures,
        ("studies reduce with up to 20 jackknife groups; below 512 samples a group keeps rows, no state",),
    )


def _in_fresh_process(way: str, n: int, sample_shape: tuple[int, ...], patch_size: int) -> dict[str, int]:
    asked = json.dumps({"way": way, "n": n, "sample_shape": sample_shape, "patch_size": patch_size})
    done = subprocess.run(program(__name__, asked), capture_output=True, text=True, check=True)
    measured: dict[str, int] = json.loads(done.stdout)
    return measured


def stream(way: str, n: int, sample_shape: tuple[int, ...], patch_size: int) -> dict[str, int]:
    """Reduce n generated samples in this process; bytes of the peak above the start, and of the state."""
    from taba_core.blas import use_one_blas_thread
    from taba_core.stats.correlation import PatchCorrelation
    from taba_core.stats.reduce import reduce_blocks
    from taba_core.stats.tree import CANONICAL_BLOCK

    statistic = PatchCorrelation("noise", patch_size)
    use_one_blas_thread()
    # Loads what the first use loads (libraries, buffers of products), on a few samples.
    statistic.summarise(statistic.partial(next(_blocks(CANONICAL_BLOCK, sample_shape))))
    before = resident("VmRSS")
    if way == "groups":
        state = reduce_blocks(_blocks(n, sample_shape), n, {"r": statistic})["r"].total
    else:
        state = statistic.init()
        for block in _blocks(n, sample_shape):
            state = statistic.update(state, block)
    statistic.summarise(state)
    return {
        "peak": max(resident("VmHWM") - before, 1),
        "state": sum(values.nbytes for values in state.values()),
    }


def resident(entry: str) -> int:
    """Bytes of resident memory of this process: "VmRSS" now, "VmHWM" at its highest.

    Not from getrusage on Linux: its peak starts with that of the process that started this one.
    """
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith(entry))
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _blocks(n: int, sample_shape: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    import numpy as np

    from taba_core import rng

    for start in range(0, n, SAMPLES_PER_BLOCK):
        ids = np.arange(start, min(start + SAMPLES_PER_BLOCK, n))
        yield {"sample": ids, "noise": rng.normal(ids, sample_shape, seed=0, stream="noise")}


if __name__ == "__main__":
    print(json.dumps(stream(**json.loads(sys.argv[1]))))
