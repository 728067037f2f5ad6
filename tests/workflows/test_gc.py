"""`taba gc` lists what nothing needs, deletes only when told to, and never what a run is writing."""

from __future__ import annotations

import json
import os
import shutil
import time

import pytest

from taba_core.store import Store
from taba_core.store.lease import hold
from workflows.__main__ import main

RUN = [
    "run", "correlation", "--model", "gaussian", "--executor", "local", "--workers", "1", "--no-report",
    "--set", "num_samples=16", "--set", "num_inference_steps=3", "--set", "bootstrap_replicates=100",
]  # fmt: skip


def taba(*arguments):
    try:
        main([str(a) for a in arguments])
    except SystemExit as ended:
        return ended.code or 0
    return 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("gc") / "store"
    assert taba(*RUN, "--store", path) == 0
    return path


@pytest.fixture
def store(finished, tmp_path):
    return Store.open(shutil.copytree(finished, tmp_path / "store"))


def files(store):
    return {str(p.relative_to(store.path)) for p in store.path.rglob("*") if p.is_file()}


def litter(store):
    """One thing of every kind, and the files it is made of."""
    inversion = next(g for g in store.artifacts() if g.artifact.kind == "inversion")
    made = {
        f"{inversion.name}/latent/c.0.0.0.0.ab.partial": b"half",
        "_ledger/gaussian-inversion-000000000000.jsonl": b"{}\n",
        "_ledger/logs/old.jsonl": b"{}\n",
        "_ledger/prompts/sd-xl-000000000000.npz": b"words",
        "_ledger/status.json.ab.partial": b"{",
    }
    for name, data in made.items():
        (store.path / name).parent.mkdir(exist_ok=True)
        (store.path / name).write_bytes(data)
    month = time.time() - 40 * 86400
    os.utime(store.path / "_ledger/logs/old.jsonl", (month, month))
    return set(made)


def test_a_finished_store_holds_no_garbage(store, capsys):
    before = files(store)
    assert taba("gc", "--store", store.path) == 0
    assert "nothing to delete" in capsys.readouterr().out
    assert taba("gc", "--store", store.path, "--delete", "--unreferenced") == 0
    assert files(store) == before


@pytest.mark.follows("can go. Nothing was deleted; add --delete.", printed=True)
def test_what_can_go_is_listed_by_default_and_deleted_when_told(store, capsys):
    kept = (
        store.path / "_ledger/prompts/gaussian-111111111111.npz"
    )  # of a model that the store has artifacts of
    kept.parent.mkdir()
    kept.write_bytes(b"words")
    before = files(store)
    made = litter(store)
    assert taba("gc", "--store", store.path) == 0
    said = capsys.readouterr().out
    assert "the store has no artifact of sd-xl" in said
    # 4 + 3 + 3 + 5 + 1 bytes
    assert "5 things, 16 B, can go. Nothing was deleted; add --delete" in said
    assert files(store) == before | made
    assert taba("gc", "--store", store.path, "--delete") == 0
    assert "deleted 5 things, 16 B" in capsys.readouterr().out
    assert files(store) == before
    assert taba("verify", "--deep", "--store", store.path) == 0


def test_what_a_live_run_writes_is_neither_listed_nor_deleted(store, capsys):
    made = litter(store)
    with hold(store.path):
        assert taba("gc", "--store", store.path) == 0
        said = capsys.readouterr().out
        assert "A run owns this store" in said and "interrupted write" not in said
        assert taba("gc", "--store", store.path, "--delete") == 75
    assert made <= files(store)


def test_results_of_an_older_study_version_can_go_and_their_artifacts_stay(store, capsys):
    (result,) = store.results()
    meta = store.path / result / "zarr.json"
    attrs = json.loads(meta.read_text())
    attrs["attributes"]["study_version"] = 0
    meta.write_text(json.dumps(attrs))
    assert taba("gc", "--store", store.path, "--delete", "--unreferenced") == 0
    assert "version 0 of correlation, now" in capsys.readouterr().out
    assert store.results() == [] and len(store.artifacts()) > 1


@pytest.mark.follows("stay; add --unreferenced to delete them too.", printed=True)
def test_artifacts_no_result_refers_to_are_listed_and_go_only_when_named_or_asked(store, capsys):
    (result,) = store.results()
    groups = {g.name for g in store.artifacts()}
    assert taba("gc", "--store", store.path, "--delete", "--artifact", result) == 0
    assert store.results() == [] and {g.name for g in store.artifacts()} == groups
    assert taba("gc", "--store", store.path, "--delete") == 0
    said = capsys.readouterr().out
    assert (
        f"{len(groups)} artifacts no result refers to" in said and "add --unreferenced to delete them" in said
    )
    assert {g.name for g in store.artifacts()} == groups
    assert taba("gc", "--store", store.path, "--delete", "--unreferenced") == 0
    assert store.artifacts() == []
    assert not [name for name in files(store) if name.startswith("_ledger/gaussian")]


def test_one_artifact_is_removed_with_its_receipts_and_made_again_by_a_run(store, finished, capsys):
    inversion = next(g.name for g in store.artifacts() if g.artifact.kind == "inversion")
    generation = next(g.name for g in store.artifacts() if g.artifact.kind == "generation")
    assert taba("gc", "--store", store.path, "--artifact", generation) == 0
    assert "artifacts made from it stay" in capsys.readouterr().out
    assert taba("gc", "--store", store.path, "--artifact", inversion, "--delete") == 0
    assert not [name for name in files(store) if inversion in name]
    (result,) = store.results()
    assert taba("gc", "--store", store.path, "--artifact", result, "--delete") == 0
    assert taba(*RUN, "--store", store.path) == 0
    shard = f"{inversion}/latent/c.0.0.0.0"
    assert (store.path / shard).read_bytes() == (finished / shard).read_bytes()


def test_names_that_are_not_there_are_refused(store, capsys):
    assert taba("gc", "--store", store.path, "--artifact", "nothing", "--delete") == 2
    assert "unknown artifact or result 'nothing'" in capsys.readouterr().err
    assert taba("gc", "--store", store.path / "absent") == 2
