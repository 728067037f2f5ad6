"""`ray job submit` to a real cluster of two nodes on this machine, started by slurm/cluster.sh on doubles of Slurm.

Whatever uses the token is a process of its own: one that has read a token once keeps it. The directory that everything
is started in, the batch job too, holds files and packages with the names of modules: none of them may be imported.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import shadow_modules

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900)]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# As console scripts do, Python is told not to look for modules in the current directory.
RAY = [sys.executable, "-P", "-m", "ray.scripts.scripts"]
SIZE = (
    "--model gaussian --no-report --set num_samples=16 --set num_inference_steps=4 --set samples_per_shard=4"
)


class Cluster:
    """slurm/cluster.sh, and the shell of a user on the login node."""

    def __init__(self, directory: Path, local: Path) -> None:
        self.directory, self.local = directory, local
        (directory / "shim").mkdir()
        (directory / "home").mkdir()  # without a token of the user's own
        shadow_modules.fill(directory)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "SLURM_", "TABA_RUN"))}
        self.login = kept | {
            "PATH": f"{HERE / 'shims'}:{os.environ['PATH']}",
            "SHIM_DIR": str(directory / "shim"),
            "HOME": str(directory / "home"),
            "TABA_RUN_DIR": str(directory / "runs"),
            "PYTHONPATH": str(ROOT),
        }
        batch = self.login | {
            "SLURM_JOB_ID": str(40000 + os.getpid()),
            "SLURM_NNODES": "2",
            "SLURM_JOB_NODELIST": "shim[0-1]",
            "SLURM_CPUS_PER_TASK": "1",
            "SLURM_GPUS_ON_NODE": "2",
            "TABA_PYTHON": sys.executable,
            "TABA_LOCAL_TMP": str(local),
            "TABA_HEAD_IFACE": "lo",
            "TABA_OBJECT_STORE_BYTES": "100000000",
        }
        self.job = batch["SLURM_JOB_ID"]
        self.log = directory / "batch.log"
        with self.log.open("w") as log:
            self.batch = subprocess.Popen(
                ["bash", str(ROOT / "slurm/cluster.sh"), "--idle-minutes", "10"],
                env=batch,
                cwd=directory,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def taba(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.call([sys.executable, "-P", "-m", "workflows", *arguments])

    def submit(self, command: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        # `python` there is the launcher's, whatever the path of the login node says, and safe from the directory.
        entry = ["python", "-m", "workflows", *shlex.split(command)]
        return self.call([*RAY, "job", "submit", *options, "--", *entry], **environment)

    def call(self, command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            env=self.login | environment,
            capture_output=True,
            text=True,
            timeout=500,
            cwd=self.directory,
        )
        done.stdout = re.sub(r"\x1b\[\d+m", "", done.stdout + done.stderr)
        return done

    def wait(self) -> None:
        end = time.monotonic() + 200
        while " nodes after " not in self.log.read_text():
            assert self.batch.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.3)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    local = Path(f"/tmp/j{os.getpid()}")  # short, as Ray's sockets demand
    local.mkdir()
    one = Cluster(tmp_path_factory.mktemp("submit"), local)
    try:
        one.wait()
        yield one
    finally:
        if one.batch.poll() is None:
            one.taba("cluster", "drain", one.job)
            one.batch.wait(120)
    assert list(local.iterdir()) == [], "node-local directories must go with the job"
    local.rmdir()


@pytest.fixture(scope="module")
def inside(cluster):
    """The variables of `taba cluster env`, as a shell takes them."""
    script = f'set -e; eval "$({sys.executable} -P -m workflows cluster env {cluster.job})"; env'
    found = cluster.call(["bash", "-c", script])
    assert found.returncode == 0, found.stdout
    return {
        name: value
        for name, _, value in (line.partition("=") for line in found.stdout.splitlines())
        if name.startswith("RAY_")
    }


def test_both_nodes_are_alive_and_said_to_be(cluster, inside):
    # The launcher says that the nodes are up a moment before its driver is.
    end = time.monotonic() + 30
    while "driver: running" not in (said := cluster.taba("cluster", "status", cluster.job, "--live").stdout):
        assert time.monotonic() < end, said
    assert "2 of 2 nodes up" in said and "live: 2 of 2 nodes" in said


def test_nobody_gets_in_without_the_token_or_with_another(cluster, inside, tmp_path):
    address = {"RAY_API_SERVER_ADDRESS": inside["RAY_API_SERVER_ADDRESS"]}
    without = cluster.submit("list", RAY_AUTH_MODE="disabled", **address)
    assert without.returncode != 0 and "authentication is enabled" in without.stdout
    wrong = tmp_path / "token"
    wrong.write_text("f" * 64)
    wrong.chmod(0o600)
    other = cluster.submit("list", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(wrong), **address)
    assert other.returncode != 0 and "Invalid authentication token" in other.stdout
    refused = [ask(inside, token) for token in (None, wrong.read_text())]
    assert [code for code, _ in refused] == [401, 403]
    assert ask(inside, Path(inside["RAY_AUTH_TOKEN_PATH"]).read_text())[0] == 200


def ask(inside: dict[str, str], token: str | None, job: str = "") -> tuple[int, Any]:
    """What the Jobs API itself answers, past Ray's own client: HTTP status and content."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"{inside['RAY_API_SERVER_ADDRESS']}/api/jobs/{job}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, None


def job_status(inside: dict[str, str], job: str) -> str:
    return ask(inside, Path(inside["RAY_AUTH_TOKEN_PATH"]).read_text(), job)[1]["status"]


def test_a_study_runs_as_a_job_streams_its_log_and_a_second_submission_finds_it_done(
    cluster, inside, tmp_path
):
    run = f"run correlation {SIZE} --store {tmp_path}/store"
    first = cluster.submit(run, "--submission-id", "first", **inside)
    assert first.returncode == 0, first.stdout
    assert "8 of 8 shards to compute" in first.stdout and "computed 8 units" in first.stdout
    assert "Job 'first' succeeded" in first.stdout
    assert job_status(inside, "first") == "SUCCEEDED"
    assert shadow_modules.SAID not in cluster.log.read_text() + first.stdout
    again = cluster.submit(run, **inside)
    assert again.returncode == 0, again.stdout
    assert "0 of 8 shards to compute" in again.stdout


def test_a_study_that_fails_is_a_job_that_failed(cluster, inside):
    done = cluster.submit("run no-such-study", "--submission-id", "failing", **inside)
    assert done.returncode == 1
    assert "unknown study 'no-such-study'" in done.stdout
    assert job_status(inside, "failing") == "FAILED"


def test_a_drain_stops_the_jobs_of_the_cluster_and_ends_it(cluster, inside, tmp_path):
    store = tmp_path / "store"
    run = f"run correlation {SIZE} --store {store}".replace("num_samples=16", "num_samples=20000")
    assert cluster.submit(run, "--no-wait", "--submission-id", "long", **inside).returncode == 0
    end = time.monotonic() + 120
    while not list((store / "_ledger").glob("gaussian-*.jsonl")):
        assert time.monotonic() < end, cluster.call([*RAY, "job", "logs", "long"], **inside).stdout
        time.sleep(0.3)
    follower = [*RAY, "job", "logs", "--follow", "long"]
    with subprocess.Popen(
        follower, env=cluster.login | inside, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as logs:
        time.sleep(3)
        assert cluster.taba("cluster", "drain", cluster.job).returncode == 0
        said, _ = logs.communicate(timeout=100)
    assert "stopped by the file" in said and "the same command resumes" in said
    assert cluster.batch.wait(120) == 0
    assert "taba: drained" in cluster.log.read_text()
    assert "requeue" not in (cluster.directory / "shim" / "log").read_text()
