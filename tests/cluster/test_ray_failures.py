"""When Ray itself fails: named, cleaned up, its logs kept; and the metrics it carries."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from cluster import ClusterUnreachable
from cluster.pool.executor import ClusterLost, Outcome, Unit
from cluster.ray import logs as ray_logs
from cluster.ray.scratch import PrivateDirectory
from cluster.ray.session import RaySession


def test_the_ends_of_the_newest_logs_are_kept_within_bounds(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_logs, "MAX_FILE_BYTES", 10)
    monkeypatch.setattr(ray_logs, "MAX_TOTAL_BYTES", 25)
    source = tmp_path / "logs"
    (source / "old").mkdir(parents=True)
    for number, name in enumerate(("old/raylet.out", "b.log", "c.log", "d.log")):
        (source / name).write_text("0123456789" * 3 + name[0])
        os.utime(source / name, (number, number))
    (source / "empty.log").touch()
    assert (
        ray_logs.copy_logs(source, tmp_path / "kept") == 30
    )  # three files of 10 bytes: 20 is below 25, 30 is not
    kept = {file.name: file.read_text() for file in (tmp_path / "kept").iterdir()}
    assert kept == {name: "123456789" + name[0] for name in ("b.log", "c.log", "d.log")}


def test_logs_that_are_gone_are_no_error(tmp_path):
    assert ray_logs.copy_logs(tmp_path / "none", tmp_path / "kept") == 0
    assert not (tmp_path / "kept").exists()


def test_a_private_cluster_that_does_not_start_is_lost_and_leaves_nothing(no_ray, monkeypatch):
    import ray

    def refuse(**options):
        raise Exception("The current node timed out during startup.\nMore of it.")

    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(ray, "init", refuse)
    made = []
    make = PrivateDirectory.__init__
    monkeypatch.setattr(PrivateDirectory, "__init__", lambda self: made.append(self) or make(self))
    before = dict(os.environ)
    with pytest.raises(ClusterLost) as lost:
        RaySession("local")
    assert str(lost.value) == (
        "Ray could not be started on this machine: The current node timed out during startup."
    )
    assert dict(os.environ) == before
    assert [os.path.exists(directory.path) for directory in made] == [False]


@pytest.mark.cluster
@pytest.mark.follows("; if you did not mean that, unset them.")
def test_a_setting_that_ray_cannot_read_is_refused_at_once_and_unset(no_ray, monkeypatch, capfd):
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", "no json")
    with pytest.raises(ClusterUnreachable, match=r"changes Ray's settings: .*RAY_OVERRIDE_RESOURCES=no json"):
        RaySession("local", num_cpus=1)
    assert "Traceback" not in capfd.readouterr().err
    monkeypatch.delenv("RAY_OVERRIDE_RESOURCES")
    session = RaySession("local", num_cpus=1)
    assert session.local
    session.close()


START = """
from cluster.pool.executor import ClusterError
from cluster.ray.session import RaySession
try:
    with_ray = RaySession("local", num_cpus=1)
    import ray
    print(ray.get(ray.remote(num_cpus=0)(lambda: 5).remote()))
    with_ray.close()
except ClusterError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (
            "RAY_max_direct_call_object_size=many",  # Ray itself would crash without a word
            "ClusterUnreachable Ray ends at once when it reads its settings. The environment changes Ray's settings: "
            "RAY_max_direct_call_object_size=many; if you did not mean that, unset them.",
        ),
        (
            "RAY_RUNTIME_ENV_HOOK=no.such",
            "ClusterUnreachable Ray could not be started on this machine: No module named 'no'. The environment "
            "changes Ray's settings: RAY_RUNTIME_ENV_HOOK=no.such; if you did not mean that, unset them.",
        ),
        ("RAY_CLIENT_MODE=1", "5"),
    ],
)
def test_settings_that_break_a_start_are_named_or_do_not_matter(setting, said, tmp_path):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    name, _, value = setting.partition("=")
    paths = os.pathsep.join(map(str, (Path(__file__).parents[2], Path(__file__).parent)))
    done = subprocess.run(
        [sys.executable, "-P", "-c", START], env=clean | {name: value, "PYTHONPATH": paths}, cwd=tmp_path,
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(said), done.stdout


@pytest.mark.cluster
def test_metrics_of_outcomes_reach_the_prometheus_port(ray_session):
    import ray

    from cluster.ray.metrics import RunMetrics

    metrics = RunMetrics()
    for error in (None, None, "bad"):
        metrics(Outcome(Unit("u", None), {}, error, 1, 2.0, "w", "n0"), 0 if error else 500)
    (node,) = ray.nodes()
    port = node["MetricsExportPort"]
    text, deadline = "", time.monotonic() + 60
    while "ray_taba_bytes_written_total" not in text:
        assert time.monotonic() < deadline, text[-2000:]
        time.sleep(0.5)
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    found = {line.split("{")[0]: line for line in text.splitlines() if line.startswith("ray_taba")}
    values = {line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith("ray_taba_units_total")}
    assert values == {"2.0", "1.0"}  # done, failed
    assert found["ray_taba_bytes_written_total"].endswith(" 1000.0") and 'node="n0"' in text
    assert found["ray_taba_unit_seconds_count"].endswith(" 3.0")
    assert found["ray_taba_unit_seconds_sum"].endswith(" 6.0")
