"""What a Ray cluster says of itself and of every node, and whether it answers people who show no token.

`python -m cluster.ray.inspection REQUEST` connects, runs one small task on each node and prints what they saw as JSON.
It is a program of its own because Ray keeps the first token a process has read, and a connection that hangs can be
ended from outside.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

from cluster.ray.code import Code, code_of, run_code_of
from cluster.ray.processes import runs_here
from cluster.ray.session import RaySession, host_and_port, knock

NODE_ANSWER_S = 60.0
_STATUS_S = 30.0
_SILENT = (
    "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USE_TLS", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY",
    "RAY_TLS_CA_CERT", "RAY_ADDRESS",
)  # fmt: skip

StrangerSees = Literal["open", "locked", "nothing", "unclear"]


def ask_without_token(address: str) -> tuple[StrangerSees, str]:
    """Ask a Ray head for its status (`ray status`), showing no token, as any stranger on the network could.

    Args:
      address: "HOST:PORT" of the head (its GCS).
    Returns:
      "open" if it answers: whoever reaches the port can run code as its owner. "locked" if it wants a token.
      "nothing" if nothing that speaks Ray's protocol listens there, "unclear" if it could not be found out; these two
      with the reason.
    """
    try:
        knock(*host_and_port(address))
    except OSError as error:
        return "nothing", str(error)
    environment = {name: value for name, value in os.environ.items() if name not in _SILENT}
    command = [str(Path(sys.executable).with_name("ray")), "status", "--address", address]
    try:
        done = subprocess.run(
            command,
            env=environment | {"RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_STATUS_S,
        )
    except subprocess.TimeoutExpired:
        return "unclear", f"`ray status` has no answer in {_STATUS_S:.0f} s"
    except OSError as error:
        return "unclear", f"{command[0]}: {error.strerror}"
    if done.returncode == 0:
        return "open", ""
    if "AuthenticationError" in done.stderr:
        return "locked", ""
    return "unclear", (done.stderr.strip().splitlines() or [f"`ray status` ended with {done.returncode}"])[-1]


def inspect(request: dict[str, Any]) -> dict[str, Any]:
    """Connect to a cluster and let every alive node report.

    Args:
      request: `address`; `marker`, a file of the driver that every node should see ("" = none); `paths`, files or
        directories whose sizes are asked; `packages`, distributions whose versions are asked; `code`, packages
        whose contents are compared.
    Returns:
      `error` if there is no connection, with `outside` if this machine runs no Ray node and so cannot join. Else
      `gcs` and `dashboard` ("HOST:PORT" or ""), `dead` (host names), `driver` and `nodes`: what `look_around` says
      there, with the CPUs and GPUs Ray offers; a node that did not answer has an `error`. Nodes carry `skew`,
      seconds their clock is ahead of this one's, and `skew_error`, half the round trip.
    """
    from cluster.pool.executor import ClusterError
    from cluster.ray.same_code import send_by_value

    if not request["address"].startswith("ray://") and not runs_here("raylet"):
        # Ray itself would look for a node for a minute.
        return {"error": "this machine runs no Ray node", "outside": True}
    try:
        session = RaySession(request["address"])
    except ClusterError as error:
        return {"error": str(error).splitlines()[0]}
    try:
        send_by_value()
        found = _ask_all(request | {"code": code_of(request["code"])})
        return found | {"dashboard": session.dashboard}
    finally:
        with contextlib.suppress(Exception):
            session.close()


def look_around(request: dict[str, Any]) -> dict[str, Any]:
    """What one process sees of its machine: versions, files, scratch, devices."""
    import platform
    import shutil
    import tempfile

    import ray

    scratch, head = tempfile.gettempdir(), ""
    with contextlib.suppress(Exception):  # a Ray Client has neither
        head = ray.get_runtime_context().gcs_address
        scratch = ray.get_runtime_context().get_temp_dir()
    devices = "/proc/driver/nvidia/gpus"  # one directory a device, whatever CUDA_VISIBLE_DEVICES hides
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "page_bytes": os.sysconf("SC_PAGE_SIZE"),
        "versions": {name: _version(name) for name in request["packages"]},
        "code": _code_digest(request["code"]),
        "marker": _read_and_answer(request["marker"]),
        "paths": {path: _size(path) for path in request["paths"]},
        "gcs": head,
        "scratch": scratch,
        "scratch_free": shutil.disk_usage(scratch).free,
        "devices": len(os.listdir(devices)) if os.path.isdir(devices) else 0,
    }


def _ask_all(request: dict[str, Any]) -> dict[str, Any]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    listed = ray.nodes()
    alive = [node for node in listed if node["Alive"]]
    # No CPU asked: a busy node answers too. Not soft: the answer is this node's or none.
    pins = {
        n["NodeID"]: {"scheduling_strategy": NodeAffinitySchedulingStrategy(n["NodeID"], soft=False)}
        for n in alive
    }
    look = ray.remote(num_cpus=0, max_retries=0)(look_around)
    asked = {node["NodeID"]: look.options(**pins[node["NodeID"]]).remote(request) for node in alive}
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=NODE_ANSWER_S)
    reports = []
    for node in alive:
        report = {
            "host": node["NodeManagerHostname"],
            "address": node["NodeManagerAddress"],
            "cpus": node["Resources"].get("CPU", 0.0),
            "gpus": node["Resources"].get("GPU", 0.0),
        }
        try:
            report |= ray.get(asked[node["NodeID"]], timeout=0.1)
            report["skew"], report["skew_error"] = _skew(pins[node["NodeID"]])
        except Exception as error:  # lost node, broken environment, too slow: the page says which
            report["error"] = str(error).strip().splitlines()[-1] or type(error).__name__
        reports.append(report)
    return {
        "gcs": next((report["gcs"] for report in reports if report.get("gcs")), ""),
        "dead": [node["NodeManagerHostname"] for node in listed if not node["Alive"]],
        "driver": look_around(request | {"marker": ""}),
        "nodes": reports,
    }


def _skew(pin: dict[str, Any]) -> tuple[float, float]:
    """Seconds a node's clock is ahead, and half the round trip; the better of two askings (the first may start a
    worker process)."""
    import ray

    clock = ray.remote(num_cpus=0, max_retries=0)(_now).options(**pin)
    found = []
    for _ in range(2):
        sent = time.time()
        there = ray.get(clock.remote(), timeout=10)
        received = time.time()
        found.append((there - (sent + received) / 2, (received - sent) / 2))
    return min(found, key=lambda pair: pair[1])


def _now() -> float:
    return time.time()


def _read_and_answer(marker: str) -> str | None:
    """The marker's text, with a file beside it as the answer; None if it is not to be seen or not to be answered."""
    import uuid

    if not marker:
        return None
    try:
        with open(marker) as file:
            text = file.read(200)
        with open(f"{marker}.{uuid.uuid4().hex}", "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        return None
    return text


def _size(path: str) -> int | None:
    """Bytes of a file, or of the files directly and indirectly in a directory; None if there is nothing."""
    if not os.path.exists(path):
        return None
    if os.path.isfile(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(top, name)) for top, _, names in os.walk(path) for name in names)


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _code_digest(driver: Code) -> str:
    """8 hex digits over the packages that a worker in this process would run; "none" if one is missing."""
    import hashlib

    differing = {difference["here"]["name"]: difference["there"] for difference in run_code_of(driver)}
    digests = [differing.get(package["name"], package)["digest"] for package in driver["packages"]]
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:8] if all(digests) else "none"


if __name__ == "__main__":
    # Run as __main__, so `look_around` travels by value: a node that lacks taba can still say so.
    print(json.dumps(inspect(json.loads(sys.argv[1]))))
