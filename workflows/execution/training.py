"""Networks that studies ask and that are not trained yet: they are trained before the plan is made."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from taba_core.artifacts.training import Training
from taba_core.errors import TabaError, UsageError, WorkError
from taba_core.store import Store
from taba_core.store.trainings import TrainingFolder, training_folder
from workflows.execution.session import stop_if_asked
from workflows.launch import PACKAGES
from workflows.planning.stages import ranks_for
from workflows.text import count_text, duration_text

if TYPE_CHECKING:
    from cluster.pool.executor import Resources
    from workflows.compute.training import TrainTask

_LINE_S = 15.0  # between two lines of the live view
_LOOK_S = 1.0


@dataclass(frozen=True)
class TrainingHost:
    """Where trainings are computed.

    Attributes:
      executor: ray, local or inline; the last two train in this process.
      address: of a Ray cluster, as `--address`.
      workers: processes that share a training; None = as many as there are, up to eight.
      resources: what each of them holds.
    """

    executor: str
    address: str | None
    workers: int | None
    resources: Resources


def train_missing(
    specs: Sequence[Training], store: Store, host: TrainingHost, stage: Callable[[str], None]
) -> int:
    """Train what a store has not whole; the number of runs that were trained or completed.

    Args:
      stage: told what is being done.
    Raises:
      UsageError: a store on object storage, data that are not here, a batch that the workers cannot share.
      WorkError: a NaN loss, a full disk, workers that were lost too often; what is kept stays, and the same command
        goes on.
    """
    folders = [training_folder(store, spec) for spec in dict.fromkeys(specs)]
    for folder in folders:
        folder.check()
    missing = [folder for folder in folders if not folder.complete]
    if not missing:
        return 0
    for folder in missing:
        folder.prepare()
    with _trainer(host) as train:
        for folder in missing:
            stop_if_asked()
            stage(f"training {folder.spec.recipe_name}")
            _train(folder, train)
    return len(missing)


def _train(folder: TrainingFolder, train: Callable[[TrainingFolder], None]) -> None:
    spec = folder.spec
    kept = sum(folder.facts(step) is not None for step in spec.checkpoints)
    print(
        f"{spec.recipe_name}, seed {spec.seed}: training for {spec.steps:,} steps of {spec.batch_size} images, "
        f"{kept} of {len(spec.checkpoints)} networks are kept already.",
        flush=True,
    )
    started = time.monotonic()
    with _shown(folder):
        train(folder)
    folder.finish(_arrays(folder))
    print(
        f"{spec.recipe_name}, seed {spec.seed}: {len(spec.checkpoints)} networks kept after "
        f"{count_text(spec.images(spec.steps))} images: {duration_text(time.monotonic() - started)}.",
        flush=True,
    )


@contextlib.contextmanager
def _trainer(host: TrainingHost) -> Iterator[Callable[[TrainingFolder], None]]:
    """What trains a run: ranks on Ray, or this process."""
    if host.executor != "ray":
        device = "cuda" if host.resources.num_gpus else "cpu"
        yield lambda folder: _task(folder)(0, 1, device)
        return
    from cluster.pool.executor import ClusterError, OtherCode
    from cluster.ray.backend import alive_nodes
    from cluster.ray.code import code_of
    from cluster.ray.ranks import RanksFailed, run_ranks
    from cluster.ray.session import RaySession

    use_gpu = host.resources.num_gpus > 0
    try:
        session = RaySession(host.address, host.workers)
    except ClusterError as error:
        raise WorkError(str(error)) from None
    try:
        kind = "GPU" if use_gpu else "CPU"
        places = int(sum(node.offered.get(kind, 0) for node in alive_nodes()))

        def train(folder: TrainingFolder) -> None:
            count = ranks_for(folder.spec.batch_size, places, host.workers)
            try:
                run_ranks(
                    _task(folder), count=count, use_gpu=use_gpu, code=code_of(PACKAGES), check=session.check
                )
            except RanksFailed as failed:
                raise told(failed, folder) from None
            except OtherCode as other:
                raise UsageError(f"{other}") from None
            except ClusterError as lost:
                raise told(RanksFailed(str(lost)), folder) from None

        yield train
    finally:
        session.close()


def _task(folder: TrainingFolder) -> TrainTask:
    from workflows.compute.training import TrainTask

    return TrainTask(str(folder.root), folder.spec.attrs())


def told(failed: Any, folder: TrainingFolder) -> Exception:
    """The error of a rank as the same error here; anything else as one that names the way out."""
    if isinstance(failed.cause, TabaError):
        return failed.cause
    kept = sum(folder.facts(step) is not None for step in folder.spec.checkpoints)
    return WorkError(
        f"{folder.spec.name}: {str(failed).rstrip('.')}. {kept} networks are kept; run the same command again: it goes "
        "on from the last state."
    )


@contextlib.contextmanager
def _shown(folder: TrainingFolder) -> Iterator[None]:
    """Lines that say how far a training is, while the block runs."""
    over = threading.Event()
    teller = threading.Thread(target=_tell, args=(folder, over), daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()


def _tell(folder: TrainingFolder, over: threading.Event) -> None:
    said, last = time.monotonic(), None
    while not over.wait(_LOOK_S):
        if time.monotonic() - said < _LINE_S:
            continue
        said, progress = time.monotonic(), folder.read_progress()
        if progress is not None and progress["step"] != last:
            last = progress["step"]
            print(f"  {line_of(progress, _errors(folder))}", flush=True)


def _errors(folder: TrainingFolder) -> list[float]:
    """Held-out errors at the first levels of the last network that is kept."""
    known = [facts for step in folder.spec.checkpoints if (facts := folder.facts(step)) is not None]
    return known[-1]["held_out_errors"][:3] if known else []


def line_of(progress: dict[str, Any], errors: Sequence[float]) -> str:
    """One line of the live view: step, loss, held-out errors at the first levels, speed, time left."""
    loss = "-" if progress["loss"] is None else f"{progress['loss']:.4f}"
    held_out = " ".join(f"{error:.3f}" for error in errors) or "-"
    return (
        f"step {progress['step']:,} of {progress['steps']:,}, loss {loss}, held-out error {held_out}, "
        f"{progress['images_per_second']:,.0f} images/s, {duration_text(progress['seconds_left'])} left"
    )


def _arrays(folder: TrainingFolder) -> Any:
    """What a complete run is told by: the loss, and held-out errors of its networks."""
    import xarray as xr

    spec, progress = folder.spec, folder.read_progress()
    assert progress is not None, "the last thing a training does is to say how far it is"
    facts = [folder.facts(step) or {} for step in spec.checkpoints]
    levels = facts[0]["held_out_levels"]
    return xr.Dataset(
        {
            "loss": (
                "loss_step",
                [loss for _, loss in progress["curve"]],
                {"long_name": "mean training loss"},
            ),
            "held_out_error": (
                ("checkpoint", "level"),
                [fact["held_out_errors"] for fact in facts],
                {"long_name": "mean squared error of the predicted noise on held-out images", "units": "1"},
            ),
        },
        {
            "loss_step": [step for step, _ in progress["curve"]],
            "checkpoint": list(spec.checkpoints),
            "level": levels,
        },
    )
