"""GPUs, their driver, and whether this torch can use them."""

from __future__ import annotations

import functools
import json
import sys
from collections import Counter
from typing import Any

from workflows.doctor.finding import Finding, Ran, Subject, check, fail, ok, skipped, warn
from workflows.doctor.nvidia import QUERY, Driver, Gpu, parse_driver, parse_gpus, runs_on, torch_index

SECTION = "GPU"
_OURS_GIB = 2.0  # more in use than this, and a model may not fit beside it
# Counts the devices and computes something on each of them.
_TORCH = """
import json, torch
said = {"version": torch.__version__, "cuda": torch.version.cuda, "count": 0, "error": ""}
try:
    said["count"] = torch.cuda.device_count()
    for i in range(said["count"]):
        assert torch.ones(64, 64, device=f"cuda:{i}").sum().item() == 4096
except Exception as problem:
    said["error"] = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
print(json.dumps(said))
"""


@functools.cache
def smi(subject: Subject) -> Ran:
    """The page of `nvidia-smi`."""
    return subject.run(["nvidia-smi"], 60.0)


@functools.cache
def gpus(subject: Subject) -> list[Gpu]:
    """Devices the driver lists."""
    return parse_gpus(subject.run(QUERY, 60.0).output) if smi(subject).code == 0 else []


@functools.cache
def torch_says(subject: Subject) -> dict[str, Any] | str:
    """Version, CUDA build and devices of torch, asked in another process; a text if it broke."""
    ran = subject.run([sys.executable, "-P", "-c", _TORCH], 120.0)
    try:
        return dict(json.loads(ran.output.strip().splitlines()[-1]))
    except (ValueError, IndexError):
        return (ran.errors.strip().splitlines() or [f"status {ran.code}"])[-1]


@check(SECTION, "devices")
def devices(subject: Subject) -> Finding:
    """What the driver lists, and who else uses it."""
    if smi(subject).code == 127:
        if (subject.proc / "driver" / "nvidia" / "version").exists():
            return warn(
                "an NVIDIA driver is loaded, but nvidia-smi is not on the PATH",
                "load the site's CUDA or NVIDIA module (slurm/site.sh), or bind the driver into the container",
            )
        return ok("none (CPU run)")
    if smi(subject).code or not gpus(subject):
        said = (smi(subject).output + smi(subject).errors).strip().splitlines() or ["no devices listed"]
        return fail(
            f"nvidia-smi: {said[0]}",
            "on a login node this is normal: run it in an allocation; on a GPU node have the administrators look at it",
        )
    found = _listed(gpus(subject))
    hidden = subject.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden in ("", "-1"):
        return warn(f"{found}; CUDA_VISIBLE_DEVICES hides them", "unset CUDA_VISIBLE_DEVICES")
    taken = [gpu for gpu in gpus(subject) if gpu.used > _OURS_GIB]
    if taken:
        used = ", ".join(f"{gpu.used:.0f} GiB of device {gpu.index}" for gpu in taken)
        return warn(f"{found}; in use: {used}", "end what runs there (`nvidia-smi`), or ask for whole nodes")
    return ok(found)


def _listed(found: list[Gpu]) -> str:
    """Devices of one kind together: "4 x NVIDIA GH200 120GB (96 GiB)"."""
    kinds = Counter((gpu.name, gpu.total) for gpu in found)
    return ", ".join(
        f"{count} x {name}" + (f" ({total:.0f} GiB)" if total == total else "")
        for (name, total), count in kinds.items()
    )


@check(SECTION, "driver and torch")
def driver_and_torch(subject: Subject) -> Finding:
    """The driver's CUDA against the build of torch, then a sum on each device."""
    driver = parse_driver(smi(subject).output)
    if driver is None or not gpus(subject):
        return skipped("no GPU to use")
    said = torch_says(subject)
    if isinstance(said, str):
        return fail(f"torch does not load: {said}", _install(driver))
    cuda = f"{driver.cuda[0]}.{driver.cuda[1]}"
    have = f"driver {driver.version} runs CUDA up to {cuda}; torch {said['version']}"
    if said["cuda"] is None:
        return fail(f"{have} is a CPU build", _install(driver))
    build = tuple(int(part) for part in str(said["cuda"]).split(".")[:2])
    have += f" is built for CUDA {said['cuda']}"
    if not runs_on((build[0], build[1]), driver.cuda):
        return fail(have, _install(driver))
    if said["error"] or not said["count"]:
        return fail(
            f"{have}; {said['error'] or 'it sees no device'}",
            "check CUDA_VISIBLE_DEVICES and the job's --gpus-per-node; if they are right: "
            + _install(driver),
        )
    return ok(f"{have}; {said['count']} devices compute")


def _install(driver: Driver) -> str:
    index = torch_index(driver.cuda)
    if index is None:
        return "update the driver to 525 or newer: no current torch runs on this one"
    return f"pip install --force-reinstall torch --index-url {index}"
