"""The damage matrix: whatever happens to a store ends in one named error, and the same command makes it whole."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from engine_runs import ARGUMENTS, fingerprints, run, taba

from workflows.execution.watch.watcher import Watcher


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished store nobody disturbed."""
    path = tmp_path_factory.mktemp("whole") / "store"
    assert run(path) == 0
    return path


@pytest.fixture
def store(whole, tmp_path):
    """A copy to damage."""
    return shutil.copytree(whole, tmp_path / "store")


@pytest.fixture
def at_event(monkeypatch):
    """Calls a function when the first event of a kind has come."""

    def install(kind, action):
        heard = Watcher.event

        def event(self, event):
            heard(self, event)
            if event.kind == kind and not done:
                done.append(event)
                action()

        done = []
        monkeypatch.setattr(Watcher, "event", event)

    return install


def one_error(capsys):
    """The text of the only error message."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("taba: error: "), lines
    return lines[0].removeprefix("taba: error: ")


def shard(store):
    return next(store.glob("gaussian-generation-*/x_t")) / "c.1.0.0.0.0"


def flip(file):
    data = bytearray(file.read_bytes())
    data[1000] ^= 1
    file.write_bytes(data)


DAMAGE = {
    "lost": (lambda file: file.unlink(), r"x_t shard 1: missing: no file, although its receipt"),
    "zero-length": (lambda file: file.write_bytes(b""), r"x_t shard 1: size: 0 bytes, not 24"),
    "truncated": (lambda file: os.truncate(file, 1234), r"x_t shard 1: size: 1234 bytes, not 24"),
    "bit-flipped": (flip, r"x_t shard 1: checksum: CRC-32 [0-9a-f]{8}, not [0-9a-f]{8} as written"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_shard_is_named_by_verify_and_made_again_bit_for_bit(kind, whole, store, capsys):
    damage, name = DAMAGE[kind]
    damage(shard(store))
    assert taba("verify", "--deep", "--forget", "--store", store) == 1
    out = capsys.readouterr().out
    assert len([line for line in out.splitlines() if "shard" in line]) == 1
    assert re.search(name, out), out
    assert run(store) == 0
    assert taba("verify", "--deep", "--store", store) == 0
    assert fingerprints(store) == fingerprints(whole)


def test_half_written_files_are_named_by_verify_and_cleared_by_the_next_run_that_writes(whole, store, capsys):
    shard(store).unlink()
    left = shard(store).with_name("c.1.0.0.0.0.abc.partial")
    left.write_bytes(b"half")
    status = store / "_ledger" / "status.json.abc.partial"
    status.write_bytes(b"{")
    assert taba("verify", "--store", store) == 1
    assert "orphan: c.1.0.0.0.0.abc.partial is left of an interrupted write" in capsys.readouterr().out
    assert run(store) == 0
    assert not left.exists() and not status.exists() and fingerprints(store) == fingerprints(whole)


@contextmanager
def mounted(directory, *options):
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    directory.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(directory)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def test_a_disk_that_fills_up_ends_the_run_with_one_error_and_freed_space_completes_it(
    whole, tmp_path, at_event, capsys
):
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=6m", "tmpfs") as disk:
        filler = disk / "filler"

        def fill():
            with open(filler, "wb") as file:
                try:
                    while True:
                        file.write(bytes(4096))
                        file.flush()
                except OSError:
                    os.truncate(
                        filler, os.path.getsize(filler) - 100_000
                    )  # the log still fits, no shard does

        at_event("unit-started", fill)
        assert run(disk / "store") == 1
        text = one_error(capsys)
        assert "No space left on device (ENOSPC). Nothing partial was kept. Free space or use another" in text
        assert not list(disk.rglob("*.partial"))
        filler.unlink()
        assert run(disk / "store") == 0
        assert fingerprints(disk / "store") == fingerprints(whole)


def test_a_disk_without_room_for_the_plan_is_refused_before_work(tmp_path, capsys):
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=1m", "tmpfs") as disk:
        # By itself a run keeps within 80 % of the room; a budget beyond it meets the disk.
        assert run(disk / "store") == 2
        assert "80% of the room at the store. Use --budget SIZE, another --store" in one_error(capsys)
        assert run(disk / "store", "--budget", "1GB") == 1
        text = one_error(capsys)
        assert (
            "the run will write 1.8 MB, but 1.0 MB are free there" in text and "Nothing was computed" in text
        )
        assert not list(disk.rglob("c.*"))


def test_a_disk_without_inodes_for_the_plan_is_refused_before_work(tmp_path, capsys):
    with mounted(tmp_path / "few", "-t", "tmpfs", "-o", "nr_inodes=15", "tmpfs") as disk:
        assert run(disk / "store") == 1
        assert "inodes are free there. Use another --store, or a larger" in one_error(capsys)


def test_a_read_only_store_is_refused_before_work_and_can_still_be_read(store, tmp_path, capsys):
    shard(store).unlink()
    with mounted(tmp_path / "readonly", "--bind", str(store)) as path:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(path)], check=True)
        assert run(path) == 1
        assert f"store {path} is not writable" in one_error(capsys)
        assert taba("status", "--store", path) == 0 and taba("verify", "--store", path) == 1


# A driver in a process of its own: `at_first_unit` runs when its first unit starts, with `folder` in scope.
DRIVER = """
import pathlib, sys, time
from workflows.execution.watch.watcher import Watcher
folder, heard, seen = pathlib.Path(sys.argv[1]), Watcher.event, []
def event(self, event):
    heard(self, event)
    if event.kind == "unit-started" and not seen:
        seen.append(event)
        at_first_unit()
Watcher.event = event
from workflows.__main__ import main
"""


@contextmanager
def driver(folder, store, at_first_unit):
    code = f"{DRIVER}\ndef at_first_unit():\n    {at_first_unit}\nmain(sys.argv[2:])"
    command = [sys.executable, "-c", code, str(folder), *ARGUMENTS, "--store", str(store)]
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": os.getcwd()}, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_store_that_vanishes_under_a_run_is_named_and_not_made_again(whole, tmp_path):
    store, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    with driver(tmp_path, store, "(folder / 'store').rename(folder / 'elsewhere')") as first:
        text = first.communicate(timeout=60)[1]
    assert first.returncode == 1
    assert text.startswith(f"taba: error: store {store} has vanished: {store}/_ledger is not there any more")
    assert not store.exists()
    elsewhere.rename(store)
    assert run(store) == 0  # takes over from the dead driver
    assert fingerprints(store) == fingerprints(whole)


def test_of_two_drivers_at_once_one_is_refused_and_the_other_is_not_disturbed(whole, tmp_path, capsys):
    store = tmp_path / "store"
    wait = "(folder / 'running').touch()\n    while not (folder / 'go').exists(): time.sleep(0.02)"
    with driver(tmp_path, store, wait) as first:
        while not (tmp_path / "running").exists():
            assert first.poll() is None
            time.sleep(0.05)
        assert run(store) == 75
        text = one_error(capsys)
        assert f"belongs to run {json.loads((store / '_ledger' / 'lease.json').read_text())['run']} " in text
        assert f"(process {first.pid} on " in text
        (tmp_path / "go").touch()
        assert first.wait(timeout=60) == 0
    assert fingerprints(store) == fingerprints(whole)


@pytest.mark.parametrize("moment", ["compute", "correlation"])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_stop_signal_drains_the_run_releases_the_store_and_resumes(
    moment, name, whole, tmp_path, monkeypatch, at_event, capsys
):
    store, stop = tmp_path / "store", lambda: os.kill(os.getpid(), getattr(signal, name))
    if moment == "compute":
        at_event("unit-started", stop)
    else:
        begin = Watcher.stage

        def stage(self, stage):
            begin(self, stage)
            if stage == moment:
                stop()

        monkeypatch.setattr(Watcher, "stage", stage)
    before = signal.getsignal(getattr(signal, name))
    assert run(store) == 85
    assert f"stopped by {name}" in capsys.readouterr().err
    assert signal.getsignal(getattr(signal, name)) is before
    assert not (store / "_ledger" / "lease.json").exists()
    assert json.loads((store / "_ledger" / "status.json").read_text())["state"] == "drained"
    monkeypatch.undo()
    assert run(store) == 0 and fingerprints(store) == fingerprints(whole)
