"""The nodes of a Ray cluster: alive, alike, on time, and with the files they need."""

from __future__ import annotations

import functools
import json
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workflows.doctor.finding import Finding, Subject, check, fail, ok, skipped, warn
from workflows.doctor.models import weight_files
from workflows.doctor.storage import store_folder
from workflows.launch import PACKAGES, program
from workflows.text import bytes_text

SECTION = "Ray nodes"
DISTRIBUTIONS = ("taba", "torch", "ray", "numpy", "zarr")
_NONE = "no cluster named (--address, RAY_ADDRESS)"
_LATE_S, _WRONG_S = 2.0, 30.0
_LOW_SCRATCH = 2e9
_INSPECTION_S = 150.0
_ANSWERS_S = 5.0  # a network file system may list new files that late

Report = dict[str, Any]


@functools.cache
def inspection(subject: Subject) -> Report:
    """What `cluster.inspection` says, asked in another process; {"error": ...} if it cannot.

    Adds `answers`: how many nodes wrote beside the driver's marker what they read in it.
    """
    folder = store_folder(subject)
    request = {
        "address": subject.cluster,
        "marker": "",
        "paths": [str(path) for path in weight_files(subject)],
        "packages": DISTRIBUTIONS,
        "code": PACKAGES,
    }
    if isinstance(folder, Finding):
        return _ask(subject, request)
    try:
        with tempfile.TemporaryDirectory(prefix=".taba-doctor-", dir=folder) as made:
            marker, text = Path(made) / "marker", secrets.token_hex(16)
            marker.write_text(text)
            said = _ask(subject, request | {"marker": str(marker)})
            saw = [node for node in said.get("nodes", []) if node.get("marker") == text]
            return said | {"saw": [node["host"] for node in saw], "answers": _answers(marker, text, len(saw))}
    except OSError:
        return _ask(subject, request)  # the storage checks say what is wrong with the directory


def _ask(subject: Subject, request: Report) -> Report:
    ran = subject.run(program("cluster.inspection", json.dumps(request)), _INSPECTION_S)
    try:
        return dict(json.loads(ran.output.strip().splitlines()[-1]))
    except (ValueError, IndexError):
        return {"error": (ran.errors.strip().splitlines() or [f"status {ran.code}"])[-1]}


def _answers(marker: Path, text: str, expected: int) -> int:
    """How many right answers lie beside the marker, waiting a little for all of them."""
    until = time.monotonic() + _ANSWERS_S
    while True:
        count = sum(path.read_text() == text for path in marker.parent.glob("marker.*"))
        if count >= expected or time.monotonic() > until:
            return count
        time.sleep(0.2)


@check(SECTION, "alive")
def alive(subject: Subject) -> Finding:
    """Which nodes answer, and what Ray may use on them."""
    if subject.cluster is None:
        return skipped(_NONE)
    said = inspection(subject)
    if said.get("outside"):
        return skipped(f"{said['error']}; `ray job submit -- taba doctor` examines the cluster from inside")
    if "error" in said:
        return fail(
            f"{subject.cluster}: {said['error']}",
            'is the job still running (squeue)? start one with slurm/cluster.sh; eval "$(taba cluster env JOBID)"',
        )
    nodes, gpus = said["nodes"], sum(node["gpus"] for node in said["nodes"])
    found = f"{len(nodes)} nodes, {gpus:g} GPUs, {sum(node['cpus'] for node in nodes):g} cores"
    if mute := [node for node in nodes if "error" in node]:
        return fail(
            f"{found}; no answer from {_named(mute)}: {mute[0]['error']}",
            "see that node's Ray logs; leave it out",
        )
    if short := [node for node in nodes if node["devices"] > node["gpus"]]:
        return warn(
            f"{found}; {short[0]['host']} has {short[0]['devices']} devices and Ray may use {short[0]['gpus']:g}",
            "ray start --num-gpus=$SLURM_GPUS_ON_NODE; ask Slurm for all of a node with --gpus-per-node",
        )
    if said["dead"]:
        return warn(
            f"{found}; lost: {', '.join(said['dead'])}",
            "work goes on without them; the launcher restarts Ray there",
        )
    return ok(found)


def _check_nodes(subject: Subject, judge: Callable[[Report, list[Report]], Finding]) -> Finding:
    """Judge the nodes that answered; skipped if there are none."""
    if subject.cluster is None:
        return skipped(_NONE)
    said = inspection(subject)
    nodes = [node for node in said.get("nodes", []) if "error" not in node]
    return (
        judge(said, nodes)
        if nodes
        else skipped("this machine is no node" if said.get("outside") else "no node answered")
    )


def _named(nodes: list[Report]) -> str:
    """Host names, the first few of many."""
    names = [node["host"] for node in nodes]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


@check(SECTION, "same software")
def same_software(subject: Subject) -> Finding:
    """Python, packages and taba's own sources as on this machine."""
    return _check_nodes(subject, judge_software)


def judge_software(said: Report, nodes: list[Report]) -> Finding:
    """The driver's versions against every node's; `code` is a digest of taba's sources."""
    own = _software(said["driver"])
    differing: dict[str, list[Report]] = {}
    for node in nodes:
        there = _software(node)
        for name in own:
            if there[name] != own[name]:
                differing.setdefault(f"{name} {there[name]} instead of {own[name]}", []).append(node)
    if differing:
        return fail(
            "; ".join(f"{what} on {_named(on)}" for what, on in differing.items()),
            "use one environment and one checkout on all nodes (a shared path, or TABA_ENV_IMAGE), then restart Ray",
        )
    return ok("the same everywhere: " + ", ".join(f"{name} {value}" for name, value in own.items()))


def _software(report: Report) -> dict[str, str]:
    return {"python": report["python"], **report["versions"], "taba's code": report["code"]}


@check(SECTION, "clocks")
def clocks(subject: Subject) -> Finding:
    """Every node's clock against this machine's; leases and logs compare times of different machines."""
    return _check_nodes(subject, judge_clocks)


def judge_clocks(said: Report, nodes: list[Report]) -> Finding:
    """The largest skew, less what the round trip leaves open."""
    worst = max(nodes, key=lambda node: abs(node["skew"]))
    sure = max(abs(worst["skew"]) - worst["skew_error"], 0.0)
    found = (
        f"largest difference {worst['skew']:+.3f} s ({worst['host']}), known to {worst['skew_error']:.3f} s"
    )
    remedy = "have the administrators look at NTP or chrony on that node"
    if sure > _WRONG_S:
        return fail(found, remedy)
    return warn(found, remedy) if sure > _LATE_S else ok(found)


@check(SECTION, "shared store")
def shared_store(subject: Subject) -> Finding:
    """Every node reads a file this machine has just written, and this machine the answers."""
    if subject.cluster is not None and isinstance(folder := store_folder(subject), Finding):
        return folder
    return _check_nodes(subject, judge_store)


def judge_store(said: Report, nodes: list[Report]) -> Finding:
    """Who saw the marker, and whose answers came back."""
    if "saw" not in said:
        return skipped("nothing can be written to the store's directory from here")
    blind = [node for node in nodes if node["host"] not in said["saw"]]
    remedy = "give --store a path that all nodes mount and may write (the site's scratch file system)"
    if blind:
        return fail(f"not to be read and written on {_named(blind)}", remedy)
    if said["answers"] < len(nodes):
        return fail(f"only {said['answers']} of {len(nodes)} nodes wrote what can be seen here", remedy)
    return ok(f"all {len(nodes)} nodes read and write the store's directory")


@check(SECTION, "weights there")
def weights_there(subject: Subject) -> Finding:
    """The models' weights as large on every node as here."""
    if not weight_files(subject) and subject.cluster is not None:
        return skipped("no --model with weights that are here")
    return _check_nodes(subject, judge_weights)


def judge_weights(said: Report, nodes: list[Report]) -> Finding:
    """Sizes of the weights on the nodes against the driver's."""
    own = said["driver"]["paths"]
    for path, size in own.items():
        if lacking := [node for node in nodes if node["paths"].get(path) != size]:
            there = lacking[0]["paths"].get(path)
            state = "missing" if there is None else f"{bytes_text(there)} instead of {bytes_text(size or 0)}"
            return fail(
                f"{path} is {state} on {_named(lacking)}",
                "set TABA_CACHE to a directory all nodes mount, on the nodes too (slurm/site.sh), and fetch into it",
            )
    return ok(f"{len(own)} of {len(own)} on all {len(nodes)} nodes")


@check(SECTION, "scratch there")
def scratch_there(subject: Subject) -> Finding:
    """Space where Ray writes on every node."""
    return _check_nodes(subject, judge_scratch)


def judge_scratch(said: Report, nodes: list[Report]) -> Finding:
    """The node with the least space."""
    least = min(nodes, key=lambda node: node["scratch_free"])
    found = f"at least {bytes_text(least['scratch_free'])} free ({least['host']}: {least['scratch']})"
    if least["scratch_free"] < _LOW_SCRATCH:
        return warn(
            found, "free some there, or set TABA_LOCAL_TMP in slurm/site.sh to another node-local directory"
        )
    pages = Counter(node["page_bytes"] // 1024 for node in nodes)
    return ok(f"{found}; pages of {', '.join(f'{size} KiB' for size in sorted(pages))}")
