"""`taba doctor` on a cluster: who else can use it, whether its nodes are alike, what Slurm gave."""

from __future__ import annotations

import http.server
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import grpc
import pytest
from doctor_cases import (
    SCONTROL_CONFIG,
    SCONTROL_JOB,
    machine,
    with_gpus,
)

from workflows.doctor import access, nodes, slurm
from workflows.doctor.finding import CHECKS, Ran, Subject, ok, skipped

GIB = 2**30
ROOT = Path(__file__).parent.parent.parent

# ---------------------------------------------------------------------------------------- Ray access


@pytest.mark.parametrize(
    ("file_mode", "folder_mode", "said"),
    [
        (0o600, 0o700, None),
        (0o644, 0o755, "has mode 0644: others can read it"),
        (0o640, 0o700, "has mode 0640: others can read it"),
        (0o600, 0o755, "lies in a directory of mode 0755: others can enter it"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_a_token_others_can_reach_fails(named, file_mode, folder_mode, said, tmp_path):
    folder = tmp_path / ("run" if named else ".ray")
    folder.mkdir()
    token = folder / "auth_token"
    token.write_text("s3cret" * 8)
    token.chmod(file_mode)
    folder.chmod(folder_mode)
    environ = {"HOME": str(tmp_path)} | ({"RAY_AUTH_TOKEN_PATH": str(token)} if named else {})
    found = access.token_file(machine(tmp_path, environ=environ))
    if said is None:
        assert found == ok(f"{token} is yours alone")
    else:
        assert found.status == "FAIL"
        assert found.found == f"{token} {said}"
        assert f"chmod 700 {folder} && chmod 600 {token}" in found.remedy
    assert "s3cret" not in found.found + found.remedy


def test_a_token_that_is_not_where_it_should_be_fails_and_none_at_all_is_fine(tmp_path):
    lost = machine(tmp_path, environ={"HOME": str(tmp_path), "RAY_AUTH_TOKEN_PATH": "/nowhere/token"})
    assert access.token_file(lost).found == "RAY_AUTH_TOKEN_PATH=/nowhere/token: no such file"
    assert access.token_file(machine(tmp_path)) == ok("none; taba makes one for each cluster it starts")


@pytest.mark.parametrize(
    ("environ", "status"),
    [
        ({"RAY_AUTH_MODE": "token"}, "ok"),
        ({}, "ok"),
        ({"RAY_ADDRESS": "10.0.0.1:6379"}, "warn"),
        ({"RAY_AUTH_MODE": "disabled"}, "FAIL"),
    ],
)
def test_a_shell_that_starts_open_clusters_fails(environ, status, tmp_path):
    assert access.token_mode(machine(tmp_path, environ=environ)).status == status


@pytest.mark.parametrize(
    ("code", "body", "status"),
    [(200, "[]", "FAIL"), (401, "", "ok"), (200, "<html>", "skipped"), (404, "", "skipped")],
)
def test_a_dashboard_that_lists_jobs_without_a_token_fails(code, body, status, tmp_path):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(code if self.path == "/api/jobs/" else 404)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}"
        found = access.dashboard_locked(machine(tmp_path, environ={"RAY_API_SERVER_ADDRESS": place}))
        server.shutdown()
    assert (found.status, place in found.found) == (status, True)


@pytest.fixture
def head(tmp_path, monkeypatch):
    """A port where a gRPC server listens, and a `ray` of which a test says what it prints and how it ends."""
    server = grpc.server(ThreadPoolExecutor(1))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()

    def make(script):
        program = tmp_path / "ray"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        return address

    yield make
    server.stop(None).wait()


def test_a_head_that_answers_strangers_fails(head, tmp_path):
    address = head("echo 1 node")
    found = access.cluster_locked(machine(tmp_path, address=address, environ={"USER": "ada"}))
    said = f"{address} answers without a token: anybody who reaches the port can run code as ada"
    assert (found.status, found.found) == ("FAIL", said)


def test_a_head_that_wants_a_token_is_in_order(head, tmp_path):
    address = head("echo 'ray.exceptions.AuthenticationError: RPC error: InvalidAuthToken' >&2; exit 1")
    found = access.cluster_locked(machine(tmp_path, address=address))
    assert found == ok(f"{address} refuses who shows no token")


def test_the_question_is_a_strangers_whatever_token_this_shell_has(head, tmp_path, monkeypatch):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    wants_none = 'test -z "$RAY_AUTH_TOKEN$RAY_AUTH_TOKEN_PATH" && test "$RAY_AUTH_MODE" = disabled'
    address = head(f'{wants_none} && test "$*" = "status --address $ADDRESS"')
    monkeypatch.setenv("ADDRESS", address)
    assert access.cluster_locked(machine(tmp_path, address=address)).status == "FAIL"


def test_a_head_whose_answer_is_not_understood_is_neither_called_open_nor_locked(head, tmp_path):
    address = head("echo 'RuntimeError: Version mismatch' >&2; exit 1")
    found = access.cluster_locked(machine(tmp_path, address=address))
    assert found.status == "warn"
    assert found.found == f"it is not known whether {address} wants a token: RuntimeError: Version mismatch"
    assert f"RAY_AUTH_MODE=disabled ray status --address {address}" in found.remedy


def test_nothing_listening_is_neither_open_nor_locked(tmp_path):
    found = access.cluster_locked(machine(tmp_path, address="127.0.0.1:1"))
    assert found.status == "skipped"
    assert found.found.startswith("nothing answers at 127.0.0.1:1: ")


def test_the_cluster_last_started_here_is_asked_when_none_is_named(tmp_path):
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    found = access.cluster_locked(machine(tmp_path, environ={"TMPDIR": str(tmp_path)}))
    assert found == skipped("nothing answers at 127.0.0.1:1")  # a stale file: no fault of anybody


# ----------------------------------------------------------------------------------------- Ray nodes


def report(host: str, **different) -> dict:
    same = {
        "host": host, "address": "10.0.0.1", "cpus": 72.0, "gpus": 4.0, "devices": 4, "python": "3.11.7",
        "machine": "aarch64", "page_bytes": 65536, "versions": {"torch": "2.13.0", "ray": "2.60.0"}, "code": "0a1b2c3d",
        "marker": None, "paths": {"/w/adm.pt": 100}, "scratch": "/tmp/taba-x/r", "scratch_free": 50 * 10**9,
        "skew": 0.001, "skew_error": 0.002,
    }  # fmt: skip
    return same | different


def said_by(*reports, dead=(), **more) -> dict:
    return {"dashboard": "", "dead": list(dead), "driver": report("login"), "nodes": list(reports)} | more


def cluster_of(tmp_path, said: dict, **given) -> Subject:
    answers = {Path(sys.executable).name: Ran(0, "a warning of Ray\n" + json.dumps(said))}
    return machine(tmp_path, answers=answers, address="10.0.0.1:6379", **given)


@pytest.mark.parametrize(
    ("said", "status", "text"),
    [
        (said_by(report("n1"), report("n2")), "ok", "2 nodes, 8 GPUs, 144 cores"),
        (said_by(report("n1"), dead=["n2"]), "warn", "1 nodes, 4 GPUs, 72 cores; lost: n2"),
        (said_by(report("n1", gpus=1.0)), "warn", "n1 has 4 devices and Ray may use 1"),
        (said_by(report("n1"), report("n2", error="timed out")), "FAIL", "no answer from n2: timed out"),
        ({"error": "no Ray cluster answers at 10.0.0.1:6379: refused"}, "FAIL", "no Ray cluster answers"),
    ],
)
def test_nodes_that_are_lost_silent_or_lack_devices_are_named(said, status, text, tmp_path):
    found = nodes.alive(cluster_of(tmp_path, said))
    assert found.status == status
    assert text in found.found


def test_an_inspection_that_hangs_is_ended_and_fails(tmp_path):
    subject = machine(
        tmp_path,
        address="10.0.0.1:6379",
        answers={Path(sys.executable).name: Ran(124, "", "no answer in 150 s")},
    )
    assert nodes.alive(subject).found == "10.0.0.1:6379: no answer in 150 s"
    assert nodes.clocks(subject) == skipped("no node answered")


@pytest.mark.parametrize("address", ["auto", "ray://127.0.0.1:10001"])
def test_the_head_is_asked_that_the_nodes_name(address, tmp_path):
    answers = {Path(sys.executable).name: Ran(0, json.dumps(said_by(report("n1"), gcs="127.0.0.1:1")))}
    found = access.cluster_locked(machine(tmp_path, answers=answers, address=address))
    assert found.status == "skipped" and found.found.startswith("nothing answers at 127.0.0.1:1")


def test_a_login_node_is_sent_inside(tmp_path):
    subject = cluster_of(tmp_path, {"error": "this machine runs no Ray node", "outside": True})
    assert nodes.alive(subject).status == "skipped"
    assert "`ray job submit -- taba doctor`" in nodes.alive(subject).found
    assert nodes.clocks(subject) == skipped("this machine is no node")


def test_without_a_cluster_the_nodes_are_skipped_for_one_reason(tmp_path):
    subject = machine(tmp_path, store=str(tmp_path))
    mine = [entry for entry in CHECKS if entry.section == nodes.SECTION]
    assert {entry.check(subject) for entry in mine} == {skipped("no cluster named (--address, RAY_ADDRESS)")}


@pytest.mark.parametrize(
    ("different", "said"),
    [
        ({"versions": {"torch": "2.12.0", "ray": "2.60.0"}}, "torch 2.12.0 instead of 2.13.0 on n2"),
        ({"python": "3.12.1"}, "python 3.12.1 instead of 3.11.7 on n2"),
        ({"code": "ffffffff"}, "taba's code ffffffff instead of 0a1b2c3d on n2"),
    ],
)
def test_software_that_differs_on_a_node_fails(different, said, tmp_path):
    there = cluster_of(tmp_path, said_by(report("n1"), report("n2", **different)))
    assert nodes.same_software(there).found == said
    assert nodes.same_software(cluster_of(tmp_path, said_by(report("n1"), report("n2")))).status == "ok"


@pytest.mark.parametrize(
    ("skew", "error", "status"),
    [(0.5, 0.001, "ok"), (3.0, 0.1, "warn"), (-3.0, 0.1, "warn"), (3.0, 2.9, "ok"), (-40.0, 0.1, "FAIL")],
)
def test_a_clock_is_wrong_only_beyond_what_the_round_trip_leaves_open(skew, error, status, tmp_path):
    there = said_by(report("n1"), report("n2", skew=skew, skew_error=error))
    found = nodes.clocks(cluster_of(tmp_path, there))
    assert found.status == status
    assert "(n2)" in found.found


@pytest.mark.parametrize(
    ("seeing", "answering", "said"),
    [
        (["n1"], ["n1"], "not to be read and written on n2"),
        (
            ["n1", "n2"],
            ["n1"],
            "only 1 of 2 nodes wrote what can be seen here",
        ),  # n2's answer does not arrive
    ],
)
def test_a_store_one_node_cannot_use_fails(seeing, answering, said, tmp_path, monkeypatch):
    monkeypatch.setattr(nodes, "_ANSWERS_S", 0.2)

    def cluster(command, timeout):
        marker = Path(json.loads(command[-1])["marker"])
        for name in answering:
            (marker.parent / f"marker.{name}").write_text(marker.read_text())
        reports = [report(n, marker=marker.read_text() if n in seeing else None) for n in ("n1", "n2")]
        return Ran(0, json.dumps(said_by(*reports)))

    subject = machine(tmp_path, address="10.0.0.1:6379", store=str(tmp_path / "run"), run=cluster)
    found = nodes.shared_store(subject)
    assert (found.status, found.found) == ("FAIL", said)


def test_the_marker_is_written_answered_and_removed(tmp_path):
    place = tmp_path / "place"
    place.mkdir()

    def node(command, timeout):  # a node that reads the marker and answers beside it
        marker = Path(json.loads(command[-1])["marker"])
        (marker.parent / "marker.n1").write_text(marker.read_text())
        return Ran(0, json.dumps(said_by(report("n1", marker=marker.read_text()))))

    subject = machine(tmp_path, address="10.0.0.1:6379", store=str(place / "run"), run=node)
    assert nodes.shared_store(subject) == ok("all 1 nodes read and write the store's directory")
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(("size", "said"), [(None, "missing on n2"), (40, "40 B instead of 100 B on n2")])
def test_weights_a_node_lacks_or_has_half_of_fail(size, said, tmp_path, monkeypatch):
    monkeypatch.setattr(nodes, "weight_files", lambda subject: [Path("/w/adm.pt")])
    there = cluster_of(tmp_path, said_by(report("n1"), report("n2", paths={"/w/adm.pt": size})))
    assert nodes.weights_there(there).found == f"/w/adm.pt is {said}"


def test_the_node_with_the_least_scratch_is_named(tmp_path):
    there = said_by(report("n1"), report("n2", scratch_free=10**9))
    found = nodes.scratch_there(cluster_of(tmp_path, there))
    assert (found.status, found.found) == ("warn", "at least 1.0 GB free (n2: /tmp/taba-x/r)")


# --------------------------------------------------------------------------------------------- Slurm


def in_job(
    tmp_path, text: str = SCONTROL_JOB, left: float = 4.0, environ: dict | None = None, **answers: Ran
):
    end = (datetime.now() + timedelta(hours=left)).isoformat(timespec="seconds")
    return machine(
        tmp_path,
        answers={"scontrol": Ran(0, text.format(end=end))} | answers,
        environ={"SLURM_JOB_ID": "4711"} | (environ or {}),
    )


def test_the_job_is_described_and_little_time_is_a_warning(tmp_path):
    assert slurm.allocation(in_job(tmp_path)) == ok("job 4711, 4 nodes, restart 2, 4.0 h left") or (
        slurm.allocation(in_job(tmp_path)).found == "job 4711, 4 nodes, restart 2, 240.0 min left"
    )
    assert slurm.allocation(in_job(tmp_path, left=0.4)).status == "warn"
    assert slurm.seconds_left("2026-11-22T15:00:00", datetime(2026, 11, 22, 14, 30)) == 1800
    assert slurm.seconds_left("Unknown", datetime(2026, 11, 22)) is None


def test_a_job_that_may_not_be_requeued_is_sent_to_the_chain(tmp_path):
    assert slurm.requeue(in_job(tmp_path)).status == "ok"
    found = slurm.requeue(in_job(tmp_path, SCONTROL_JOB.replace("Requeue=1", "Requeue=0")))
    assert found.status == "warn"
    assert "slurm/chain.sh" in found.remedy


@pytest.mark.parametrize(("default", "said"), [("0", "off by default"), ("1", "allowed by default")])
def test_on_a_login_node_the_sites_default_is_told(default, said, tmp_path):
    login = machine(
        tmp_path, answers={"sbatch": Ran(0, ""), "scontrol": Ran(0, SCONTROL_CONFIG.format(default))}
    )
    assert said in slurm.requeue(login).found
    assert "slurm/full_repro.sh" in slurm.allocation(login).found
    assert slurm.allocation(machine(tmp_path)) == skipped("no Slurm here")


@pytest.mark.parametrize(
    ("bound", "environ", "status"),
    [
        (288, {"SLURM_CPUS_PER_TASK": "288", "SRUN_CPUS_PER_TASK": "288"}, "ok"),
        (288, {"SLURM_CPUS_PER_TASK": "288"}, "warn"),
        (1, {"SLURM_CPUS_PER_TASK": "288", "SRUN_CPUS_PER_TASK": "288"}, "FAIL"),
        (2, {}, "ok"),
    ],
)
def test_being_bound_to_one_core_fails(bound, environ, status, tmp_path):
    assert slurm.judge_cores(bound, machine(tmp_path, environ=environ)).status == status


@pytest.mark.parametrize(("given", "status"), [("4", "ok"), ("1", "warn"), ("8", "FAIL")])
def test_devices_slurm_gave_are_held_against_the_drivers(given, status, tmp_path):
    subject = with_gpus(tmp_path, environ={"SLURM_JOB_ID": "1", "SLURM_GPUS_ON_NODE": given})
    assert slurm.gpus_of_the_job(subject).status == status
