"""Every way out that a refused store names works: it is followed as it is written, and the run succeeds."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import signal
from pathlib import Path

import pytest
from engine_runs import fingerprints, taba
from remedy_runs import RUN, attributes, one, same_files, unfinished

from taba_core.store import files

follows = pytest.mark.follows


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
    assert taba("plan", "training", "--store", tmp_path / "here") == 0  # an empty directory is no store yet
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
