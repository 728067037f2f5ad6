"""`taba cluster env | status | drain`: what a login node knows of a cluster, from files alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time

import pytest

from cluster.slurm.allocation import NoAllocation, find_allocation
from workflows.__main__ import main


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """The run directory of job 4711 in its second attempt, as slurm/cluster.sh leaves it while it runs."""
    run = tmp_path / "my runs" / "4711"
    for attempt in (0, 1):
        (run / f"attempt-{attempt}").mkdir(parents=True)
    (run / "attempt-0" / "rc").write_text("85\n")
    (run / "token").write_text("0" * 64)
    (run / "token").chmod(0o600)
    told = {
        "job_id": "4711",
        "attempt": 1,
        "address": "10.0.0.1:20004",
        "dashboard": "http://10.0.0.1:20005",
        "token_path": str(run / "token"),
        "nodes": 3,
        "head": "nid001",
        "started": "2026-01-02T03:04:05Z",
        "requeue": True,
    }
    (run / "cluster.json").write_text(json.dumps(told))
    attempt = run / "attempt-1"
    for number, state in enumerate(("up", "lost", "left")):
        (attempt / f"node-{number}").write_text(
            f"{state} nid00{number} 10.0.0.{number} {time.time() - 600:.0f}\n"
        )
    (attempt / "driver").write_text("running\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "squeue").write_text("#!/bin/sh\necho RUNNING\n")
    (tmp_path / "bin" / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("TABA_RUN_DIR", str(run.parent))
    return run


def taba(capsys, *arguments: str) -> tuple[int, str, str]:
    try:
        main(["cluster", *arguments])
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


def test_env_is_for_the_shell_and_says_how_to_tunnel(runs, capsys):
    code, out, _ = taba(capsys, "env", "4711")
    assert code == 0
    show = 'echo "$RAY_API_SERVER_ADDRESS|$RAY_AUTH_MODE|$RAY_AUTH_TOKEN_PATH|$RAY_ADDRESS"'
    evaluated = subprocess.run(["bash", "-c", f"{out}\n{show}"], capture_output=True, text=True, check=True)
    assert evaluated.stdout.strip() == f"http://10.0.0.1:20005|token|{runs}/token|10.0.0.1:20004"
    assert "ssh -N -L 20005:10.0.0.1:20005 LOGIN_NODE" in out
    assert "0" * 64 not in out  # the path, never the token


@pytest.mark.follows(
    " Another directory: --run-dir or TABA_RUN_DIR.", ": others can run code as you on this cluster. "
)
def test_env_refuses_what_cannot_work_and_its_ways_out_work(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TABA_RUN_DIR", str(tmp_path))
    code, _, err = taba(capsys, "env", "4711")
    assert code == 2 and "There is none. Another directory: --run-dir or TABA_RUN_DIR." in err
    assert taba(capsys, "env", "4711", "--run-dir", str(runs.parent))[0] == 0
    monkeypatch.setenv("TABA_RUN_DIR", str(runs.parent))
    assert taba(capsys, "env", "4711")[0] == 0
    code, _, err = taba(capsys, "env", "12")
    assert code == 2
    assert f"no cluster of job 12 in {runs.parent}. There are: 4711." in err
    runs.joinpath("token").chmod(0o640)
    code, _, err = taba(capsys, "env", "4711")
    assert code == 2 and "has mode 640: others can run code as you" in err
    subprocess.run(
        ["bash", "-c", re.findall(r"chmod 600 .*", err)[0].replace("my runs", "my\\ runs")], check=True
    )
    assert taba(capsys, "env", "4711")[0] == 0
    runs.joinpath("attempt-1/rc").write_text("0\n")
    code, _, err = taba(capsys, "env", "4711")
    assert code == 1 and "the cluster of job 4711 has ended with status 0" in err
    told = json.loads(runs.joinpath("cluster.json").read_text())
    runs.joinpath("cluster.json").write_text(json.dumps(told | {"dashboard": None}))
    code, _, err = taba(capsys, "env", "4711", "--run-dir", str(runs.parent))
    assert code == 2 and "takes no jobs. slurm/cluster.sh holds a cluster" in err
    runs.joinpath("cluster.json").write_text("{")
    code, _, err = taba(capsys, "env", "4711")
    assert code == 2 and "cluster.json cannot be read: JSONDecodeError" in err


def test_status_reads_the_latest_attempt_and_asks_slurm(runs, capsys):
    code, out, _ = taba(capsys, "status", "4711")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "job 4711: RUNNING; attempt 1, started 2026-01-02T03:04:05Z"
    assert lines[1] == "cluster: 10.0.0.1:20004 on nid001, 1 of 3 nodes up"
    assert lines[2] == "driver: running"
    assert [line.split()[:4] for line in lines[-3:]] == [
        ["0", "nid000", "10.0.0.0", "up"],
        ["1", "nid001", "10.0.0.1", "lost"],
        ["2", "nid002", "10.0.0.2", "left"],
    ]
    assert lines[-1].endswith("10.0 min")


@pytest.mark.parametrize(
    ("option", "text"), ((["--requeue"], "requeue\n"), (["--no-requeue"], "no-requeue\n"))
)
def test_drain_writes_the_file_the_runs_and_the_batch_script_look_at(runs, capsys, option, text):
    code, out, _ = taba(capsys, "drain", "4711", *option)
    assert code == 0
    assert (runs / "attempt-1" / "drain").read_text() == text
    assert ("is requeued and goes on" in out) == (option == ["--requeue"])
    assert find_allocation("4711").driver_state() == "running, draining"
    assert not (runs / "attempt-0" / "drain").exists()


def test_a_run_that_has_ended_cannot_be_drained(runs, capsys):
    (runs / "attempt-1" / "rc").write_text("3\n")
    code, _, err = taba(capsys, "drain", "4711")
    assert code == 1 and "the run of job 4711 has ended with status 3; there is nothing to drain" in err
    (runs / "attempt-1" / "rc").unlink()
    (runs / "attempt-1" / "done").touch()
    code, _, err = taba(capsys, "drain", "4711")
    assert code == 1 and "has ended with the Ray of the head node" in err


def test_a_job_id_is_looked_for_where_the_user_says(tmp_path, monkeypatch):
    monkeypatch.delenv("TABA_RUN_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NoAllocation, match=rf"in {tmp_path}/runs/slurm. There is none."):
        find_allocation("1")
