"""Two drivers never own one store: the lease is won once, held by a heartbeat, taken over from the dead only."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from taba_core.errors import WorkError
from taba_core.store.address import place_of
from taba_core.store.claim import seconds_since_written
from taba_core.store.holder import Holder, why_gone
from taba_core.store.lease import StoreHeldError, acquire, hold, holder_of, new_run_id
from taba_core.store.local_place import LocalPlace
from taba_core.store.place import json_bytes

HOLDER = """
import sys, time
from taba_core.store.lease import acquire
lease = acquire(sys.argv[1], sys.argv[2])
print("held", flush=True)
while True:
    time.sleep(0.1)
    lease.beat()
"""
# Twenty processes wait for the same moment and try once; the exit status says who won.
RACE = """
import os, sys, time
from taba_core.store.lease import StoreHeldError, acquire
at, children = time.time() + 0.5, []
for i in range(20):
    child = os.fork()
    if child:
        children.append(child)
        continue
    while time.time() < at:
        pass
    try:
        lease = acquire(sys.argv[1], f"racer {i}")
        time.sleep(1.5)
        lease.check()
        os._exit(0)
    except StoreHeldError as error:
        os._exit(error.exit_code)
print(*sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


@pytest.fixture
def processes():
    started = []

    def start(code, *arguments):
        environment = {**os.environ, "PYTHONPATH": os.getcwd()}
        command = [sys.executable, "-c", code, *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()


def foreign(**changes):
    """A driver on a machine we cannot look into."""
    return replace(Holder.this_process("other"), host="far", boot="another kernel", **changes)


def put(store, holder, age_s=0.0):
    path = store / "_ledger" / "lease.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(holder.to_json()))
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_a_store_held_by_a_living_process_is_refused_and_the_error_names_it(tmp_path, processes):
    other = processes(HOLDER, tmp_path, "first")
    assert other.stdout.readline() == "held\n"
    with pytest.raises(StoreHeldError) as refusal:
        acquire(tmp_path, "second")
    assert refusal.value.exit_code == 75
    text = str(refusal.value)
    assert re.search(rf"belongs to run first \(process {other.pid} on \S+\) since 20\d\d-", text)
    assert f"stop it (`kill {other.pid}`)" in text and "Two drivers must not write one store" in text
    assert holder_of(tmp_path).run == "first"


def test_a_killed_driver_on_this_machine_is_replaced_at_once(tmp_path, processes):
    other = processes(HOLDER, tmp_path, "first")
    other.stdout.readline()
    other.send_signal(signal.SIGKILL)
    while Path(f"/proc/{other.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
        time.sleep(0.01)
    began = time.monotonic()
    acquire(tmp_path, "second").check()  # a zombie its parent has not reaped yet is dead, too
    assert time.monotonic() - began < 1.0 and holder_of(tmp_path).run == "second"


def test_a_stopped_process_of_this_machine_keeps_its_store_however_old_its_heartbeat(tmp_path, processes):
    other = processes(HOLDER, tmp_path, "first")
    other.stdout.readline()
    other.send_signal(signal.SIGSTOP)
    os.utime(tmp_path / "_ledger" / "lease.json", (1.0, 1.0))
    with pytest.raises(StoreHeldError):
        acquire(tmp_path, "second", stale_s=0.1, heartbeat_s=0.01)


@pytest.mark.parametrize("dead", [False, True], ids=["free store", "store of a dead driver"])
def test_of_twenty_racing_starters_exactly_one_wins(tmp_path, processes, dead):
    if dead:
        first = processes(HOLDER, tmp_path, "dead")
        first.stdout.readline()
        kill(first)
    answer = processes(RACE, tmp_path).communicate(timeout=60)[0]
    assert answer.split() == ["0"] + ["75"] * 19


def test_a_driver_whose_store_was_taken_over_is_stopped_before_it_writes(tmp_path):
    mine = acquire(tmp_path, "mine")
    path = put(tmp_path, foreign())
    before = path.stat().st_mtime_ns
    mine.beat()
    mine.release()
    assert path.exists() and path.stat().st_mtime_ns == before  # it touches and removes only its own
    with pytest.raises(StoreHeldError, match=r"was taken over by run other .*stops without writing"):
        mine.check()


@pytest.fixture(params=["directory", "objects"])
def place(request, tmp_path):
    """What a lease promises does not depend on where the store lies."""
    return place_of(tmp_path if request.param == "directory" else f"memory://{uuid.uuid4().hex}/store")


def test_a_store_has_one_driver_and_who_lost_it_touches_nothing_more(place):
    first = acquire(place, "first")
    (place / "zarr.json").write_atomic(b"{}")
    with pytest.raises(StoreHeldError, match=r"belongs to run first .*last heartbeat 0 s ago"):
        acquire(place, "second")
    first.file.remove()
    with pytest.raises(WorkError, match="of this run was removed"):
        first.check()
    second = acquire(place, "second")
    with pytest.raises(StoreHeldError, match="was taken over by run second"):
        first.check()
    written = first.file.modified()
    time.sleep(0.02)
    first.beat(), first.release()
    assert first.file.modified() == written and holder_of(place).run == "second"
    second.beat(), second.check()
    assert first.file.modified() > written
    second.release()
    assert holder_of(place) is None


@pytest.mark.parametrize("beats", [False, True], ids=["dead", "alive"])
def test_a_far_driver_that_looks_old_is_watched_before_it_is_replaced(place, beats):
    file = place / "_ledger" / "lease.json"
    file.parent.make()
    content = json_bytes(foreign().to_json())
    file.write_atomic(content)
    ended = threading.Event()
    thread = threading.Thread(
        target=lambda: [file.touch(content) for _ in iter(lambda: ended.wait(0.05), True)]
    )
    if beats:
        thread.start()
    try:
        if beats:
            with pytest.raises(StoreHeldError):
                acquire(place, "mine", stale_s=0.0, heartbeat_s=0.5)
        else:
            assert acquire(place, "mine", stale_s=0.0, heartbeat_s=0.2).holder.run == "mine"
    finally:
        ended.set()
        if beats:
            thread.join()


def test_storage_that_cannot_keep_a_lease_alive_is_refused_at_the_start(place, monkeypatch):
    def refuse(self, content):
        raise WorkError("cannot write: 501 Not Implemented")

    monkeypatch.setattr(type(place), "touch", refuse)
    with pytest.raises(WorkError, match="501 Not Implemented"):
        acquire(place, "mine")
    assert holder_of(place) is None


def test_the_lease_is_released_at_the_end_also_of_a_block_that_raised(tmp_path):
    with pytest.raises(KeyboardInterrupt), hold(tmp_path):
        raise KeyboardInterrupt
    assert holder_of(tmp_path) is None
    acquire(tmp_path, "next").check()


def test_a_far_driver_is_replaced_only_after_its_heartbeat_stood_still(tmp_path):
    put(tmp_path, foreign(), age_s=119)
    with pytest.raises(StoreHeldError, match=r"last heartbeat 119 s ago"):
        acquire(tmp_path, "mine", heartbeat_s=0.01)
    put(tmp_path, foreign(), age_s=121)
    assert acquire(tmp_path, "mine", heartbeat_s=0.01).holder.run == "mine"


def test_a_far_driver_with_a_slow_clock_is_seen_to_beat(tmp_path, processes):
    # Its heartbeats are stamped an hour ago, yet they move: the driver lives.
    path = put(tmp_path, foreign(), age_s=3600)
    beats = f"""
import os, time
print("beating", flush=True)
while True:
    os.utime({str(path)!r}, (time.time() - 3600,) * 2)
    time.sleep(0.05)
"""
    processes(beats).stdout.readline()
    with pytest.raises(StoreHeldError):
        acquire(tmp_path, "mine", heartbeat_s=0.2)


def test_the_age_of_a_heartbeat_is_told_by_the_file_system_not_by_our_clock(tmp_path, monkeypatch):
    path = put(tmp_path, foreign(), age_s=100)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert seconds_since_written(LocalPlace(path)) == pytest.approx(100, abs=5)
    assert [file.name for file in path.parent.iterdir()] == ["lease.json"]


def test_a_requeued_slurm_job_takes_over_its_own_earlier_attempt(tmp_path, monkeypatch):
    put(tmp_path, foreign(slurm_job="7", slurm_restart=0))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    with pytest.raises(StoreHeldError, match="Slurm job 7 attempt 0"):
        acquire(tmp_path, "mine")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert acquire(tmp_path, "mine").holder.slurm_restart == 1


@pytest.mark.parametrize("state, gone", [("timeout", True), (None, False)])
def test_a_driver_in_another_job_is_dead_when_the_scheduler_says_so(state, gone):
    me = Holder.this_process("mine")
    reason = why_gone(foreign(slurm_job="9"), me, lambda job: state)
    assert (reason is not None) == gone
    assert not gone or reason == "Slurm job 9 is not running (timeout)"


def test_without_a_scheduler_to_ask_a_driver_in_another_job_may_live(tmp_path):
    put(tmp_path, foreign(slurm_job="9"))
    with pytest.raises(StoreHeldError, match="Slurm job 9 attempt 0"):
        acquire(tmp_path, "mine")
    assert acquire(tmp_path, "mine", job_ended=lambda job: "timeout").holder.run == "mine"


def test_a_job_of_another_slurm_is_not_asked_for_here():
    me = replace(Holder.this_process("mine"), slurm_job="9", slurm_restart=3, slurm_cluster="small")
    there = foreign(slurm_job="9", slurm_cluster="large")
    # Job 9 of this Slurm has ended, and was restarted as well; both say nothing of job 9 of the other one.
    assert why_gone(there, me, lambda job: "completed") is None
    same = replace(there, slurm_cluster="small")
    assert "started job 9 again" in why_gone(same, me, lambda job: "completed")


def test_a_number_given_to_another_process_is_not_the_driver():
    me = Holder.this_process("mine")
    same_number = replace(me, run="other", process_started=me.process_started - 1)
    assert "another one has its number" in why_gone(same_number, me)
    assert why_gone(replace(me, run="other"), me) is None


def test_a_claim_left_by_a_process_killed_within_a_take_over_blocks_nobody(tmp_path, processes):
    first = processes(HOLDER, tmp_path, "dead")
    first.stdout.readline()
    kill(first)
    claim = tmp_path / "_ledger" / "lease.claim"
    claim.write_text((tmp_path / "_ledger" / "lease.json").read_text())
    assert acquire(tmp_path, "mine").holder.run == "mine" and not claim.exists()


def test_a_lease_without_a_name_counts_by_its_age(tmp_path):
    path = put(tmp_path, foreign())
    path.write_text("")
    with pytest.raises(StoreHeldError, match="a run that did not write its name"):
        acquire(tmp_path, "mine")
    os.utime(path, (time.time() - 200,) * 2)
    assert acquire(tmp_path, "mine", heartbeat_s=0.01).holder.run == "mine"


def test_a_vanished_store_and_a_removed_lease_are_named(tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    mine = acquire(store, "mine")
    mine.file.remove()
    with pytest.raises(WorkError, match=r"lease .* was removed"):
        mine.check()
    store.rename(tmp_path / "elsewhere")
    mine.beat()
    with pytest.raises(WorkError, match=rf"store {store} has vanished"):
        mine.check()
    mine.release()
    assert not store.exists()


def test_run_ids_are_unique_and_sort_by_time():
    ids = [new_run_id() for _ in range(100)]
    assert len(set(ids)) == 100 and re.fullmatch(r"\d{8}T\d{6}-[0-9a-f]{6}", ids[0])
