"""When Ray itself fails: named, cleaned up, its logs kept; and the metrics it carries."""

from __future__ import annotations

import os
import time
import urllib.request

import pytest

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
