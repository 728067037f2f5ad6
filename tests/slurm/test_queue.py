"""What Slurm says of a job, and which of its states mean that no process of the job is left."""

from __future__ import annotations

import os

import pytest

from cluster.slurm.queue import job_ended, job_state


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """Puts a program called `squeue` first on the PATH."""

    def make(script):
        shim = tmp_path / "squeue"
        shim.write_text(f"#!/bin/sh\n{script}\n")
        shim.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return make


@pytest.mark.parametrize(
    "script, state",
    [
        ("echo RUNNING", "RUNNING"),
        ("true", ""),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", ""),
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", None),
    ],
)
def test_what_squeue_answers(squeue, script, state):
    squeue(script)
    assert job_state("7") == state


@pytest.mark.parametrize(
    "script, ended",
    [
        ("true", "ended"),
        ("echo TIMEOUT", "timeout"),
        ("echo PENDING", "pending"),  # requeued: it will start again, but runs nowhere now
        ("echo RUNNING", None),
        ("echo COMPLETING", None),
        ("exit 1", None),
    ],
)
def test_a_job_has_ended_when_no_process_of_it_can_be_left(squeue, script, ended):
    squeue(script)
    assert job_ended("7") == ended
