"""Chains of jobs: each is submitted after the end of the one before, and links left over end at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from launcher_jobs import JOB_ID, SLURM, mode

pytestmark = pytest.mark.timeout(60)


def test_a_chain_submits_each_job_after_the_end_of_the_one_before(job):
    one = job("chain.sh", TABA_SBATCH="--account=a")
    script = str(SLURM / "full_repro.sh")
    assert one.run("3", script, "--store", "s") == 0
    assert one.output.split() == ["101", "102", "103"]
    first = f"sbatch --parsable --no-requeue --account=a {script} --store s"
    after = "sbatch --parsable --no-requeue --account=a --dependency=afterany:{} " + f"{script} --store s"
    assert one.log.splitlines() == [first, after.format(101), after.format(102)]
    (shared,) = {line for line in (one.shim / "environment").read_text().splitlines()}
    chain = re.fullmatch(r"chain=(\S+) requeue=0", shared)
    assert chain and mode(Path(chain.group(1))) == 0o700
    assert one.run("0", script) == 2
    assert "usage: chain.sh N SCRIPT" in one.output


def test_links_left_over_end_at_once_with_the_status_of_the_one_that_ended_the_work(job, tmp_path):
    chain = {"TABA_CHAIN": str(tmp_path), "TABA_REQUEUE": "0", "SLURM_NNODES": "1"}
    one = job(SHIM_DRIVER="exit 85", **chain)
    assert one.run() == 85
    assert not one.lines(f"requeue {JOB_ID}")
    one = job(SHIM_DRIVER="exit 3", **chain)
    assert one.run() == 3
    one = job(SHIM_DRIVER="exit 0", **chain)
    assert one.run() == 3
    assert len(one.lines("-m workflows run")) == 2
    assert "an earlier link of the chain ended with status 3" in one.output


def test_a_drain_for_good_ends_the_whole_chain(job, tmp_path):
    chain = {"TABA_CHAIN": str(tmp_path), "TABA_REQUEUE": "0", "SLURM_NNODES": "1"}
    assert job(SHIM_DRIVER='echo no-requeue >"$TABA_DRAIN_FILE"; exit 85', **chain).run() == 85
    one = job(SHIM_DRIVER="exit 0", **chain)
    assert one.run() == 85
    assert "an earlier link of the chain ended with status 85" in one.output
