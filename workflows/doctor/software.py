"""Python, packages, native libraries, the optional metrics."""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from workflows.doctor.finding import Finding, Subject, check, fail, ok, skipped, warn
from workflows.doctor.mounts import SHARED, file_system
from workflows.environment import count_in_environment

SECTION = "software"
# Every package with compiled code that a run loads.
NATIVE = (
    "numpy", "scipy", "skimage", "sklearn", "PIL", "numcodecs", "zarr", "yaml", "pydantic_core", "google.protobuf",
    "msgpack", "grpc", "ray", "safetensors", "tokenizers", "matplotlib", "torch",
)  # fmt: skip
METRICS = {"torchvision": "torchvision", "lpips": "lpips", "clean-fid": "cleanfid"}
_SHOWN = ("torch", "ray", "zarr", "numpy")
_SLOW_IMPORT_S = 60.0
# Says each name before it imports it, so that an abort in native code has a culprit.
_IMPORTER = """
import importlib, json, sys, time
for name in sys.argv[1:]:
    print(json.dumps({"start": name}), flush=True)
    begun = time.perf_counter()
    try:
        importlib.import_module(name)
        error = ""
    except BaseException as problem:
        error = f"{type(problem).__name__}: {(str(problem).strip().splitlines() or [''])[-1]}"
    print(json.dumps({"name": name, "error": error, "seconds": time.perf_counter() - begun}), flush=True)
"""


@check(SECTION, "python")
def python(subject: Subject) -> Finding:
    """The interpreter against `requires-python`."""
    found = f"{platform.python_version()}, {platform.machine()}, {sys.prefix}"
    try:
        wanted = metadata("taba")["Requires-Python"] or ""
    except PackageNotFoundError:
        return warn(f"{found}; taba is not installed", "pip install -e . in the checkout, on every node")
    if platform.python_version() not in SpecifierSet(wanted):
        return fail(found, f"taba needs Python {wanted}: make an environment with it")
    return ok(found)


@check(SECTION, "packages")
def packages(subject: Subject) -> Finding:
    """Installed versions against what taba's metadata requires."""
    try:
        stated = [Requirement(text) for text in requires("taba") or []]
    except PackageNotFoundError:
        return skipped("taba is not installed, so it states no requirements")
    wanted = [need for need in stated if need.marker is None or need.marker.evaluate({"extra": ""})]
    wrong = [f"{need.name} {have}" for need in wanted if (have := _unfit(need))]
    if wrong:
        return fail(f"not as required: {', '.join(wrong)}", "pip install -c constraints.txt -e .")
    shown = ", ".join(f"{name} {version(name)}" for name in _SHOWN)
    return ok(f"{len(wanted)} as required ({shown})")


def _unfit(need: Requirement) -> str:
    """Which version is installed in place of the required one; "" if it fits."""
    try:
        have = version(need.name)
    except PackageNotFoundError:
        return f"missing (needs {need.specifier or 'any'})"
    return "" if need.specifier.contains(have, prereleases=True) else f"{have} (needs {need.specifier})"


@check(SECTION, "native imports")
def native_imports(subject: Subject) -> Finding:
    """Import every package with compiled code once, in another process: it may abort."""
    seconds, broken = import_each(subject, NATIVE)
    if broken:
        return fail(
            "; ".join(f"{name}: {why}" for name, why in broken.items()),
            f"pip install --force-reinstall --no-cache-dir {' '.join(broken)}; with 64 KiB pages an old wheel aborts: "
            "take a newer one",
        )
    found = f"{len(NATIVE)} packages import in {seconds:.1f} s"
    if seconds > _SLOW_IMPORT_S:
        return warn(found, "the environment lies on a slow file system: see 'environment' below")
    return ok(found)


def import_each(subject: Subject, names: tuple[str, ...]) -> tuple[float, dict[str, str]]:
    """Import packages one after another in one process, in a new one after each abort.

    Returns:
      Seconds of all imports, and what went wrong by package.
    """
    seconds, broken, left = 0.0, dict[str, str](), list(names)
    while left:
        ran = subject.run([sys.executable, "-P", "-c", _IMPORTER, *left], 300.0)
        begun = ""
        for line in ran.output.splitlines():
            said = _json_object(line)
            if "start" in said:
                begun = said["start"]
            elif "name" in said:
                begun, seconds = "", seconds + said["seconds"]
                left.remove(said["name"])
                if said["error"]:
                    broken[said["name"]] = said["error"]
        if left and not begun:
            return seconds, broken | {left[0]: f"the importing process ended with {_ending(ran.code)}"}
        if begun:
            broken[begun] = f"ends the process with {_ending(ran.code)}"
            left.remove(begun)
    return seconds, broken


def _json_object(line: str) -> dict[str, Any]:
    """What a line of the importer says; {} for what a package printed itself."""
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _ending(code: int) -> str:
    if code < 0:
        return signal.Signals(-code).name
    return "no answer in time" if code == 124 else f"status {code}"


@check(SECTION, "page size")
def page_size(subject: Subject) -> Finding:
    """Memory pages of the kernel; Grace kernels may use 64 KiB."""
    ran = subject.run(["getconf", "PAGESIZE"], 10.0)
    size = int(ran.output) if ran.output.strip().isdigit() else os.sysconf("SC_PAGE_SIZE")
    note = "; old wheels with jemalloc abort on it, the native imports above tell" if size > 4096 else ""
    return ok(f"{size // 1024} KiB{note}")


@check(SECTION, "environment")
def environment(subject: Subject) -> Finding:
    """Whether many nodes would import Python from one shared file system at once."""
    kind = file_system(Path(sys.prefix), subject.mounts)
    nodes = count_in_environment("SLURM_NNODES", 1, subject.environ)
    found = f"Python lies on {kind}"
    if kind in SHARED and nodes > 8:
        return warn(
            f"{found}, and {nodes} nodes import it at once",
            "pack the environment into one image or tar that each node unpacks: TABA_ENV_IMAGE in slurm/site.sh",
        )
    return ok(found + ("; for more than 8 nodes see TABA_ENV_IMAGE" if kind in SHARED else ""))


@check(SECTION, "metrics extra")
def metrics(subject: Subject) -> Finding:
    """The optional packages of some image metrics, each imported once if it is there."""
    here = {name: module for name, module in METRICS.items() if _installed(name)}
    if not here:
        return skipped(f"{', '.join(METRICS)} are not installed (pip install 'taba[metrics]')")
    broken = import_each(subject, tuple(here.values()))[1]
    if broken:
        return warn(
            "; ".join(f"{name}: {why}" for name, why in broken.items()),
            "torchvision must be built for this torch: install both from one index, --index-url "
            "https://download.pytorch.org/whl/cpu without a GPU",
        )
    missing = [name for name in METRICS if name not in here]
    found = ", ".join(f"{name} {version(name)}" for name in here)
    return ok(found + (f"; not installed: {', '.join(missing)}" if missing else ""))


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False
