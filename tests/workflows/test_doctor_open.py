"""`taba doctor` against real Ray heads, open and locked."""

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

from workflows.doctor import access
from workflows.doctor.finding import Subject

GIB = 2**30
ROOT = Path(__file__).parent.parent.parent

# -------------------------------------------------------------------- real clusters, open and locked


class Head:
    """A Ray head of one core, open or with a token, in a private directory; ended with its process group."""

    def __init__(self, folder: Path, mode: str, port: int) -> None:
        self.address, self.client = f"127.0.0.1:{port}", f"ray://127.0.0.1:{port + 2}"
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
            "HOME": str(folder), "RAY_AUTH_MODE": mode, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        if mode == "token":
            self.token = folder / "token"
            self.token.write_text("0123456789abcdef" * 2)
            self.token.chmod(0o600)
            self.environ["RAY_AUTH_TOKEN_PATH"] = str(self.token)
        self.log = folder / "log"
        command = [
            str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}",
            f"--dashboard-port={port + 1}", f"--ray-client-server-port={port + 2}", "--node-ip-address=127.0.0.1",
            f"--dashboard-agent-listen-port={port + 3}", f"--temp-dir={folder}/r", "--num-cpus=1",
            "--object-store-memory=80000000", "--disable-usage-stats",
        ]  # fmt: skip
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, env=self.environ, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self) -> None:
        until = time.monotonic() + 60
        while "runtime started" not in self.log.read_text():
            assert self.process.poll() is None and time.monotonic() < until, self.log.read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        self.process.terminate()  # the leader alone: it takes its children along
        try:
            self.process.wait(20)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def doctor(self, *arguments: str) -> tuple[int, dict[str, dict]]:
        done = subprocess.run(
            [sys.executable, "-m", "workflows", "doctor", "--json", "--address", self.address, *arguments],
            env=self.environ, cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.stdout, done.stderr
        return done.returncode, {row["check"]: row for row in json.loads(done.stdout)["findings"]}


@pytest.fixture
def head_of(request):

    folder = Path(tempfile.mkdtemp(prefix="taba-t", dir="/tmp"))  # short, and 0700
    heads = []

    def start(mode: str) -> Head:
        # Below the ephemeral ports; another worker of the suite takes others.
        heads.append(Head(folder, mode, 27000 + 10 * (os.getpid() % 400)))
        heads[-1].wait()
        return heads[-1]

    yield start
    for head in heads:
        head.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.cluster
def test_an_open_cluster_fails_and_its_nodes_are_examined(head_of, tmp_path):
    head = head_of("disabled")
    code, found = head.doctor("--store", str(tmp_path / "run"))
    assert code == 1
    assert found["cluster locked"]["status"] == found["dashboard locked"]["status"] == "FAIL"
    assert f"{head.address} answers without a token" in found["cluster locked"]["found"]
    assert "RAY_AUTH_MODE=token" in found["cluster locked"]["remedy"]
    assert found["alive"]["found"] == "1 nodes, 0 GPUs, 1 cores"
    assert {
        name: found[name]["status"] for name in ("alive", "same software", "clocks", "shared store")
    } == dict.fromkeys(("alive", "same software", "clocks", "shared store"), "ok")
    assert list(tmp_path.iterdir()) == []
    client = access.cluster_locked(Subject(address=head.client, environ={}))
    assert client.status == "FAIL"


@pytest.mark.slow
@pytest.mark.cluster
def test_a_cluster_with_a_token_passes_until_others_can_read_the_token(head_of):
    head = head_of("token")
    _, found = head.doctor()
    names = (
        "token mode",
        "token file",
        "cluster locked",
        "dashboard locked",
        "alive",
        "same software",
        "clocks",
    )
    assert {name: found[name]["status"] for name in names} == dict.fromkeys(names, "ok")
    assert access.cluster_locked(Subject(address=head.client, environ={})).status == "ok"
    head.token.chmod(0o644)
    code, found = head.doctor()
    assert code == 1
    assert found["token file"]["status"] == "FAIL"
    assert found["cluster locked"]["status"] == "ok"
