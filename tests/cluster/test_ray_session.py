"""A private Ray cluster is locked, quiet, leaves nothing behind; a missing one is a clear error."""

import http.server
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

import cluster
from cluster import ClusterUnreachable, RayExecutor, Resources, Unit
from cluster.ray.scratch import PrivateDirectory

pytestmark = pytest.mark.usefixtures("no_ray")
HERE = Path(__file__).parent
ROOT = Path(cluster.__file__).parents[1]

SCRIPT = f"""
import os, sys, time
sys.path[:0] = [{str(ROOT)!r}, {str(HERE)!r}]
import cluster_workers as workers
from cluster import Drained, RayExecutor, Resources, Unit
assert "ray" not in sys.modules
"""
LOOK = """
with RayExecutor("local", num_workers=1) as executor:
    outcomes = list(executor.execute([Unit("a", 5)], workers.Echo, Resources()))
    temp = os.environ["TMPDIR"]
    (private,) = [name for name in os.listdir(temp) if name.startswith("taba-")]
    mode = lambda *path: oct(os.stat(os.path.join(temp, private, *path)).st_mode)[-3:]
    print(outcomes[0].result, mode(), mode("token"), os.environ["RAY_AUTH_MODE"])
print("RAY_AUTH_MODE" in os.environ, os.listdir(temp), os.path.exists(os.environ["HOME"]))
"""
DRAIN = """
units = [Unit(f"u{i}", (sys.argv[1], f"u{i}", 0.3)) for i in range(100)]
executor = RayExecutor("local", num_workers=2)
count = 0
try:
    for outcome in executor.execute(units, workers.Journal, Resources()):
        assert outcome.error is None, outcome.error
        count += 1
        print("done", flush=True)
except Drained as drained:
    assert drained.completed == count and drained.remaining == 100 - count
    print("drained", count)
    sys.exit(85)
finally:
    executor.close()
"""


@pytest.fixture
def environment(tmp_path):
    """A home that does not exist, an empty temporary directory with a short name, no Ray settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTHON"))}
    temp = Path("/tmp") / f"s{os.getpid()}"
    temp.mkdir()
    yield kept | {"HOME": str(tmp_path / "no-home"), "TMPDIR": str(temp)}
    temp.rmdir()  # fails when something was left behind


@pytest.mark.cluster
def test_a_private_cluster_is_locked_quiet_and_gone_afterwards(environment, tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT + LOOK],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert run.stderr == ""
    assert run.stdout == "5 700 600 token\nFalse [] False\n"
    assert run.returncode == 0


@pytest.mark.cluster
def test_ctrl_c_in_a_terminal_reaches_only_the_driver(environment, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT + DRAIN, str(tmp_path)],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "done\n"
    os.killpg(process.pid, signal.SIGINT)  # a terminal signals the whole foreground group
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (85, "")
    assert out.splitlines()[-1] == f"drained {len(list(tmp_path.iterdir()))}"


@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_a_refused_connection_says_where_and_what_to_do(prefix):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"{prefix}127.0.0.1:{free.getsockname()[1]}"
    begin = time.monotonic()
    with pytest.raises(ClusterUnreachable) as caught:
        list(RayExecutor(address).execute([Unit("a", 0)], object, Resources()))
    first, rest = str(caught.value).split("\n")
    assert first == f"no Ray cluster answers at {address}: [Errno 111] Connection refused"
    assert "use the address 'local' to run on this machine only" in rest
    assert time.monotonic() - begin < 20


def test_a_directory_left_by_a_killed_process_is_removed_and_one_in_use_is_not(environment, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", environment["TMPDIR"])
    code = "from cluster.ray.scratch import PrivateDirectory; d = PrivateDirectory(); import os; os._exit(9)"
    settings = environment | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=settings, timeout=30).returncode == 9
    (left,) = os.listdir(environment["TMPDIR"])
    first, second = PrivateDirectory(), PrivateDirectory()
    assert left not in os.listdir(environment["TMPDIR"])
    assert os.path.exists(first.path) and os.path.exists(second.path)
    first.remove()
    second.remove()


def test_a_private_directory_keeps_ray_sockets_within_their_limit(tmp_path, monkeypatch):
    deep = tmp_path / ("d" * 60)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    directory = PrivateDirectory()
    directory.remove()
    assert len(directory.ray) <= 42  # Ray adds up to 64 characters; a socket path holds 107


def test_a_server_that_is_not_ray_is_told_apart_at_once():
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        with pytest.raises(ClusterUnreachable, match="something listens there, but it is not Ray"):
            list(RayExecutor(address).execute([Unit("a", 0)], object, Resources()))


def test_a_failed_connection_leaves_the_environment_as_it_was():
    before = dict(os.environ)
    with pytest.raises(ClusterUnreachable):
        list(RayExecutor("127.0.0.1:9").execute([Unit("a", 0)], object, Resources()))
    assert dict(os.environ) == before


def test_importing_the_package_does_not_import_ray():
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import cluster; print('ray' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert run.stdout == "False\n"
