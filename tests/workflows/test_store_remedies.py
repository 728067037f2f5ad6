"""Every way out that a message about a store names works: it is followed as it is written, and the run succeeds."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from engine_runs import fingerprints, taba

import taba_core
from taba_core.errors import StoreError, UsageError
from taba_core.store import Store, files

follows = pytest.mark.follows
RUN = [
    "run", "correlation", "--model", "gaussian", "--executor", "local", "--workers", "1", "--no-report",
    "--set", "num_samples=8", "--set", "samples_per_shard=4", "--set", "num_inference_steps=5",
    "--set", "bootstrap_replicates=100",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("finished") / "store"
    assert taba(*RUN, "--store", path) == 0
    return path


@pytest.fixture
def store(finished, tmp_path):
    """A copy of a finished store."""
    return shutil.copytree(finished, tmp_path / "store")


@pytest.fixture
def refused(capsys):
    """The error of a command that fails; its exit code is checked."""

    def call(code, *arguments):
        capsys.readouterr()
        assert taba(*arguments) == code
        (line,) = re.findall(r"^taba: error: (.*)", capsys.readouterr().err, re.MULTILINE)
        return line

    return call


def attributes(file: Path, **changes):
    """Change attributes of a `zarr.json`; None removes one. The content before."""
    before = file.read_text()
    content = json.loads(before)
    for name, value in changes.items():
        content["attributes"].pop(name, None)
        if value is not None:
            content["attributes"][name] = value
    file.write_text(json.dumps(content))
    return before


def one(store, pattern):
    (found,) = store.glob(pattern)
    return found


def unfinished(store):
    """The store as a run finds it that must look at every template and compute one shard."""
    one(store, "gaussian-inversion-*/latent/c.1.*").unlink()
    return store


def same_files(store, finished):
    """Every file that carries data or meaning is that of an undisturbed run."""
    assert fingerprints(store) == fingerprints(finished)


# ---------------------------------------------------------------- the file system refuses


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(errno.ENOSPC, marks=follows("Free space or use another --store")),
        pytest.param(errno.EDQUOT, marks=follows("Free some of your quota or use another --store")),
        pytest.param(errno.EROFS, marks=follows("Use a --store on a writable file system")),
        pytest.param(errno.EACCES, marks=follows("Fix the permissions or use another --store")),
        pytest.param(errno.EPERM, marks=follows("Fix the permissions or use another --store")),
        pytest.param(errno.EIO, marks=follows("See to the file system")),
    ],
)
@follows(", then run the same command again: it continues from here.")
def test_what_the_file_system_refuses_is_written_elsewhere_or_later(
    number, tmp_path, monkeypatch, refused, finished
):
    store, real = tmp_path / "store", Path.open

    def refuse(path, mode="r", *arguments, **options):
        if mode == "xb" and str(path).startswith(f"{store}/") and "/latent/" in str(path):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    said = refused(1, *RUN, "--store", store)
    assert f"({errno.errorcode[number]}). Nothing partial was kept. " in said
    assert not list(store.rglob("*.partial"))
    assert taba(*RUN, "--store", tmp_path / "another") == 0
    monkeypatch.setattr(Path, "open", real)
    assert taba(*RUN, "--store", store) == 0
    same_files(store, finished)


@follows("Raise the file size limit (ulimit -f) or use another --store with fewer samples_per_shard")
def test_a_file_size_limit_is_raised_or_met_by_smaller_shards(tmp_path, refused):
    def command(per_shard, store):
        sizes = [
            "--set",
            "num_samples=16",
            "--set",
            "batch_size=8",
            "--set",
            f"samples_per_shard={per_shard}",
        ]
        return [*RUN[:9], *sizes, *RUN[13:], "--store", tmp_path / store]

    before, action = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # A shard of 16 latents takes 16 x 3 x 32 x 32 x 4 = 196,608 bytes and its checksums, one of 8 the half.
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, before[1]))
        assert "(EFBIG)" in refused(1, *command(16, "store"))
        assert taba(*command(8, "store")) == 1  # a store keeps the size of its shards, hence another one
        assert taba(*command(8, "another")) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, action)
    assert taba(*command(16, "store")) == 0


@follows(" bytes; run the same command again.", printed=True)
@follows("Everything else is stored; run the same command again to retry only these.")
def test_a_file_system_that_kept_fewer_bytes_is_written_to_again(tmp_path, monkeypatch, refused, finished):
    real = os.fstat

    class Less:
        st_size = 1

    def less(handle):
        return Less if "/latent/c." in os.readlink(f"/proc/self/fd/{handle}") else real(handle)

    monkeypatch.setattr(files.os, "fstat", less)
    assert re.search(r"latent/c\S+ got 1 of \d+ bytes", refused(3, *RUN, "--store", tmp_path / "store"))
    monkeypatch.undo()
    assert taba(*RUN, "--store", tmp_path / "store") == 0
    same_files(tmp_path / "store", finished)


# ---------------------------------------------------------------- a path that cannot be the store


@follows("a store is a directory. Give another path.", "give --store a new or empty directory.")
@follows("is a Zarr hierarchy but no taba store; give --store another path.")
def test_a_file_and_directories_of_others_are_left_for_another_path(tmp_path, refused):
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    (tmp_path / "zarr").mkdir()
    (tmp_path / "zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    (tmp_path / "empty").mkdir()
    for name in ("file", "full", "zarr"):
        refused(2, *RUN, "--store", tmp_path / name)
    for name in ("new", "empty"):
        assert taba(*RUN, "--store", tmp_path / name) == 0


@follows("is not writable: fix its permissions or use another --store.")
def test_a_directory_without_write_permission_is_opened_up_or_left(store, tmp_path, refused, monkeypatch):
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(store) and real(path, mode))
    refused(1, *RUN, "--store", store)  # root may write anywhere, so the answer is ours
    assert taba(*RUN, "--store", tmp_path / "another") == 0
    monkeypatch.undo()
    assert taba(*RUN, "--store", store) == 0


@follows("there is no zarr.json. Check --store, or run a study to make it.")
def test_a_store_that_is_not_there_is_made_by_a_run(tmp_path, refused):
    (tmp_path / "here").mkdir()
    for command in ("report", "verify"):
        refused(2, command, "--store", tmp_path / "here")
    assert taba(*RUN, "--store", tmp_path / "here") == 0
    for command in ("report", "verify"):
        assert taba(command, "--store", tmp_path / "here") == 0


@follows("`taba run STUDY --store ")
def test_the_command_that_status_names_makes_the_store(tmp_path, refused):
    said = refused(2, "status", "--store", tmp_path / "mine")
    (command,) = re.findall(r"`taba (.*?)`", said)
    words = command.replace("STUDY", "correlation").split()
    assert taba(*words, *RUN[2:]) == 0
    assert taba("status", "--store", tmp_path / "mine") == 0


@follows("Use the taba that made it, or give --store a new path.")
def test_a_store_of_another_version_is_left_as_it_is_for_a_new_path(store, tmp_path, refused, finished):
    before = attributes(store / "zarr.json", schema_version=1)
    said = refused(1, *RUN, "--store", store)
    assert "has schema version 1, this taba reads version 2" in said
    assert taba(*RUN, "--store", tmp_path / "new") == 0
    (store / "zarr.json").write_text(before)  # the taba that made it finds everything
    same_files(store, finished)


# ---------------------------------------------------------------- groups that are not what they should be


@follows("does not say how many samples it holds; remove it.")
def test_a_group_without_its_number_of_samples_is_removed(store, refused, finished):
    group = one(store, "gaussian-inversion-*")
    attributes(group / "zarr.json", num_samples=None)
    refused(1, *RUN, "--store", store)
    shutil.rmtree(group)
    assert taba(*RUN, "--store", store) == 0
    same_files(store, finished)


@pytest.mark.parametrize(
    ("pattern", "content"),
    [
        ("gaussian-inversion-*/zarr.json", "{"),
        pytest.param(
            "gaussian-inversion-*/zarr.json", "[]", marks=follows(" is damaged (no JSON object). Remove")
        ),
        ("gaussian-inversion-*/latent/zarr.json", "{"),
        ("gaussian-correlation-*/zarr.json", "{"),
    ],
)
@follows("). Remove its directory; a run makes it again.")
def test_a_directory_whose_metadata_are_damaged_is_removed_and_made_again(
    pattern, content, store, refused, finished
):
    file = one(store, pattern)
    file.write_text(content)
    assert str(file) in refused(1, *RUN, "--store", store)
    shutil.rmtree(file.parent)
    assert taba(*RUN, "--store", store) == 0
    same_files(store, finished)


@follows("Remove this file alone; a run makes it again, and keeps what the store holds.")
@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_root_is_made_again_and_nothing_of_the_store_is_lost(store, content, refused, finished):
    (store / "zarr.json").write_text(content)
    assert str(store / "zarr.json") in refused(1, *RUN, "--store", store)
    (store / "zarr.json").unlink()
    before = fingerprints(store)
    assert taba(*RUN, "--store", store) == 0
    same_files(store, finished)
    assert before.items() < fingerprints(store).items()


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"spec": {"seed": "none"}}, marks=follows("has a spec this taba cannot read: ")),
        pytest.param(
            {"schema_version": 1}, marks=follows(". Use the taba that made it, or remove the group.")
        ),
        pytest.param({"seed": 7}, marks=follows("this artifact. Remove the group or use another --store.")),
    ],
)
def test_a_group_of_another_version_or_spec_is_removed_or_left(changes, store, tmp_path, refused, finished):
    group = one(store, "gaussian-inversion-*")
    if "seed" in changes:
        spec = json.loads((group / "zarr.json").read_text())["attributes"]["spec"]
        changes = {"spec": spec | {"num_inference_steps": 4}}
    attributes(group / "zarr.json", **changes)
    refused(1, *RUN, "--store", store)
    assert taba(*RUN, "--store", tmp_path / "another") == 0
    shutil.rmtree(group)
    assert taba(*RUN, "--store", store) == 0
    same_files(store, finished)


@follows(" is asked. Remove the group or use another --store.")
def test_an_array_of_another_shape_goes_with_its_group(store, tmp_path, refused, finished):
    unfinished(store)
    group = one(store, "gaussian-inversion-*")
    meta = group / "latent" / "zarr.json"
    meta.write_text(meta.read_text().replace('"float32"', '"float64"'))
    refused(1, *RUN, "--store", store)
    assert taba(*RUN, "--store", tmp_path / "another") == 0
    shutil.rmtree(group)
    assert taba(*RUN, "--store", store) == 0
    same_files(store, finished)


@follows("version of the model or its schedule. Remove the group or use another --store.")
def test_a_coordinate_of_another_schedule_goes_with_its_group(store, tmp_path, refused, finished):
    import numpy as np

    from taba_core.store import template
    from taba_core.store.address import place_of

    unfinished(store)
    group = one(store, "gaussian-inversion-*")
    template._write_coordinate(place_of(group / "alpha_bar"), "alpha_bar", np.linspace(0.9, 0.1, 5))
    refused(1, *RUN, "--store", store)
    assert taba(*RUN, "--store", tmp_path / "another") == 0
    shutil.rmtree(group)
    assert taba(*RUN, "--store", store) == 0
    same_files(store, finished)


@follows("it was renamed; undo that.")
def test_a_renamed_group_is_named_back(store, refused, finished):
    group = one(store, "gaussian-inversion-*")
    other = group.rename(store / "my-inversion")
    said = refused(1, "verify", "--store", store)
    other.rename(store / re.findall(r"'([^']+)'", said)[0])
    assert taba("verify", "--store", store) == 0
    same_files(store, finished)


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
