"""Several Ray nodes on one machine: some are lost in the middle of a run, some join."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def found():
    script = Path(__file__).with_name("ray_nodes_run.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_driver_without_devices_learns_what_the_cluster_has(found):
    assert found["gpus_offered"] == [0, 1, 1, 1]
    assert found["gpus"] == ["0"]  # every unit ran on the one device of its node


def test_a_run_survives_the_loss_of_a_node_and_uses_one_that_joins(found):
    assert found["results"] == {f"u{i}": i for i in range(60)} and found["errors"] == []
    # Until Ray knows that the node is gone, a replacement may be started there, and is lost in its turn.
    assert 1 <= len(found["lost"]) <= 4 and found["lost"][0][0] in found["used"]
    assert found["repeated"] <= 2  # at most what the lost worker computed and finished
    assert found["nodes"].count("node-joined") == 5  # Ray may notice the lost one only after the end
    assert (
        len(found["ready"]) == 3 and len(found["used"]) == 3
    )  # two from the start, one on the node that joined


def test_a_worker_its_node_cannot_place_captures_no_unit(found):
    # The device of the first node is held by somebody else: the worker started there is pending to the end.
    started = {f"ray-{i}" for i in range(3)}
    (pending,) = started - set(found["ready"])
    assert pending not in found["used"]
