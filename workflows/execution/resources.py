"""What one worker holds: a core, and a device or a part of one where there are devices and the model uses them."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from taba_core.errors import UsageError, WorkError
from taba_core.models.base import card_with_options

if TYPE_CHECKING:
    from cluster.pool.executor import Resources


DEVICES = ("cpu", "cuda")


def worker_resources(
    executor: str,
    address: str | None,
    *,
    embedded: bool,
    gpus_per_worker: float | None = None,
    device: str | None = None,
) -> Resources:
    """Resources of a worker, from what the machine or the cluster at the address has.

    Args:
      executor: ray, local or inline.
      address: of a Ray cluster, as `--address`; the driver of one may itself have no device.
      embedded: whether the model is exact on a CPU and must give the same bits everywhere; it never moves.
      gpus_per_worker: devices of one worker, 0.5 for two workers on each; None = one.
      device: what networks are evaluated on, cpu or cuda; None = GPUs where there are any.

    Raises:
      UsageError: an address that is none, an impossible share, or devices that are asked for where there are none.
      WorkError: there is no cluster at the address.
    """
    from cluster.pool.executor import Resources

    check_device(device)
    if gpus_per_worker is not None:
        _check_share(gpus_per_worker, executor, embedded, device)
    where = _cluster_named(address) if executor == "ray" else "local"
    if embedded or device == "cpu":
        return Resources(num_cpus=1)
    has_gpu = _has_gpu() if where == "local" else _cluster_has_gpu(where)
    place = "this machine has" if where == "local" else f"the Ray cluster at {where} has"
    if gpus_per_worker is not None and not has_gpu:
        raise UsageError(f"--gpus-per-worker {gpus_per_worker:g}: {place} no GPU; leave the option out.")
    if device == "cuda" and not has_gpu:
        raise UsageError(f"--device cuda: {place} no GPU; use --device cpu, or leave the option out.")
    return Resources(num_cpus=1, num_gpus=(gpus_per_worker or 1) if has_gpu else 0)


def check_device(device: str | None) -> None:
    """Refuse (UsageError) the name of a device that is none."""
    if device not in (None, *DEVICES):
        raise UsageError(f"--device {device}: use cpu or cuda; without the option, GPUs where there are any.")


def planned_device(model: str, device: str | None, *, allocated: bool) -> str:
    """What a plan evaluates a model's network on: as asked, else what the planned run would use.

    Args:
      model: a card's name, or a path.
      device: as asked; None = not at all.
      allocated: whether the plan is for nodes to be asked for: GPUs, for a model that is not made for CPUs.
    Raises:
      UsageError: an unknown model, or a device that is none.
    """
    check_device(device)
    card = card_with_options(model, None)
    if card.embedded:
        return "cpu"
    if device is not None:
        return device
    return "cuda" if _has_gpu() or (allocated and not card.runs_anywhere) else "cpu"


def _cluster_named(address: str | None) -> str:
    """The address that is meant, "local" for none."""
    from cluster.ray.address import BadAddress, ray_address

    try:
        return ray_address(address).text
    except BadAddress as error:
        raise UsageError(f"{error}") from None


def _check_share(share: float, executor: str, embedded: bool, device: str | None) -> None:
    name = f"--gpus-per-worker {share:g}"
    if device == "cpu":
        raise UsageError(f"{name}: --device cpu asks for none; leave one of the two out.")
    if embedded:
        raise UsageError(f"{name}: this model computes on CPUs only; leave the option out.")
    if executor != "ray":
        raise UsageError(
            f"{name}: --executor {executor} has no workers that hold devices; use --executor ray."
        )
    if share <= 0 or (share > 1 and share != int(share)):
        raise UsageError(f"{name}: give a part of a device, such as 0.5, or a whole number of them.")


def _cluster_has_gpu(address: str) -> bool:
    from cluster.pool.executor import ClusterError
    from cluster.ray.executor import offered

    try:
        return any(node.offered.get("GPU", 0) > 0 for node in offered(address))
    except ClusterError as error:
        raise WorkError(str(error)) from None


def _has_gpu() -> bool:
    # The driver answers without importing torch: a run that computes nothing should not pay for it.
    return shutil.which("nvidia-smi") is not None and os.environ.get("CUDA_VISIBLE_DEVICES", "all") not in (
        "",
        "-1",
    )
