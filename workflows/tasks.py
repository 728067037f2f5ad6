"""What one unit of work does: read a shard's sources, run the denoiser, write the shard, return a receipt.

The only file where tensors become stored arrays. It runs inside a worker process (a Ray actor, a thread, or the
driver itself), keeps models warm between units, and knows nothing of who runs it.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

# Here, once, before any thread: two threads that meet in zarr's first import leave it broken ("no attribute 'core'").
import zarr.codecs
import zarr.storage  # noqa: F401
from numpy.typing import NDArray

from cluster.executor import Finish, StopRun
from taba_core import rng
from taba_core.blas import use_one_blas_thread
from taba_core.diffusion.interpolation import self_interpolation
from taba_core.diffusion.inversion import (
    InversionReport,
    Method,
    inversion_method_named,
    invert_with_report,
    reconstruct,
    step_predictions,
)
from taba_core.diffusion.sampling import StepRecord, generate
from taba_core.errors import UsageError, WorkError
from taba_core.models.base import card_of
from taba_core.models.grids import timestep_grid
from taba_core.schema import RESIDUAL_NOT_DEFINED
from taba_core.spec import (
    Artifact,
    Generation,
    Inversion,
    ModelSpec,
    PathDistances,
    PerceptualDistance,
    PlainRegions,
    Reconstruction,
    SelfInterpolation,
    StepErrors,
    StepPredictions,
    from_attrs,
)
from taba_core.stats.step_error import StepError
from taba_core.stats.trajectory import PathDistance
from taba_core.store import Store
from workflows import picture_tasks
from workflows.conditioning import condition, draw, stored_variables
from workflows.decoding import decoded_rgb, round_trip
from workflows.own_module import check_own_module
from workflows.shared_models import WarmModels
from workflows.timing import TimedDenoiser, processor

Arrays = dict[str, NDArray[Any]]
# Going on is pointless when the disk is full or read-only: every other unit would fail the same way.
_FATAL = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG}


@dataclass(frozen=True)
class ShardTask:
    """The payload of a unit: small, picklable, complete."""

    store: str
    attrs: Mapping[str, Any]
    shard: int
    variables: tuple[str, ...]


class ShardWorker:
    """Runs shard tasks; one per worker process or thread. Models stay loaded between tasks."""

    def __init__(self, device: str = "cpu", threads: int = 1) -> None:
        # One thread per worker on CPU: the bits of a product must not depend on the machine's core count.
        torch.set_num_threads(threads)
        self.device = device
        self.notes: dict[str, Any] = {}  # what a task says beside its arrays; it goes into the receipt
        self._models = WarmModels(device)

    def run(self, task: ShardTask) -> Finish:
        """Compute one shard, and leave its writing to the caller: the next one may compute meanwhile.

        Returns:
          What writes the shard and returns its receipt (files, bytes, checksums, seconds), JSON-able.
        Raises:
          StopRun: the disk refuses (full, read-only, quota), here or when writing: the run must end, nothing is
          lost.
        """
        started = time.perf_counter()
        self.notes = {}
        with _stopping():
            store = Store.open(task.store)
            artifact = from_attrs(dict(task.attrs))
            arrays = self.compute(store, artifact, task.shard, task.variables)
            group = store.open_artifact(artifact)
        seconds = round(time.perf_counter() - started, 4)
        info = {"compute_seconds": seconds, "device": self.device, **self.notes}

        def write() -> dict[str, Any]:
            with _stopping():
                return group.write_shard(task.shard, arrays, info).to_json()

        return Finish(write)

    def compute(self, store: Store, artifact: Artifact, shard: int, variables: tuple[str, ...]) -> Arrays:
        """The asked variables of one shard, from its sources in the store."""
        for kind, function in _COMPUTE.items():
            if isinstance(artifact, kind):
                # Not inference_mode: some methods differentiate through the network, and no tensor made in that
                # mode (weights, prepared noise levels) may take part.
                with torch.no_grad():
                    arrays = function(self, store, artifact, shard, variables)
                return {name: arrays[name] for name in variables}
        raise TypeError(f"no task computes artifacts of kind {artifact.kind!r}")

    def model(self, spec: ModelSpec) -> Any:
        """The denoiser of a model spec, loaded once. Raises HopelessUnit where it cannot be loaded."""
        return self._models.get(spec)

    def finish(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def tensor(self, array: NDArray[Any]) -> torch.Tensor:
        """A tensor on the worker's device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


@contextlib.contextmanager
def _stopping() -> Iterator[None]:
    """Errors that every other unit would meet too end the run; the rest is tried again."""
    try:
        yield
    except UsageError as error:
        raise StopRun(str(error)) from None  # asked for what cannot be: trying again would not help
    except WorkError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _FATAL:
            raise StopRun(str(error)) from None
        raise


def _ids(artifact: Artifact, shard: int) -> NDArray[np.int64]:
    root = artifact.root()
    start = shard * root.samples_per_shard
    return np.arange(start, min(start + root.samples_per_shard, root.num_samples), dtype=np.int64)


def _grid(spec: ModelSpec, num_inference_steps: int) -> Any:
    return timestep_grid(card_of(spec), num_inference_steps)


def _read_root(
    worker: ShardWorker, store: Store, root: Generation, shard: int, variables: tuple[str, ...] = ()
) -> tuple[Arrays, dict[str, torch.Tensor]]:
    """Variables of a generation's shard, and what its samples were conditioned on."""
    read = store.open_artifact(root).read_shard(shard, (*variables, *stored_variables(root)))
    return read, condition(worker.model(root.model), read, worker.device)


def _generation(
    worker: ShardWorker, store: Store, artifact: Generation, shard: int, variables: tuple[str, ...]
) -> Arrays:
    model, ids = worker.model(artifact.model), _ids(artifact, shard)
    drawn = draw(artifact, ids, len(getattr(model, "class_names", ())))
    noise, image, path = _sample(worker, artifact, shard, condition(model, drawn, worker.device), variables)
    if "decoded" in variables:
        path["decoded"] = decoded_rgb(model, image)
    return {"noise": noise, "image": image.cpu().numpy(), **drawn, **path}


def _sample(
    worker: ShardWorker,
    root: Generation,
    shard: int,
    cond: dict[str, torch.Tensor],
    variables: tuple[str, ...],
) -> tuple[NDArray[np.float32], torch.Tensor, Arrays]:
    """Noise, images, and those of x_t and eps_t that are in `variables`; one batch a shard, whoever asks."""
    model, ids = worker.model(root.model), _ids(root, shard)
    noise = rng.normal(ids, model.sample_shape, seed=root.seed, stream="noise")
    on_step, path = _recorder((len(ids), root.num_inference_steps, *model.sample_shape), variables)
    image = generate(
        model,
        worker.tensor(noise),
        _grid(root.model, root.num_inference_steps),
        cond,
        x0_rule=root.x0_rule,
        on_step=on_step,
    )
    return noise, image, path


def _recorder(
    shape: tuple[int, ...], variables: tuple[str, ...]
) -> tuple[Callable[[StepRecord], None] | None, Arrays]:
    """Row l of x_t and eps_t is what sampling step l read and predicted (l = 1..T)."""
    path = {name: np.empty(shape, dtype=np.float32) for name in ("x_t", "eps_t") if name in variables}
    if not path:
        return None, path

    def record(step: StepRecord) -> None:
        for name, value in (("x_t", step.x_from), ("eps_t", step.eps_t)):
            if name in path:
                path[name][:, step.step - 1] = value.cpu().numpy()

    return record, path


def _inversion(
    worker: ShardWorker, store: Store, artifact: Inversion, shard: int, variables: tuple[str, ...]
) -> Arrays:
    root, ids = artifact.source, _ids(artifact, shard)
    source, cond = _read_root(worker, store, root, shard, ("image",))
    model, method = worker.model(root.model), _method(artifact)
    noise = None
    if artifact.forward_steps or artifact.draws_noise:
        noise = rng.normal(ids, model.sample_shape, seed=artifact.forward_seed, stream="forward")
    image = round_trip(model, worker.tensor(source["image"]), artifact.round_trip, ids, root.seed)
    clock = TimedDenoiser(model, worker.finish)
    report = invert_with_report(
        clock,
        image,
        _grid(root.model, artifact.num_inference_steps),
        method,
        cond,
        network_time=artifact.network_time,
        levels=artifact.levels,
        x0_rule=artifact.x0_rule,
        forward_steps=artifact.forward_steps,
        forward_level=artifact.forward_level,
        forward_noise=None if noise is None else worker.tensor(noise),
        sample_ids=ids.tolist(),
        measure_residual="residual" in variables,
    )
    worker.notes = {
        "inversion_seconds": round(clock.seconds(int(report.evaluations.sum())), 6),
        "processor": processor(worker.device),
    }
    carried = {name: value.float().cpu().numpy() for name, value in report.carried.items()}
    return {"latent": report.latent.float().cpu().numpy(), **carried, **_said(report)}


def _said(report: InversionReport) -> Arrays:
    """What a report says of every image and step."""
    residual = report.residual
    if residual is None:
        residual = torch.full(report.fallback.shape, torch.nan)
    return {
        "evaluations": report.evaluations.double().cpu().numpy(),
        "residual": residual.nan_to_num(RESIDUAL_NOT_DEFINED).float().cpu().numpy(),
        "fallback": report.fallback.to(torch.uint8).cpu().numpy(),
    }


def _method(artifact: Inversion) -> Method:
    check_own_module(artifact.method, artifact.method_location, artifact.method_fingerprint)
    return inversion_method_named(artifact.method, **artifact.method_options)


def _reconstruction(
    worker: ShardWorker, store: Store, artifact: Reconstruction, shard: int, variables: tuple[str, ...]
) -> Arrays:
    root, inversion = artifact.root(), artifact.source
    read = store.open_artifact(inversion).read_shard(shard, ("latent", *inversion.carried))
    _, cond = _read_root(worker, store, root, shard)
    image = reconstruct(
        worker.model(root.model),
        worker.tensor(read.pop("latent")),
        _grid(root.model, inversion.num_inference_steps),
        _method(inversion),
        cond,
        carried={name: worker.tensor(value) for name, value in read.items()},
        x0_rule=root.x0_rule,
        sample_ids=_ids(artifact, shard).tolist(),
    )
    return {"reconstruction": image.cpu().numpy()}


def _step_predictions(
    worker: ShardWorker, store: Store, artifact: StepPredictions, shard: int, variables: tuple[str, ...]
) -> Arrays:
    root = artifact.source
    source, cond = _read_root(worker, store, root, shard, ("image", "x_t"))
    return {"eps_hat": _predict(worker, artifact, source["image"], source["x_t"], cond)}


def _predict(
    worker: ShardWorker,
    artifact: StepPredictions | StepErrors,
    image: NDArray[Any],
    x_t: NDArray[Any],
    cond: dict[str, torch.Tensor],
) -> NDArray[np.float32]:
    """eps_hat (n, T, C, H, W) from every state of the paths."""
    root = artifact.root()
    model, grid = worker.model(root.model), _grid(root.model, root.num_inference_steps)
    eps_hat = np.empty_like(x_t)
    for step in range(1, root.num_inference_steps + 1):
        # x_{l-1}: the image for l = 1, else what sampling step l-1 read.
        state = image if step == 1 else x_t[:, step - 2]
        eps = step_predictions(
            model,
            worker.tensor(state[:, None]),
            grid,
            (step,),
            cond,
            network_time=artifact.network_time,
            levels=artifact.levels,
            x0_rule=artifact.x0_rule,
        )
        eps_hat[:, step - 1] = eps[:, 0].cpu().numpy()
    return eps_hat


def _step_errors(
    worker: ShardWorker, store: Store, artifact: StepErrors, shard: int, variables: tuple[str, ...]
) -> Arrays:
    root = artifact.root()
    source, cond = _read_root(worker, store, root, shard, ("image",))
    region = store.open_artifact(artifact.source).read_shard(shard, ("region",))["region"]
    _, _, path = _sample(worker, root, shard, cond, ("x_t", "eps_t"))
    eps_hat = _predict(worker, artifact, source["image"], path["x_t"], cond)
    use_one_blas_thread()  # as in a reduction
    return StepError().rows({"eps_t": path["eps_t"], "eps_hat": eps_hat, "region": region})


def _path_distances(
    worker: ShardWorker, store: Store, artifact: PathDistances, shard: int, variables: tuple[str, ...]
) -> Arrays:
    root = artifact.root()
    source, cond = _read_root(worker, store, root, shard, ("noise", "image"))
    latent = store.open_artifact(artifact.source).read_shard(shard, ("latent",))["latent"]
    _, _, path = _sample(worker, root, shard, cond, ("x_t",))
    return PathDistance().rows({**source, "latent": latent, **path})


def _self_interpolation(
    worker: ShardWorker, store: Store, artifact: SelfInterpolation, shard: int, variables: tuple[str, ...]
) -> Arrays:
    root = artifact.root()
    source, cond = _read_root(worker, store, root, shard, ("noise", "image"))
    latent = store.open_artifact(artifact.source).read_shard(shard, ("latent",))["latent"]
    distance = self_interpolation(
        worker.model(root.model),
        *(worker.tensor(array) for array in (source["noise"], latent, source["image"])),
        _grid(root.model, root.num_inference_steps),
        np.linspace(0, 1, artifact.num_weights).tolist(),
        cond,
        x0_rule=root.x0_rule,
    )
    return {"distance": distance.cpu().numpy()}


_COMPUTE: dict[type[Artifact], Callable[..., Arrays]] = {
    Generation: _generation,
    Inversion: _inversion,
    Reconstruction: _reconstruction,
    StepPredictions: _step_predictions,
    StepErrors: _step_errors,
    PathDistances: _path_distances,
    SelfInterpolation: _self_interpolation,
    PlainRegions: picture_tasks.regions,
    PerceptualDistance: picture_tasks.perceptual_distances,
}
