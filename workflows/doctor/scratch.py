"""Where Ray puts its files on this machine."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from cluster.ray.scratch import LONGEST_BASE
from cluster.ray.session import OBJECT_STORE_BYTES
from workflows.doctor.finding import Finding, Subject, check, fail, ok, warn
from workflows.doctor.mounts import RAM, SHARED, file_system
from workflows.text import bytes_text

SECTION = "Ray on this machine"
_VARIABLE = "TMPDIR (in slurm/site.sh: TABA_LOCAL_TMP)"
_LOW = 2e9  # bytes: logs of a long run and what Ray unpacks


def scratch_folder(subject: Subject) -> Path:
    """Where Ray's private directory is made: $TABA_LOCAL_TMP (the scripts in slurm/), else $TMPDIR, else /tmp."""
    named = subject.environ.get("TABA_LOCAL_TMP") or subject.environ.get("TMPDIR")
    return Path(named or tempfile.gettempdir())


@check(SECTION, "scratch")
def scratch(subject: Subject) -> Finding:
    """Node-local, short enough for socket paths, with some space."""
    folder = scratch_folder(subject)
    if not os.access(folder, os.W_OK | os.X_OK):
        return fail(f"{folder} is not writable", f"set {_VARIABLE} to /tmp or another node-local directory")
    kind, free = file_system(folder, subject.mounts), shutil.disk_usage(folder).free
    found = f"{folder} is {kind}, {bytes_text(free)} free"
    if len(str(folder)) > LONGEST_BASE:
        return warn(
            f"{found}; its {len(str(folder))} characters are too many for Ray's sockets",
            f"set {_VARIABLE} to a path of at most {LONGEST_BASE} characters",
        )
    if kind in SHARED:
        return warn(
            f"{found}: shared, where Ray's sockets and locks fail", f"set {_VARIABLE} to node-local disk"
        )
    if free < _LOW:
        return warn(found, f"free some, or set {_VARIABLE} to another node-local directory")
    return ok(found + (": memory; what Ray spills there is taken from the run's" if kind in RAM else ""))


@check(SECTION, "shared memory")
def shared_memory(subject: Subject) -> Finding:
    """/dev/shm holds Ray's object store; without room there Ray takes a slower place."""
    place = Path("/dev/shm")
    if not place.is_dir():
        return warn("there is no /dev/shm", "mount one (containers: --shm-size=1g)")
    return judge_shared_memory(shutil.disk_usage(place).free)


def judge_shared_memory(free: int) -> Finding:
    """Free bytes of /dev/shm against the object store's size."""
    found = f"/dev/shm has {bytes_text(free)} free, Ray takes {bytes_text(OBJECT_STORE_BYTES)}"
    if free < 2 * OBJECT_STORE_BYTES:
        return warn(found, "remove leftovers in /dev/shm; containers: --shm-size=1g")
    return ok(found)
