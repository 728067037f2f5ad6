"""Nothing can be killed to any effect: worker, raylet or driver, at any moment."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time

import pytest

from workflows.bench import chaos


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_four_random_kills_lose_double_tear_and_change_nothing():
    found = chaos.measure(kills=4).figures
    assert {name: found[name] for name in chaos.CHECKS} == dict.fromkeys(chaos.CHECKS, 0.0)
    kills = {kind: found[f"kills of {kind}"] for kind in chaos.KINDS}
    assert kills == {"worker": 2, "raylet": 1, "driver": 1}
    assert found["starts"] >= 2  # the first, and one after the killed driver


def test_processes_below_a_driver_are_found_however_deep():
    deep = "import subprocess, sys; subprocess.run(['sleep', '60'])"
    shell = subprocess.Popen([sys.executable, "-c", deep])
    try:
        deadline = time.monotonic() + 20
        while not (found := chaos.descendants(os.getpid())) or shell.pid not in found or len(found) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert chaos.victims_of(shell.pid, "driver") == [shell.pid]
        assert chaos.victims_of(shell.pid, "raylet") == []
    finally:
        for pid in [*chaos.descendants(shell.pid), shell.pid]:
            os.kill(pid, 9)
        shell.wait()


def test_every_kill_is_done_and_a_driver_that_ended_is_started_again(tmp_path, monkeypatch):
    # A driver that writes a receipt every 50 ms; its "workers" and "raylets" are the driver itself.
    code = (
        "import sys, time\n"
        "while True:\n"
        "    with open(sys.argv[1], 'a') as ledger: ledger.write('\"receipt\"')\n"
        "    time.sleep(0.05)\n"
    )
    monkeypatch.setattr(chaos, "victims_of", lambda driver, kind: [driver])
    command = [sys.executable, "-c", code, str(tmp_path / "photo-mixture-x.jsonl")]
    with (tmp_path / "log").open("w") as log:
        run = chaos.Disturbed(command, tmp_path, log)
        try:
            assert chaos.disturb(run, 4, random.Random(1)) is False
        finally:
            run.driver.kill()
            run.driver.wait()
    assert run.kills == {"worker": 2, "raylet": 1, "driver": 1} and run.starts in (4, 5)
