"""Every way out works that readers of a store are told, and those who find that it has another driver."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from engine_runs import taba
from remedy_runs import RUN, one, same_files, unfinished

import taba_core
from taba_core.errors import StoreError, UsageError
from taba_core.store import Store

follows = pytest.mark.follows


# ---------------------------------------------------------------- what readers of a store are told


def read(store, name, variable, start=0, stop=8):
    group = next(g for g in Store.open(store).artifacts() if g.artifact.kind == name)
    return group.read_samples(start, stop, [variable])[variable]


@follows("Run the same command again: it computes what is not complete.")
@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_bytes(b"x")], ids=["gone", "cut"])
def test_a_shard_that_is_not_whole_is_computed_by_the_same_command(damage, store, finished):
    damage(one(store, "gaussian-inversion-*/latent/c.1.*"))
    with pytest.raises(StoreError):
        read(store, "inversion", "latent")
    assert taba(*RUN, "--store", store) == 0
    assert (read(store, "inversion", "latent") == read(finished, "inversion", "latent")).all()


@follows("on the store, then the same command again: it computes them anew.")
@follows(" problems. `taba run` with the same settings recomputes what is missing", printed=True)
@follows("; add --forget to recompute corrupt shards too.", printed=True)
def test_a_shard_with_a_flipped_bit_is_found_forgotten_and_computed_anew(store, finished, capsys):
    file = one(store, "gaussian-inversion-*/latent/c.1.*")
    whole = file.read_bytes()
    file.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    with pytest.raises(StoreError) as error:
        read(store, "inversion", "latent")
    capsys.readouterr()
    assert taba("verify", "--deep", "--store", store) == 1
    said = capsys.readouterr().out
    assert "1 problems. `taba run` with the same settings recomputes what is missing; add --forget to" in said
    (command,) = re.findall(r"`taba (.*?)`", str(error.value))
    assert command == "verify --deep --forget"
    assert taba(*command.split(), "--store", store) == 1  # it says what it has found
    assert taba(*RUN, "--store", store) == 0
    same_files(store, finished)


@follows("Run the study that needs it: it is added.")
def test_a_variable_that_nobody_asked_for_is_added_by_the_study_that_needs_it(store):
    with pytest.raises(StoreError, match="no variable 'x_t'"):
        next(g for g in Store.open(store).artifacts() if g.artifact.kind == "generation").array("x_t")
    assert taba("run", "step-error", *RUN[2:], "--store", store) == 0
    assert read(store, "generation", "x_t").shape == (8, 5, 3, 32, 32)


@follows("Run a study of more samples (of whole paths: --set trajectories=all): they are ")
def test_samples_that_were_not_asked_for_are_added(store):
    few = ["run", "step-error", *RUN[2:], "--store", store]
    assert taba(*few, "--set", "trajectories=4") == 0
    with pytest.raises(StoreError, match="only the first 4 samples of 'x_t'"):
        read(store, "generation", "x_t")
    assert taba(*few, "--set", "trajectories=all") == 0
    assert read(store, "generation", "x_t").shape == (8, 5, 3, 32, 32)


@follows("Run its study again: it is analysed anew.")
def test_a_damaged_result_is_analysed_anew_by_its_study(store, refused, finished):
    one(store, "gaussian-correlation-*/lag1_noise/zarr.json").write_text("{}")
    refused(1, "report", "--store", store)
    assert taba(*RUN, "--store", store) == 0
    same_files(store, finished)
    assert taba("report", "--store", store) == 0


@follows(". Say one of: ")
def test_of_several_datasets_the_field_that_differs_decides(store):
    assert taba(*RUN, "--set", "seed=7", "--store", store) == 0
    tree = taba_core.open_store(store)
    with pytest.raises(UsageError) as error:
        taba_core.find(tree, kind="inversion")
    fields = str(error.value).partition("Say one of: ")[2].rstrip(".").split(", ")
    assert "seed" in fields
    for field in fields:  # each of them tells the two apart
        values = {
            node.attrs[field] for node in tree.children.values() if node.attrs.get("kind") == "inversion"
        }
        assert len(values) == 2
        for value in values:
            assert "latent" in taba_core.find(tree, kind="inversion", **{field: value})


@follows("' is that of an artifact in the store; give it another name.")
@follows(" is open for reading only; open it with mode 'a'.")
def test_a_result_of_a_free_name_is_written_to_a_store_open_for_writing(store):
    import xarray as xr

    own, attrs = xr.Dataset({"a": ("x", [1.0, 2.0])}), {"variables": ["a"]}
    taken = next(g.name for g in Store.open(store).artifacts())
    with pytest.raises(UsageError, match="for reading only"):
        Store.open(store).write_result("mine", own, attrs)
    with pytest.raises(UsageError, match="another name"):
        Store.open(store, "a").write_result(taken, own, attrs)
    Store.open(store, "a").write_result("mine", own, attrs)
    assert Store.open(store).read_result("mine")["a"].values.tolist() == [1.0, 2.0]


# ---------------------------------------------------------------- one driver a store

HOLDER = """
import sys, time
from taba_core.store.lease import acquire
acquire(sys.argv[1], "first")
print("held", flush=True)
time.sleep(60)
"""


@follows("Two drivers must not write one store: wait for it, ", "stop it (`")
def test_a_store_that_is_held_is_waited_for_freed_or_left(tmp_path, refused):
    store = tmp_path / "store"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(store)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        said = refused(75, *RUN, "--store", store)
        assert taba(*RUN, "--store", tmp_path / "another") == 0
        (command,) = re.findall(r"stop it \(`(.*?)`\)", said)
        assert command == f"kill {holder.pid}"
        os.kill(int(command.split()[1]), signal.SIGTERM)
        holder.wait(30)
    finally:
        holder.kill()
    assert taba(*RUN, "--store", store) == 0  # its lease is still there: a dead driver is replaced at once


def stopped_by(lease_is, monkeypatch, store):
    """Let something happen to the lease as soon as a run has computed its first unit."""
    from taba_core.store.lease import Lease

    real, count = Lease.check, iter(range(1000))

    def check(self):
        if next(count) == 1:
            lease_is(Path(str(self.file)))
        real(self)

    monkeypatch.setattr(Lease, "check", check)


@follows("Nothing is lost; leave the store to the other run.")
def test_a_store_that_was_taken_over_is_finished_by_the_other_run(tmp_path, monkeypatch, refused, finished):
    store = tmp_path / "store"
    stopped_by(lambda file: attributes_of_lease(file, run="other"), monkeypatch, store)
    assert "taken over by run other" in refused(75, *RUN, "--store", store)
    monkeypatch.undo()
    # The other run goes on: here it is one that has the lease's name, and ends like any run.
    (store / "_ledger" / "lease.json").unlink()
    assert taba(*RUN, "--store", store) == 0
    same_files(store, finished)


def attributes_of_lease(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    "lease_is",
    [
        pytest.param(
            Path.unlink, marks=follows("without writing; run the same command again: it continues.")
        ),
        pytest.param(
            lambda file: file.parents[1].rename(file.parents[2] / "moved"),
            marks=follows("put it back and run the same command again: it continues."),
        ),
    ],
    ids=["lease", "store"],
)
def test_a_run_whose_lease_or_store_went_away_is_run_again(
    lease_is, tmp_path, monkeypatch, refused, finished
):
    store = tmp_path / "store"
    stopped_by(lease_is, monkeypatch, store)
    refused(1, *RUN, "--store", store)
    monkeypatch.undo()
    if (tmp_path / "moved").exists():
        shutil.rmtree(store, ignore_errors=True)
        (tmp_path / "moved").rename(store)
        # The process that was stopped has ended; here it is this one, which gets the start of another.
        attributes_of_lease(store / "_ledger" / "lease.json", process_started=1)
    assert taba(*RUN, "--store", store) == 0
    same_files(store, finished)


@follows("See to the file system, then run the same command ")
def test_a_lease_that_cannot_be_read_is_read_when_the_file_system_answers(store, monkeypatch, refused):
    shutil.copy(store / "zarr.json", store / "_ledger" / "lease.json")
    real = Path.read_bytes

    def refuse(path):
        if path.name == "lease.json":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert "Input/output error" in refused(1, *RUN, "--store", unfinished(store))
    monkeypatch.undo()
    (store / "_ledger" / "lease.json").unlink()
    assert taba(*RUN, "--store", store) == 0
