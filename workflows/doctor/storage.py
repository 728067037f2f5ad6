"""The file system of the store: kind, space, what a shard's commit needs, speed."""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from pathlib import Path

from workflows.doctor.finding import Finding, Subject, check, fail, ok, skipped, warn
from workflows.doctor.mounts import RAM, SHARED, existing, file_system
from workflows.environment import count_in_environment
from workflows.text import bytes_text, count_text

SECTION = "storage"
_SPEED_BYTES = 64_000_000
_SLOW = 40e6  # bytes/s; one GPU writes 5 to 40 MB/s
_FULL, _LOW = 1e9, 50e9  # bytes; one trajectory variable of 10,000 ADM-64 samples at T = 100 is 49 GB
_LOW_INODES = 20_000
_ASK = "no --store given"
_URL = "the store is a URL; only directories are examined"


def store_folder(subject: Subject) -> Path | Finding:
    """The directory the store lies in, or why there is nothing to examine."""
    if subject.store is None:
        return skipped(_ASK)
    if "://" in subject.store:
        return skipped(_URL)
    place = existing(Path(subject.store))
    return place if place.is_dir() else place.parent


@check(SECTION, "file system")
def kind_of(subject: Subject) -> Finding:
    """Kind of file system, and whether other nodes and the next day will see it."""
    folder = store_folder(subject)
    if isinstance(folder, Finding):
        return folder
    kind = file_system(folder, subject.mounts)
    found = f"{folder} is {kind}"
    move = "give --store a path on the site's shared scratch file system"
    if kind in RAM:
        return warn(f"{found}: memory, gone with the node", move)
    if kind not in SHARED and count_in_environment("SLURM_NNODES", 1, subject.environ) > 1:
        return warn(f"{found}: other nodes of this job may not see it", move)
    if str(folder.resolve()).startswith(("/tmp", "/var/tmp")):
        return warn(f"{found}: temporary, cleaned by the system", move)
    return ok(found)


@check(SECTION, "space")
def space(subject: Subject) -> Finding:
    """Free bytes and inodes; quotas are the site's own command."""
    folder = store_folder(subject)
    if isinstance(folder, Finding):
        return folder
    held = os.statvfs(folder)
    free = held.f_bavail * held.f_frsize
    found = f"{bytes_text(free)} free" + (
        f", {count_text(held.f_favail)} inodes" if held.f_files else ", inodes without limit"
    )
    remedy = "free some, or choose another --store; `taba plan` says what a run needs, `lfs quota` what you may use"
    if free < _FULL or (held.f_files and held.f_favail < _LOW_INODES / 10):
        return fail(found, remedy)
    if free < _LOW or (held.f_files and held.f_favail < _LOW_INODES):
        return warn(found, remedy)
    return ok(found)


@check(SECTION, "commit")
def commit(subject: Subject) -> Finding:
    """What every shard goes through: write, fsync, rename, fsync of the directory, read back, remove."""
    folder = store_folder(subject)
    if isinstance(folder, Finding):
        return folder
    text = os.urandom(4096)
    try:
        with tempfile.TemporaryDirectory(prefix=".taba-doctor-", dir=folder) as made:
            partial, whole = Path(made) / "shard.partial", Path(made) / "shard"
            with partial.open("wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, whole)
            handle = os.open(made, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
            same = whole.read_bytes() == text and not partial.exists()
    except OSError as error:
        return fail(
            f"{folder}: {error.strerror}", "choose a --store where you may write, and that is not full"
        )
    if not same:
        return fail(f"{folder}: what was written is not what is read", "do not store anything there")
    return ok("write, fsync, rename, read back")


@check(SECTION, "write speed")
def speed(subject: Subject) -> Finding:
    """Sequential write with fsync, one process."""
    folder = store_folder(subject)
    if isinstance(folder, Finding):
        return folder
    if os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize < 10 * _SPEED_BYTES:
        return skipped("too little space to measure")
    block = os.urandom(1_000_000)
    try:
        with tempfile.NamedTemporaryFile(prefix=".taba-doctor-", dir=folder) as file:
            begun = time.perf_counter()
            for _ in range(_SPEED_BYTES // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            rate = _SPEED_BYTES / (time.perf_counter() - begun)
    except OSError as error:
        return skipped(f"nothing can be written: {error.strerror}")
    return judge_speed(rate)


def judge_speed(rate: float) -> Finding:
    """Bytes per second against what a GPU produces."""
    found = f"{rate / 1e6:.0f} MB/s (64 MB, fsync included); a GPU writes 5 to 40 MB/s"
    if rate < _SLOW:
        return warn(found, "measure again at another hour; else use the scratch file system, not home")
    return ok(found)


@check(SECTION, "striping")
def striping(subject: Subject) -> Finding:
    """Lustre: over how many targets a file of the store is spread."""
    folder = store_folder(subject)
    if isinstance(folder, Finding):
        return folder
    if file_system(folder, subject.mounts) != "lustre":
        return skipped("not Lustre")
    if subject.which("lfs") is None:
        return skipped("Lustre, but no `lfs` on the PATH")
    said = subject.run(["lfs", "getstripe", "-d", str(folder)], 20.0).output.split()
    counts = [b for a, b in itertools.pairwise(said) if a == "stripe_count:"]
    if not counts:
        return skipped("`lfs getstripe` does not say")
    if counts[0] == "-1" or int(counts[0]) > 16:
        return warn(
            f"stripe count {counts[0]}: every shard touches every target",
            f"lfs setstripe -c 4 -S 16M {folder} before the first run (it holds for new files only)",
        )
    return ok(f"stripe count {counts[0]}; 4 of 16 MB suit shards of 100 to 300 MB, 1 is fine too")
