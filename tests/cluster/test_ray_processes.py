"""Which processes of a name run, which of them this process started, and when one has ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.ray import processes
from cluster.ray.processes import Process, children_named, has_ended, runs_here

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="this system has no /proc")


@pytest.fixture
def child(tmp_path):
    """A child whose name holds a space and a bracket."""
    program = tmp_path / "a ) b"
    program.symlink_to(Path("/bin/sleep").resolve())
    with subprocess.Popen([program, "60"]) as process:
        yield process
        process.kill()


def found(name):
    for _ in range(100):  # until the child has become the program
        if one := children_named({name, "another"}):
            return one
        time.sleep(0.02)
    return ()


def test_a_child_is_found_by_its_name_until_it_ends(child):
    (process,) = found("a ) b")
    assert (process.pid, process.parent) == (child.pid, os.getpid())
    assert runs_here("a ) b") and not has_ended(process)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and nobody has asked for its status
    assert has_ended(process) and not children_named({"a ) b"}) and not runs_here("a ) b")
    child.wait()
    assert has_ended(process)


def test_another_process_with_the_number_of_one_that_ended_is_not_taken_for_it():
    (own,) = [p for p in processes._all() if p.pid == os.getpid()]
    assert not has_ended(own)
    assert has_ended(Process(own.pid, own.name, own.parent, own.started - 1, ended=False))


def test_grandchildren_are_not_this_process_s_own():
    code = "import subprocess; subprocess.run(['/bin/sleep', '30'])"
    with subprocess.Popen([sys.executable, "-c", code]) as between:
        for _ in range(200):
            if any(p.parent == between.pid for p in processes._all()):
                break
            time.sleep(0.02)
        below = [p for p in processes._all() if p.parent == between.pid]
        assert below and not {p.pid for p in children_named({p.name for p in below})} & {p.pid for p in below}
        for process in below:
            os.kill(process.pid, 9)


def test_where_the_system_does_not_say_a_node_may_run(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "_PROC", tmp_path / "none")
    assert runs_here("raylet") and children_named({"raylet"}) == ()
