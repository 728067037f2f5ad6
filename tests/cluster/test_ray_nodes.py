"""Several Ray nodes on one machine: some are lost in the middle of a run, some join."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(180)]


def test_a_run_survives_the_loss_of_a_node_and_uses_one_that_joins():
    script = Path(__file__).with_name("ray_nodes_run.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["workers_before"] == 3
    assert found["results"] == {f"u{i}": i for i in range(60)}
    assert found["errors"] == []
    assert found["repeated"] <= 3  # at most what ran on the lost node
    assert found["workers_joined"] >= 1  # the node that joined got work
