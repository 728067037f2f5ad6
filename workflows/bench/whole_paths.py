"""Units that keep whole sampling paths and reduce them, against a bare loop over the network: what the engine adds.

A unit samples a batch, predicts again from every state, reduces both to rows and writes states, predictions and rows;
its shard is written while the next unit computes, as in a run. The bare loop calls the network as often and keeps
nothing. A network whose weights are not here gets random ones: its time does not depend on them.
"""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from workflows.bench.evaluations import device_facts, wait
from workflows.bench.paired import Measurement, TableRow, seconds_text
from workflows.text import bytes_text

if TYPE_CHECKING:
    from cluster.pool.units import Units
    from taba_core.model_spec import ModelSpec
    from workflows.compute.worker import ShardWorker
    from workflows.configuration.context import Context


def measure(
    *,
    repeats: int = 3,
    models: list[str] | None = None,
    profiles: list[str] | None = None,
    batch_size: int | None = None,
    num_steps: int = 50,
    directory: str = ".",
) -> Measurement:
    """Time units and bare loops of the same number of evaluations, on the GPU if there is one.

    Args:
      repeats: units that are timed, after one that is not; and bare loops.
      models: default adm-64.
      profiles: default the device's own.
      batch_size: samples of a unit; default the card's.
      directory: where the store is built, and removed.

    Figures, by model and profile: "<model>/<profile>/ratio" (unit over bare loop), "/unit_seconds", "/bytes".
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows: list[TableRow] = []
    figures: dict[str, float] = {}
    for model in models or ["adm-64"]:
        for profile in profiles or [""]:
            with tempfile.TemporaryDirectory(prefix="taba-bench-", dir=directory) as scratch:
                context = _context(model, profile, batch_size, num_steps, repeats + 1, device)
                _measure_one(context, Path(scratch) / "store", device, rows, figures)
    facts = device_facts(device)
    return Measurement(tuple(rows), figures, (f"{facts['card']}, torch {facts['torch']}",))


def _context(
    model: str, profile: str, batch_size: int | None, num_steps: int, units: int, device: str
) -> Context:
    from taba_core.models.catalog import load_card
    from workflows.analysis.study import read_settings
    from workflows.configuration.context import Context
    from workflows.configuration.numerics import settings_on

    card = load_card(model)
    batch = batch_size or card.cost.batch_size
    words = [
        f"num_samples={units * batch}",
        f"samples_per_shard={batch}",
        f"batch_size={batch}",
        f"num_inference_steps={num_steps}",
        "trajectories=all",
        *([f"model.profile={profile}"] if profile else []),
    ]
    return Context(model, "ddim", settings_on(device, card, read_settings(words)))


def _measure_one(
    context: Context, place: Path, device: str, rows: list[TableRow], figures: dict[str, float]
) -> None:
    from taba_core.store import Store
    from workflows.analysis.study import find_studies
    from workflows.configuration.numerics import profile_of
    from workflows.execution.engine import prepare
    from workflows.planning.plan import make_plan
    from workflows.planning.stages import weights_seconds
    from workflows.planning.units import JointUnits

    store = Store.open(place, mode="a")
    plan = make_plan(context, find_studies(["step-error"]), store, device)
    prepare(plan, store)
    units = JointUnits([plan], store.url, {}, weights_seconds)
    batch = context.settings.samples_per_shard or 1
    calls = plan.evaluations_missing // len(units) // batch
    worker = _worker(context, device)
    seconds = _units(worker, units, device)
    loops = [_bare_loop(worker.model(context.model_spec), batch, calls, device) for _ in seconds]
    unit, loop = median(seconds), median(loops)
    name, byte_count = f"{context.name}/{profile_of(context)[0]}", plan.bytes_total / len(units)
    figures |= {f"{name}/ratio": unit / loop, f"{name}/unit_seconds": unit, f"{name}/bytes": byte_count}
    what = f"{batch} samples, T={context.settings.num_inference_steps}, {calls} evaluations"
    rows += [
        TableRow(name, what, "bare loop", seconds_text(loop), _spread(loops)),
        TableRow(
            "",
            "",
            "unit",
            seconds_text(unit),
            _spread(seconds),
            figure=f"{bytes_text(byte_count)} a unit",
            ratio=f"{unit / loop:.3f}",
            target="<= 1.05",
        ),
    ]


def _spread(seconds: list[float]) -> str:
    return f"{seconds_text(min(seconds))} to {seconds_text(max(seconds))}"


def _worker(context: Context, device: str) -> ShardWorker:
    """A worker of a run; one whose network has random weights where its own are not here."""
    from taba_core.models.architectures import random_network
    from taba_core.models.profile import profile_named
    from taba_core.models.weights import locate
    from workflows.compute.worker import ShardWorker
    from workflows.configuration.numerics import profile_of

    if context.card.embedded or locate(context.card) is not None:
        return ShardWorker(device)
    profile, compiled = profile_of(context)
    network = random_network(context.name, device=device, profile=profile_named(profile, compile=compiled))

    class WithRandomWeights(ShardWorker):
        def model(self, spec: ModelSpec) -> Any:
            return network

    return WithRandomWeights(device)


def _units(worker: ShardWorker, units: Units, device: str) -> list[float]:
    """Seconds from the end of one unit's computing to the next one's, each written beside the one after it."""
    ends: list[float] = []
    with ThreadPoolExecutor(1) as writer:
        written: Future[Any] | None = None
        for index in range(len(units)):
            finish = worker.run(units[index].payload)
            if written is not None:  # one unit at most is written while another computes
                written.result()
            wait(device)
            ends.append(time.perf_counter())
            written = writer.submit(finish.call)
        if written is not None:
            written.result()
    # What the last unit's writing takes, no other computes beside.
    return [after - before for before, after in pairwise(ends)]


def _bare_loop(model: Any, batch: int, calls: int, device: str) -> float:
    """Seconds of so many calls of the network alone: no step, no look at what it returns."""
    import torch

    from taba_core.models.network import Network

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, *model.sample_shape, generator=generator).to(device)
    t = 500.0

    def call() -> None:
        model.eps(x, t, {})

    if isinstance(model, Network):
        entering, times = x.to(model.dtype), torch.full((batch,), t, device=device)

        def call() -> None:
            with model.profile.precision_of(model.device, model.precision):
                model.output(entering, times, {})

    with torch.no_grad():
        call()
        wait(device)
        begun = time.perf_counter()
        for _ in range(calls):
            call()
        wait(device)
        return time.perf_counter() - begun
