"""The batch scripts of slurm/, run against doubles of Slurm's commands and of Ray: what ends how, and who sees what."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from launcher_jobs import JOB_ID, SHIMS, SLURM, mode

from workflows.__main__ import main

pytestmark = pytest.mark.timeout(60)

DRIVEN = ("full_repro.sh", "study.sh", "cluster.sh")


@pytest.mark.parametrize(
    ("script", "status"), [*itertools.product(DRIVEN, (0, 3)), *((DRIVEN[0], s) for s in (1, 2, 75))]
)
def test_the_status_of_the_driver_is_the_status_of_the_job_and_no_failure_is_requeued(job, script, status):
    one = job(script, SHIM_DRIVER=f"exit {status}")
    assert one.run() == status
    assert not one.lines(f"requeue {JOB_ID}")


@pytest.mark.parametrize(("script", "requeues"), (("full_repro.sh", 1), ("study.sh", 1), ("cluster.sh", 0)))
@pytest.mark.parametrize("number", (signal.SIGUSR1, signal.SIGTERM))
def test_a_signal_drains_and_a_drained_job_is_requeued(job, script, requeues, number):
    drained = 'echo up >"$SHIM_DIR/up"; until [ -e "$TABA_DRAIN_FILE" ]; do sleep 0.1; done; exit 85'
    one = job(script, SHIM_DRIVER=drained)
    process = one.start()
    while not (one.shim / "up").exists():
        time.sleep(0.05)
    process.send_signal(number)  # to the batch shell alone, as --signal=B: does
    output, _ = process.communicate(timeout=50)
    assert process.returncode == 85
    assert len(one.lines(f"requeue {JOB_ID}")) == requeues, output


def test_a_job_is_not_requeued_when_it_is_cancelled_or_over_its_limit_or_the_site_refuses(job):
    one = job(SHIM_DRIVER="exit 85", SHIM_STATE="CANCELLED", SLURM_NNODES="1")
    assert one.run() == 85
    assert "not requeued: it is CANCELLED" in one.output
    one = job(SHIM_DRIVER="exit 85", SLURM_RESTART_COUNT="5", TABA_MAX_RESTARTS="5", SLURM_NNODES="1")
    assert one.run() == 85
    assert "not requeued: it was restarted 5 times already" in one.output
    one = job(SHIM_DRIVER='echo no-requeue >"$TABA_DRAIN_FILE"; exit 85', SLURM_NNODES="1")
    assert one.run() == 85
    assert "not requeued: a drain without requeue was asked for" in one.output
    one = job(SHIM_DRIVER="exit 85", SHIM_REQUEUE="refused", SLURM_NNODES="1", SLURM_RESTART_COUNT="1")
    assert one.run() == 85
    assert "a chain of jobs: chain.sh" in one.output
    assert not one.lines(f"requeue {JOB_ID}")


def test_a_restart_gets_other_ports_another_token_and_its_own_attempt(job):
    seen = []
    for restart in range(3):
        one = job(SLURM_RESTART_COUNT=str(restart), SLURM_NNODES="1")
        assert one.run() == 0
        seen.append((one.cluster["address"], (one.run_dir / "token").read_text(), one.cluster["attempt"]))
    addresses, tokens, attempts = zip(*seen, strict=True)
    ports = [int(address.split(":")[1]) for address in addresses]
    assert len(set(ports)) == 3 and all(20000 <= port < 32000 for port in ports)
    assert len(set(tokens)) == 3
    assert attempts == (0, 1, 2)
    assert (one.run_dir / "attempt-0" / "rc").read_text() == "0\n"


@pytest.mark.parametrize("script", DRIVEN)
def test_only_the_user_sees_token_run_directory_and_ray_while_the_store_keeps_the_users_permissions(
    job, script
):
    one = job(script)
    assert one.run() == 0
    assert mode(one.run_dir) == mode(one.run_dir / "attempt-0") == 0o700
    assert mode(one.run_dir / "token") == 0o600
    assert re.fullmatch("[0-9a-f]{64}", (one.run_dir / "token").read_text())
    made = (one.shim / "modes").read_text().splitlines()
    assert [line.split()[0] for line in made] == ["700", "700"]
    assert all(len(line.split()[1]) + len("/r") <= 42 for line in made)
    assert all("umask=0022" in line for line in one.lines("start --block") + one.lines("-m workflows"))
    assert mode(one.directory / "runs") == 0o755


def test_cluster_json_says_how_to_reach_the_cluster(job):
    one = job("cluster.sh")
    assert one.run() == 0
    found = one.cluster
    port = int(found["address"].split(":")[1])
    assert found == {
        "job_id": JOB_ID,
        "attempt": 0,
        "address": f"127.0.0.1:{port}",
        "dashboard": f"http://127.0.0.1:{port + 1}",
        "token_path": str(one.run_dir / "token"),
        "nodes": 2,
        "head": os.uname().nodename,
        "started": found["started"],
        "requeue": False,
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["started"])
    one = job("study.sh")
    assert one.run() == 0
    assert one.cluster["dashboard"] is None and one.cluster["requeue"] is True


@pytest.mark.follows("; start another: slurm/cluster.sh.")
@pytest.mark.follows(" runs one driver of its own and takes no jobs. slurm/cluster.sh holds a cluster for ")
def test_where_jobs_cannot_be_submitted_cluster_sh_is_started_and_takes_them(job, capsys):
    def told(one):
        with pytest.raises(SystemExit):
            main(["cluster", "env", JOB_ID, "--run-dir", str(one.run_dir.parent)])
        return capsys.readouterr().err

    one = job("study.sh")
    assert one.run() == 0
    assert f"takes no jobs. {SLURM.name}/cluster.sh holds a cluster for `ray job submit`." in told(one)
    ask = (
        f'"{sys.executable}" -P -m workflows cluster env {JOB_ID} --run-dir "$TABA_RUN_DIR" >"$SHIM_DIR/env"'
    )
    one = job("cluster.sh", SLURM_RESTART_COUNT="1", SHIM_DRIVER=ask, PYTHONPATH=str(SLURM.parent))
    assert one.run() == 0, one.output
    assert f"RAY_ADDRESS={one.cluster['address']}" in (one.shim / "env").read_text()
    # It has ended, so the next one is another job.
    assert f"has ended with status 0; start another: {SLURM.name}/cluster.sh." in told(one)
    one = job("cluster.sh", SLURM_RESTART_COUNT="2", SHIM_DRIVER=ask, PYTHONPATH=str(SLURM.parent))
    assert one.run() == 0
    assert f"RAY_ADDRESS={one.cluster['address']}" in (one.shim / "env").read_text()


def test_ray_is_started_with_explicit_address_devices_and_memory_and_stays_in_the_foreground(job):
    one = job("full_repro.sh")
    assert one.run() == 0
    head, worker = sorted(one.lines("scripts start"))
    port = one.cluster["address"].split(":")[1]
    for line in (head, worker):
        options = ("--block", "--node-ip-address=127.0.0.1", "--num-gpus=4", "--num-cpus=3")
        assert all(option in line for option in (*options, "--object-store-memory=1000000000"))
    agents = [re.search(r"--dashboard-agent-listen-port=(\d+)", line).group(1) for line in (head, worker)]
    assert agents == [str(int(port) + 3), str(int(port) + 4)]
    assert f"--head --port={port}" in head and "--include-dashboard=false" in head
    assert f"--address={one.cluster['address']}" in worker and "--include-dashboard" not in worker
    (step,) = one.lines("srun")
    options = ("--no-kill", "--wait=0", "--kill-on-bad-exit=0", "--nodes=2", "--ntasks=2", "cpus=3")
    assert all(option in step for option in options)
    for script in DRIVEN:  # and the other half of --no-kill
        assert re.search(r"^#SBATCH.* --no-kill ", (SLURM / script).read_text(), re.MULTILINE)


def test_the_dashboard_is_only_held_clusters_and_bound_to_the_heads_address(job):
    one = job("cluster.sh")
    assert one.run("--idle-minutes", "5") == 0
    (head,) = one.lines("--head")
    assert "--include-dashboard=true --dashboard-host=127.0.0.1" in head
    (driver,) = one.lines("-m cluster.slurm.bringup hold")
    assert f"-m cluster.slurm.bringup hold --idle-minutes 5 --address {one.cluster['address']}" in driver


def test_what_follows_the_script_goes_to_taba_run(job):
    one = job("full_repro.sh", SLURM_NNODES="1")
    assert one.run("--model", "m", "--set", "seed=1") == 0
    address = one.cluster["address"]
    assert f"-m workflows run paper --model m --set seed=1 --address {address}" in one.log
    assert one.run("table2", "fix", "--store", "a b") == 0
    assert f"-m workflows run table2 fix --store a b --address {address}" in one.log
    one = job("study.sh", SLURM_NNODES="1")
    assert one.run("--model", "m") == 2
    assert "name the study first" in one.output


def test_the_driver_is_told_of_token_address_and_drain_file_and_no_token_text_is_in_the_environment(job):
    one = job(SHIM_DRIVER='env >"$SHIM_DIR/seen"', RAY_AUTH_TOKEN="in the way", SLURM_NNODES="1")
    assert one.run() == 0
    seen = (one.shim / "seen").read_text().splitlines()
    assert "RAY_AUTH_MODE=token" in seen
    assert f"RAY_AUTH_TOKEN_PATH={one.run_dir}/token" in seen
    assert f"RAY_ADDRESS={one.cluster['address']}" in seen
    assert f"TABA_DRAIN_FILE={one.run_dir}/attempt-0/drain" in seen
    assert not [line for line in seen if line.startswith("RAY_AUTH_TOKEN=")]


@pytest.mark.parametrize("moment", ("sleep 1; exit 1", "exit 1"))  # after Ray has gone, and while it is going
def test_a_lost_head_is_requeued_and_its_logs_are_kept(job, moment):
    one = job(SHIM_DRIVER=f'(sleep 0.2; kill -9 "$(cat "$SHIM_DIR/ray-0.pid")") & {moment}')
    assert one.run() == 1
    assert len(one.lines(f"requeue {JOB_ID}")) == 1
    assert not (one.run_dir / "attempt-0" / "rc").exists()
    assert (one.run_dir / "attempt-0" / "ray-0-logs.tgz").exists()


def test_a_driver_that_was_killed_starts_again_and_counts_as_lost_the_third_time(job):
    one = job(SHIM_DRIVER='[ -e "$SHIM_DIR/again" ] && exit 0; touch "$SHIM_DIR/again"; kill -9 $$')
    assert one.run() == 0
    assert len(one.lines("-m workflows run")) == 2
    assert not one.lines(f"requeue {JOB_ID}")
    one = job(SHIM_DRIVER="kill -9 $$", SLURM_RESTART_COUNT="1")
    assert one.run() == 1
    assert len(one.lines("-m workflows run")) == 2 + 3
    assert len(one.lines(f"requeue {JOB_ID}")) == 1


def test_a_worker_whose_ray_is_killed_joins_again(job):
    twice = (
        'kill -9 "$(cat "$SHIM_DIR/ray-1.pid")"; '
        'until [ "$(grep -c "node=1.*scripts start" "$SHIM_DIR/log")" = 2 ]; do sleep 0.1; done'
    )
    one = job(SHIM_DRIVER=twice)
    assert one.run() == 0
    assert "node 1: Ray ended (start 1 of 20)" in one.output


def test_a_cluster_that_does_not_come_up_is_requeued(job):
    one = job(SHIM_WAIT="1")
    assert one.run() == 1
    assert "the cluster did not come up" in one.output
    assert len(one.lines(f"requeue {JOB_ID}")) == 1 and not one.lines("-m workflows run")


@pytest.mark.parametrize(("requeue", "asked"), (("1", "requeue"), ("0", "scancel")))
def test_workers_left_without_a_head_node_give_the_allocation_back(job, requeue, asked):
    # With --no-kill Slurm lets the job run on without the node of its batch script.
    one = job(TABA_JOIN_SECONDS="2", TABA_REQUEUE=requeue)
    attempt = one.run_dir / "attempt-0"
    attempt.mkdir(parents=True)
    one.script = SLURM / "ray_node.sh"
    one.environment |= {
        "TABA_SLURM_DIR": str(SLURM),
        "TABA_ATTEMPT_DIR": str(attempt),
        "TABA_DRAIN_FILE": str(attempt / "drain"),
        "TABA_ADDRESS": "127.0.0.1:9",
        "TABA_PORT": "9",
        "SLURM_NODEID": "1",
    }
    assert one.run() == 1
    assert one.log.splitlines() == [f"{asked} {JOB_ID}"]
    (one.run_dir / "attempt-1").mkdir()  # it was cut off, and the job has long gone on elsewhere
    assert one.run() == 1
    assert one.log.splitlines() == [f"{asked} {JOB_ID}"]


def test_an_address_is_resolved_once_and_loopback_is_refused_where_others_must_reach_it(job):
    one = job(TABA_HEAD_IFACE="", SHIM_ADDRESS="127.0.0.2", SLURM_NNODES="1")
    assert one.run() == 0
    assert one.cluster["address"].startswith("127.0.0.2:")
    one = job(TABA_HEAD_IFACE="", SHIM_ADDRESS="127.0.0.2")
    assert one.run() == 2
    assert "shim0 resolves to 127.0.0.2, which other nodes cannot reach; set TABA_HEAD_IFACE" in one.output
    one = job(TABA_HEAD_IFACE="")
    assert one.run() == 2
    assert "no IPv4 address for shim0" in one.output


def test_a_scratch_path_too_long_for_rays_sockets_is_refused_and_not_tried_again(job, tmp_path):
    # 28 characters and "/taba-XXXXXX/r" are the 42 Ray leaves.
    one = job(TABA_LOCAL_TMP="/tmp/" + "x" * 24)
    assert one.run() == 2
    assert f"/tmp/{'x' * 24} is too long for Ray's sockets; set TABA_LOCAL_TMP" in one.output
    assert not one.lines(f"requeue {JOB_ID}") and not one.lines("scripts start")


def test_a_copy_in_slurms_spool_directory_finds_the_launcher(job, tmp_path):
    one = job("study.sh", SHIM_SCRIPT=str(SLURM / "study.sh"), SLURM_NNODES="1")
    copy = tmp_path / "spool"
    copy.mkdir()
    one.script = copy / "slurm_script"
    one.script.write_text((SLURM / "study.sh").read_text())
    assert one.run("study-name") == 0
    assert "-m workflows run study-name" in one.log


def test_the_site_file_is_read_at_submission_and_on_the_nodes(job, tmp_path):
    image = tmp_path / "image" / "bin"
    image.mkdir(parents=True)
    (image / "python").symlink_to(SHIMS / "python")
    subprocess.run(["tar", "-cf", str(tmp_path / "env.tar"), "-C", str(image.parent), "bin"], check=True)
    site = f'TABA_SBATCH="--account=a --partition=p"\nexport TABA_ENV_IMAGE={tmp_path}/env.tar\n'
    (tmp_path / "site.sh").write_text(site + "module() { echo $undefined; false; }\nmodule load x\n")
    one = job("full_repro.sh", SLURM_JOB_ID="", SHIM_DRIVER='echo "$TABA_PYTHON" >"$SHIM_DIR/python"')
    assert one.run("fix", "--store", "s") == 0
    assert one.lines("sbatch") == [f"sbatch --account=a --partition=p {SLURM}/full_repro.sh fix --store s"]
    one.environment["SLURM_JOB_ID"] = JOB_ID
    assert one.run() == 0
    assert re.fullmatch(rf"{one.local}/taba-\w+/env/bin/python\n", (one.shim / "python").read_text())


# A program of the system, in no package registry of Python: its wheel fetches a binary from elsewhere when it is built.
@pytest.mark.skipif(
    shutil.which("shellcheck") is None, reason="shellcheck is not installed (apt install shellcheck)"
)
def test_shellcheck_finds_nothing():
    scripts = [*SLURM.glob("*.sh"), *SHIMS.iterdir()]
    done = subprocess.run(["shellcheck", *map(str, scripts)], capture_output=True, text=True, cwd=SLURM)
    assert done.stdout + done.stderr == ""
