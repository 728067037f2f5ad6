"""The same run on object storage: same bytes, same commit rules. `memory://` is an object store of this process."""

from __future__ import annotations

import json
import uuid

import obstore
import pytest

from taba_core.store import Store
from taba_core.store.address import place_of
from taba_core.store.lease import acquire
from workflows.__main__ import main

RUN = [
    "run", "correlation", "--model", "gaussian", "--executor", "local", "--workers", "2",
    "--set", "num_samples=32", "--set", "samples_per_shard=16", "--set", "num_inference_steps=5",
    "--set", "bootstrap_replicates=100",
]  # fmt: skip


def taba(*arguments):
    """Exit code of a command, run in this process."""
    try:
        main([str(a) for a in arguments])
    except SystemExit as ended:
        return ended.code or 0
    return 0


def contents(place):
    """Every file but the ledger and the report, which tell of the run itself."""
    names = [n for n in place.walk() if n.split("/")[0] not in ("_ledger", "report")]
    return place.read_existing(names)


def damage(place, name, how):
    data = (place / name).read_bytes()
    if how == "missing":
        (place / name).remove()
    elif how == "truncated":
        (place / name).write_atomic(data[:-7])
    elif how == "empty":
        (place / name).write_atomic(b"")
    else:
        (place / name).write_atomic(data[:50] + bytes([data[50] ^ 1]) + data[51:])


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    path = tmp_path_factory.mktemp("local") / "store"
    assert taba(*RUN, "--no-report", "--store", path) == 0
    return place_of(path)


@pytest.fixture
def remote():
    place = place_of(f"memory://{uuid.uuid4().hex}/runs")
    yield place
    place.remove_tree()


@pytest.fixture
def copied(local, remote):
    """The finished store, copied object by object."""
    for name in local.walk():
        (remote / name).write_atomic((local / name).read_bytes())
    return remote


def test_a_run_writes_the_same_bytes_to_objects_as_to_files(local, remote, capsys):
    assert taba(*RUN, "--store", remote.url) == 0
    said = capsys.readouterr().out
    assert f"report: taba report --store {remote.url} --output FOLDER" in said
    assert contents(remote) == contents(local)
    assert taba("verify", "--deep", "--store", remote.url) == 0
    assert taba(*RUN, "--store", remote.url) == 0
    assert "computed 0 units, analysed 0 studies, reused 1" in capsys.readouterr().out


@pytest.mark.parametrize("survived", [1, 12, 30, 41])
def test_a_driver_that_dies_at_any_write_is_resumed(local, remote, survived, monkeypatch):
    put, count = obstore.put, iter(range(10**6))

    def dies(client, key, value, **options):
        if next(count) >= survived:
            raise OSError(5, "the machine is gone")
        return put(client, key, value, **options)

    with monkeypatch.context() as patch:
        patch.setattr(obstore, "put", dies)
        patch.setattr(obstore, "delete", lambda client, key: None)  # a dead driver does not even tidy up
        assert taba(*RUN, "--store", remote.url) != 0
    lease = remote / "_ledger" / "lease.json"
    if lease.exists():  # of a process that is gone
        lease.write_atomic(json.dumps(json.loads(lease.read_bytes()) | {"pid": 2**22 + 1}).encode())
    assert taba(*RUN, "--store", remote.url) == 0
    assert contents(remote) == contents(local) and not lease.exists()


@pytest.mark.parametrize("how", ["missing", "truncated", "empty", "flipped bit"])
def test_damaged_objects_are_found_and_computed_again(local, copied, how, capsys):
    shard = next(n for n in copied.walk() if "inversion" in n and n.endswith("latent/c.1.0.0.0"))
    damage(copied, shard, how)
    assert taba("verify", "--deep", "--forget", "--store", copied.url) == 1
    assert "latent shard 1: " in capsys.readouterr().out
    assert taba(*RUN, "--store", copied.url) == 0
    assert contents(copied) == contents(local)


def test_two_drivers_do_not_share_a_remote_store(copied, capsys):
    lease = acquire(copied, "first")
    assert taba(*RUN, "--store", copied.url) == 75
    assert "belongs to run first" in capsys.readouterr().err
    lease.check(), lease.beat(), lease.release()
    assert taba(*RUN, "--store", copied.url) == 0


@pytest.mark.follows(" is remote, and a report is written to a directory: add --output FOLDER.")
def test_every_reading_command_takes_a_url(copied, tmp_path, capsys):
    for command in ("status", "verify"):
        assert taba(command, "--store", copied.url) == 0
    assert taba("plan", *RUN[1:4], *RUN[8:], "--store", copied.url) == 0
    assert "0 units" in capsys.readouterr().out
    assert taba("report", "--store", copied.url) == 2
    assert "is remote, and a report is written to a directory: add --output FOLDER" in capsys.readouterr().err
    assert taba("report", "--store", copied.url, "--output", tmp_path / "report") == 0
    assert (tmp_path / "report" / "index.html").exists()


def test_there_is_no_store_at_that_url(remote, capsys):
    assert taba("status", "--store", remote.url) == 2
    assert f"no store at {remote.url}" in capsys.readouterr().err
    assert not Store.is_there(remote.url)
