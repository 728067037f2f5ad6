"""What a run says of itself: counts, status.json, the log, lines and table."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from engine_runs import fingerprints, run, taba

from cluster.pool.events import Event
from cluster.pool.executor import Outcome, Unit
from taba_core.errors import WorkError
from taba_core.store import Store
from taba_core.store.holder import Holder
from taba_core.store.lease import acquire, hold
from workflows.execution import run as runs
from workflows.execution.done import FailedUnitsError, Report
from workflows.execution.watch import Watcher, live
from workflows.execution.watch.runlog import RunLog
from workflows.execution.watch.status_file import progress_text, read_status, status_lines, write_status
from workflows.execution.watch.tally import Tally


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(time, "monotonic", lambda: Clock.now)
    return Clock


def outcome(name, weight=1.0, error=None, attempts=1, size=0):
    result = None if error else {"c0ffee": {"variables": {"latent": {"bytes": size}}}}
    return Outcome(
        Unit(name, None, label=f"unit {name}", weight=weight), result, error, attempts, 1.0, "w0", "n0"
    )


def start(tally, *names):
    for name in names:
        tally.event(Event("unit-started", name, 1, "w0", "n0"))


def test_counts_pace_and_time_left_are_those_of_the_events(clock):
    tally = Tally()
    tally.expect({"aa": ("generation", 3), "bb": ("inversion", 3)}, weight=3 * 4.0 + 3 * 2.0)
    for worker, node in (("w0", "n0"), ("w1", "n0"), ("w2", "n1")):
        tally.event(Event("worker-ready", worker=worker, node=node))
    start(tally, "aa/0", "aa/1", "aa/2")
    clock.now += 10
    tally.outcome(outcome("aa/0", 4.0, size=100))
    tally.outcome(outcome("aa/1", 4.0, size=50))
    start(tally, "bb/0")
    tally.event(Event("worker-lost", worker="w2", node="n1", detail="node is gone"))
    tally.event(Event("unit-retry", "aa/2", 1))
    seen = tally.snapshot()
    assert seen["units"] == {"units": 6, "done": 2, "failed": 0, "in_flight": 1}
    assert seen["artifacts"][0] == {"name": "generation", "units": 3, "done": 2, "failed": 0, "in_flight": 0}
    assert seen["workers"] == {"n0": 2} and (seen["workers_lost"], seen["retries"]) == (1, 1)
    assert seen["bytes_written"] == 150
    # 2 units in 10 s; weight 8 of 18 in 10 s, so the other 10 take 12.5 s.
    assert (seen["units_per_s"], seen["eta_s"]) == (0.2, 12.5)
    assert progress_text(seen) == (
        "starting: 2/6 units, 1 in flight, 1 retries, 0.2 units/s, about 12.5 s left, 2 workers on 1 node, 1 lost"
    )


def test_the_pace_is_that_of_the_last_ten_minutes(clock):
    tally = Tally()
    tally.expect({"aa": ("generation", 1000)}, weight=1000.0)
    start(tally, "aa/0")
    for number in range(100):  # one unit in 100 s, then one in 10 s
        clock.now += 100 if number < 30 else 10
        tally.outcome(outcome(f"aa/{number}"))
    # 60 points are kept: 59 units in 590 s, 900 units left.
    assert tally.snapshot()["units_per_s"] == 0.1
    assert tally.snapshot()["eta_s"] == pytest.approx(9000, rel=0.02)


def test_no_time_left_is_told_from_next_to_nothing(clock):
    tally = Tally()
    tally.expect({"aa": ("generation", 100)}, weight=100.0)
    assert tally.snapshot()["eta_s"] is None
    start(tally, "aa/0")
    clock.now += 60
    tally.outcome(outcome("aa/0"))  # 1 %, which paid for loading the model
    assert tally.snapshot()["eta_s"] is None


def test_a_restart_of_the_cluster_keeps_what_was_done(clock):
    tally = Tally()
    tally.expect({"aa": ("generation", 4)}, weight=4.0)
    start(tally, "aa/0", "aa/1")
    tally.outcome(outcome("aa/0"))
    tally.expect({"aa": ("generation", 3)}, weight=3.0)
    assert tally.snapshot()["units"] == {"units": 4, "done": 1, "failed": 0, "in_flight": 0}


def test_failures_are_listed_by_name_up_to_a_hundred():
    tally = Tally()
    tally.expect({"aa": ("generation", 300)}, weight=300.0)
    for number in range(300):
        tally.outcome(outcome(f"aa/{number}", error="ValueError: bad", attempts=4))
    seen = tally.snapshot()
    assert seen["units"]["failed"] == 300 and len(seen["failures"]) == 100
    assert seen["failures"][0]["unit"] == "aa/0" and seen["failures"][0]["error"] == "ValueError: bad"


def status_of(**changes):
    tally = Tally(stage="compute")
    tally.expect({"aa": ("generation", 2)}, weight=2.0)
    tally.outcome(outcome("aa/1", error="trace\nValueError: bad", attempts=4))
    driver = Holder.this_process("r1").to_json()
    return {"state": "running", "run": "r1", "driver": driver, "started": "S", "updated": "U", "error": "",
            "command": "taba run x", **tally.snapshot(), **changes}  # fmt: skip


def test_a_status_in_words_names_state_driver_and_failed_units(tmp_path):
    (tmp_path / "_ledger").mkdir()
    write_status(tmp_path, status_of(executor="Ray on this machine"))
    lines = status_lines(read_status(tmp_path))
    assert lines == [
        "run r1: running (started S, updated U)",
        f"  taba run x; process {os.getpid()} on {os.uname().nodename}",
        "  Ray on this machine",
        "  compute: 0/2 units, 1 failed",
        "  failed after 4 attempts: unit aa/1 (aa/1): ValueError: bad; the next run tries it again",
    ]


def test_a_status_of_a_dead_or_silent_driver_is_stale(tmp_path):
    (tmp_path / "_ledger").mkdir()
    ended = subprocess.Popen(["true"])
    ended.wait()
    driver = replace(Holder.this_process("r1"), pid=ended.pid)
    write_status(tmp_path, status_of(driver=driver.to_json()))
    gone = f"its process {ended.pid} has ended without a last word"
    assert read_status(tmp_path)["stale"] == gone
    assert status_lines(read_status(tmp_path))[0].startswith(f"run r1: running, but STALE: {gone}")
    far = replace(driver, boot="another machine")
    write_status(tmp_path, status_of(driver=far.to_json()))
    assert "stale" not in read_status(tmp_path)
    os.utime(tmp_path / "_ledger" / "status.json", (time.time() - 90,) * 2)
    assert read_status(tmp_path)["stale"] == "no sign of life for 90.0 s"
    write_status(tmp_path, status_of(state="finished", driver=driver.to_json()))
    assert "stale" not in read_status(tmp_path)


def test_a_store_without_or_with_a_broken_status_has_none(tmp_path):
    assert read_status(tmp_path) is None
    write_status(tmp_path, status_of())  # no ledger: the store vanished, and is not made again
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "_ledger").mkdir()
    (tmp_path / "_ledger" / "status.json").write_text("{")
    assert read_status(tmp_path) is None


def test_the_log_is_one_object_a_line_without_empty_fields(tmp_path):
    (tmp_path / "_ledger").mkdir()
    log = RunLog(tmp_path, "r1")
    log.write("unit-retry", unit="aa/0", attempt=2, gpu="", seconds=0.0, detail="two\nlines")
    (line,) = (tmp_path / "_ledger" / "logs" / "r1.jsonl").read_text().splitlines()  # before it is closed
    entry = json.loads(line)
    assert entry.pop("time").endswith("+00:00")
    assert entry == {"event": "unit-retry", "unit": "aa/0", "attempt": 2, "detail": "two\nlines"}
    log.close()


def test_a_log_does_not_make_a_store_that_vanished(tmp_path):
    with pytest.raises(WorkError, match="No such file"):
        RunLog(tmp_path / "gone", "r1")
    assert not (tmp_path / "gone").exists()


def test_a_batch_log_gets_a_line_every_half_minute_and_one_at_the_end(clock, capsys):
    status = {"stage": "compute", "units": {"units": 4, "done": 0, "failed": 0, "in_flight": 1}}
    lines = live.Lines(lambda: status)
    for second in range(65):
        clock.now = 1000.0 + second
        status["units"]["done"] = second // 20
        lines.tick()
    lines.stop()
    lines.stop()
    printed = [line.split(" ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert printed == [f"compute: {done}/4 units, 1 in flight" for done in (1, 3)]


def test_the_table_shows_artifacts_totals_and_workers():
    from rich.console import Console

    tally = Tally(stage="compute")
    tally.expect({"aa": ("generation", 3), "bb": ("inversion", 1)}, weight=4.0)
    tally.event(Event("worker-ready", worker="w0", node="n0"))
    tally.event(Event("worker-lost", worker="w9", node="n9", detail="x"))
    start(tally, "aa/0", "aa/1")
    tally.outcome(outcome("aa/0"))
    tally.outcome(outcome("bb/0", error="bad", attempts=4))
    console = Console(file=io.StringIO(), width=100)
    console.print(live.table(tally.snapshot()))
    rows = [line.split() for line in console.file.getvalue().splitlines()]
    assert rows[0] == ["compute", "done", "failed", "in", "flight"]
    assert rows[1][:4] == ["generation", "1/3", "-", "1"]
    assert rows[2][:4] == ["inversion", "0/1", "1", "-"]
    assert rows[3][:4] == ["all", "1/4", "1", "1"]
    assert " ".join(rows[4]).endswith("workers: n0 1, 1 lost")


def test_the_live_table_is_drawn_on_a_terminal(tmp_path, monkeypatch, capfd):
    parent, child = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(child, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        assert run(tmp_path / "s") == 0
        seen = os.read(parent, 100_000)
    os.close(parent)
    assert b"gaussian-generation-" in seen and b"2/2" in seen and b"units/s" in seen
    assert "units/s" not in capfd.readouterr().out  # the table is not among the results


@pytest.mark.parametrize(
    "error, state",
    [
        (None, "finished"),
        (KeyboardInterrupt("stopped by SIGTERM"), "drained"),
        (WorkError("no disk"), "failed"),
    ],
)
def test_the_last_status_and_log_line_say_how_a_run_ended(tmp_path, error, state):
    with hold(tmp_path, "r1") as lease:
        try:
            with Watcher(tmp_path, lease, "taba run x"):
                if error:
                    raise error
        except (KeyboardInterrupt, WorkError):
            pass
    status = read_status(tmp_path)
    assert status["state"] == state and status["error"] == str(error or "")
    log = (tmp_path / "_ledger" / "logs" / "r1.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in log] == ["run-started", f"run-{state}"]


def test_a_driver_that_lost_its_store_leaves_the_others_status_alone(tmp_path):
    lease = acquire(tmp_path, "r1")
    with Watcher(tmp_path, lease, "taba run x"):
        lease.file.remove()
        acquire(tmp_path, "r2")
        write_status(tmp_path, {"state": "running", "run": "r2"})
    assert read_status(tmp_path)["run"] == "r2"
    assert "run-finished" not in (tmp_path / "_ledger" / "logs" / "r1.jsonl").read_text()


@pytest.fixture
def poisoned(monkeypatch):
    """Shard 1 of the inversion raises whenever it is tried; retries come at once."""
    from cluster.pool.local import LocalExecutor
    from workflows.compute import worker

    class Worker(worker.ShardWorker):
        def run(self, task):
            if task.parts[0].attrs["kind"] == "inversion" and task.shard == 1:
                raise ValueError("poisoned")
            return super().run(task)

    quick = LocalExecutor.__init__
    with monkeypatch.context() as patch:
        patch.setattr(worker, "ShardWorker", Worker)
        patch.setattr(LocalExecutor, "__init__", lambda self, **given: quick(self, **given, retry_delay=0.0))
        yield patch


def test_a_unit_given_up_is_named_everywhere_and_tried_again_by_the_next_run(tmp_path, poisoned, capsys):
    store = tmp_path / "store"
    assert run(store) == 3
    assert "1 of 4 units failed" in capsys.readouterr().err
    status = read_status(store)
    assert status["state"] == "failed"
    assert status["units"] == {"units": 4, "done": 3, "failed": 1, "in_flight": 0}
    (failure,) = status["failures"]
    assert failure["attempts"] == 4 and failure["error"] == "ValueError: poisoned"
    (log,) = (store / "_ledger" / "logs").glob("*.jsonl")
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    (last,) = [entry for entry in entries if entry["event"] == "unit-failed"]
    assert (
        last["unit"] == failure["unit"]
        and last["attempt"] == 4
        and 'raise ValueError("poisoned")' in last["trace"]
    )
    assert sum(entry["event"] == "unit-started" for entry in entries) == 3 + 4
    assert taba("status", "--store", store) == 0
    assert (
        f"({failure['unit']}): ValueError: poisoned; the next run tries it again" in capsys.readouterr().out
    )
    assert [name.split("-")[1] for name in Store.open(store).results()] == [
        "step"
    ]  # step-error reads no latents
    poisoned.undo()
    assert run(store) == 0
    assert read_status(store)["units"] == {"units": 1, "done": 1, "failed": 0, "in_flight": 0}
    assert run(tmp_path / "calm") == 0
    assert fingerprints(store) == fingerprints(tmp_path / "calm")


def test_failed_units_of_one_model_do_not_keep_the_next_from_running(monkeypatch):
    def run_together(plans, *_):
        ran.append([plan.context.title for plan in plans])
        failed = FailedUnitsError("1 of 8 units failed.")
        return [Report(failed=None if plan.context.title == "B" else failed) for plan in plans]

    ran = []
    monkeypatch.setattr(runs, "run_together", run_together)
    plans = [
        SimpleNamespace(
            artifacts=[], context=SimpleNamespace(title=title, card=SimpleNamespace(embedded=title == "A"))
        )
        for title in "ABC"
    ]
    # The first has other workers than the two that share a queue.
    chosen = {True: (None, "cores", 2), False: (None, "devices", 2)}
    with pytest.raises(FailedUnitsError) as failed:
        runs._run_each(plans, None, chosen, None, {})
    assert ran == [["A"], ["B", "C"]]
    assert str(failed.value) == "A: 1 of 8 units failed. C: 1 of 8 units failed."


def test_a_log_that_cannot_be_written_does_not_stop_the_heartbeat(tmp_path, monkeypatch):
    class Closed(live.Lines):
        def tick(self):
            raise BrokenPipeError("the reader of the log has gone")

    class Lease:
        holder, beats = Holder("mine"), 0

        def check(self):
            pass

        def beat(self):
            Lease.beats += 1

    monkeypatch.setattr("workflows.execution.watch.watcher.display", Closed)
    monkeypatch.setattr("workflows.execution.watch.watcher._TICK_S", 0.01)
    monkeypatch.setattr("workflows.execution.watch.watcher.HEARTBEAT_S", 0.01)
    (tmp_path / "_ledger").mkdir()
    with Watcher(tmp_path, Lease(), "taba run") as watcher:
        watcher._showing = True
        time.sleep(0.3)
    assert Lease.beats > 2
