"""`taba doctor` against real Ray heads: one that is open, one with a token."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from workflows.doctor import access, nodes
from workflows.doctor.finding import Ran, Subject

ROOT = Path(__file__).parent.parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.cluster]


class Head:
    """A Ray head of one core in a private directory; ended with its process group."""

    def __init__(self, folder: Path, mode: str, port: int) -> None:
        self.address, self.client = f"127.0.0.1:{port}", f"ray://127.0.0.1:{port + 2}"
        home = folder / mode
        home.mkdir(mode=0o700)
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
        self.environ = clean | {"HOME": str(home), "RAY_AUTH_MODE": mode, "PYTHONPATH": str(ROOT)}
        if mode == "token":
            self.token = home / "token"
            self.token.write_text("0123456789abcdef" * 2)
            self.token.chmod(0o600)
            self.environ["RAY_AUTH_TOKEN_PATH"] = str(self.token)
        command = [
            str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1",
            f"--port={port}", f"--dashboard-port={port + 1}", f"--ray-client-server-port={port + 2}",
            f"--dashboard-agent-listen-port={port + 3}", f"--temp-dir={home}/r", "--num-cpus=1",
            "--object-store-memory=80000000", "--disable-usage-stats",
        ]  # fmt: skip
        self.log = home / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, env=self.environ, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self) -> None:
        until = time.monotonic() + 150
        while "runtime started" not in self.log.read_text():
            assert self.process.poll() is None and time.monotonic() < until, self.log.read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        try:
            self.process.wait(20)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def run(self, command, timeout: float = 200.0) -> Ran:
        done = subprocess.run(
            command, env=self.environ, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def subject(self) -> Subject:
        return Subject(address=self.address, environ=self.environ, run=self.run)


@pytest.fixture(scope="module")
def heads():
    folder = Path(tempfile.mkdtemp(prefix="taba-t", dir="/tmp"))  # Ray's sockets want a short path
    # Below the ephemeral ports; another run of the tests takes others.
    port = 27000 + 10 * (os.getpid() % 400)
    started = {mode: Head(folder, mode, port + 5 * index) for index, mode in enumerate(("disabled", "token"))}
    try:
        for head in started.values():
            head.wait()
        yield started
    finally:
        for head in started.values():
            head.process.terminate()  # the leader alone: it takes its children along
        for head in started.values():
            head.stop()
        shutil.rmtree(folder, ignore_errors=True)


def test_an_open_cluster_fails_and_its_nodes_are_examined(heads, tmp_path):
    head = heads["disabled"]
    place = ["--address", head.address, "--store", str(tmp_path / "run")]
    ran = head.run([sys.executable, "-m", "workflows", "doctor", "--json", *place])
    assert ran.code == 1
    found = {row["check"]: row for row in json.loads(ran.output)["findings"]}
    for name in ("cluster locked", "dashboard locked", "token mode"):
        assert found[name]["status"] == "FAIL"
        assert "RAY_AUTH_MODE=token" in found[name]["remedy"]
    assert f"{head.address} answers without a token" in found["cluster locked"]["found"]
    assert found["alive"]["found"] == "1 nodes, 0 GPUs, 1 cores"
    for name in ("alive", "same software", "clocks", "shared store", "scratch there", "native imports"):
        assert found[name]["status"] in ("ok", "warn"), found[name]
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_with_a_token_passes_until_others_can_read_the_token(heads):
    head = heads["token"]
    subject = head.subject()
    checks = (
        access.token_mode, access.token_file, access.cluster_locked, access.dashboard_locked, nodes.alive,
        nodes.same_software, nodes.clocks,
    )  # fmt: skip
    assert {check(subject).status for check in checks} == {"ok"}
    head.token.chmod(0o644)
    assert access.token_file(subject).status == "FAIL"
    assert access.cluster_locked(subject).status == "ok"


JOIN = """
import sys
from cluster.pool.executor import ClusterError
from cluster.ray.session import RaySession
try:
    session = RaySession(sys.argv[1], num_cpus=1 if sys.argv[1] == "local" else None)
    print("joined", session.local)
    session.close()
except ClusterError as error:
    print(error)
"""


@pytest.mark.follows("Start one (`ray start --head`) and join it from this machine, or ", printed=True)
@pytest.mark.follows(
    "A cluster with a token needs RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH here too.", printed=True
)
def test_a_cluster_is_started_and_joined_as_the_message_of_a_refused_connection_says(heads):
    head = heads["token"]

    def join(address, **environ):
        command = ["env", *(f"-u{name}" for name, value in environ.items() if value is None)]
        command += [f"{name}={value}" for name, value in environ.items() if value is not None]
        return head.run([*command, sys.executable, "-c", JOIN, address]).output

    said = join("127.0.0.1:9", RAY_ADDRESS="http://127.0.0.1:8265")
    assert (
        "Start one (`ray start --head`) and join it from this machine, or use the address 'local' to run"
        in said
    )
    assert "needs RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH here too." in said
    assert "RAY_ADDRESS" not in said and join(head.address).endswith("joined False\n")
    assert join("local", RAY_ADDRESS="127.0.0.1:9").endswith("joined True\n")
    assert join("", RAY_ADDRESS=head.address).endswith("joined False\n")


def test_behind_a_ray_client_the_head_is_asked_that_the_nodes_name(heads):
    head = heads["disabled"]
    found = access.cluster_locked(Subject(address=head.client, environ=head.environ, run=head.run))
    port = head.address.rpartition(":")[2]
    assert found.status == "FAIL" and f":{port} answers without a token" in found.found
