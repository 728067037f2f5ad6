"""`taba compare`: what changed between two stores or two report folders, and nothing is written."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid

import pytest
from engine_runs import taba
from remedy_runs import RUN

from taba_core.store import Store
from taba_core.store.address import place_of

HALVES = 3.0  # the change of a number below, in half-widths of its interval


def compare(capsys, a, b, *options):
    """Exit code and JSON document of a comparison."""
    capsys.readouterr()
    code = taba("compare", a, b, "--json", *options)
    return code, json.loads(capsys.readouterr().out)


def everything(path):
    return {str(f): hashlib.blake2b(f.read_bytes()).hexdigest() for f in path.rglob("*") if f.is_file()}


def changed(path, change):
    """Replace the one result of a store by what `change` makes of it."""
    store = Store.open(path, mode="a")
    (name,) = store.results()
    result = store.read_result(name)
    change(result)
    store.write_result(name, result, {})
    return result


@pytest.fixture(scope="module")
def other_seed(tmp_path_factory):
    path = tmp_path_factory.mktemp("seed") / "store"
    assert taba(*RUN, "--set", "seed=1", "--store", path) == 0
    return path


def test_a_copy_is_equal_and_neither_is_touched(finished, store, capsys):
    before = everything(finished), everything(store)
    code, found = compare(capsys, finished, store)
    assert code == 0 and found["equal"] and found["numbers_compared"] == 12 and found["claims_compared"] == 3
    assert taba("compare", finished, store) == 0
    said = capsys.readouterr().out
    assert (
        said.endswith("\nA and B say the same.\n")
        and f"{found['numbers_compared']} numbers compared, 0 differ" in said
    )
    assert (everything(finished), everything(store)) == before


def test_a_number_that_moved_is_told_in_half_widths_of_its_interval(finished, store, capsys):
    was = {}

    def move(result):
        low, high = (float(result[f"lag1_latent_{end}"]) for end in ("low", "high"))
        was["old"], was["half"] = float(result["lag1_latent"]), (high - low) / 2
        result["lag1_latent"] += HALVES * was["half"]

    changed(store, move)
    code, found = compare(capsys, finished, store)
    (moved,) = found["numbers_moved"]
    assert code == 1 and not found["equal"] and not found["verdicts_changed"]
    assert (moved["study"], moved["model"]) == ("correlation", "gaussian")
    assert (moved["item"], moved["column"]) == ("table2-unbiased", "lag1_latent")
    assert moved["old"] == was["old"]
    assert moved["new"] == pytest.approx(was["old"] + HALVES * was["half"])
    assert moved["share"] == pytest.approx(HALVES)
    assert taba("compare", finished, store) == 1
    said = capsys.readouterr().out
    assert (
        "correlation / gaussian / table2-unbiased / Gaussian field / lag1_latent" in said
        and said.endswith("\nA and B differ.\n")
    )


def test_a_verdict_that_changed_is_told_and_no_number_is(finished, store, capsys):
    def turn(result):
        claims = json.loads(result.attrs["claims"])
        claims[0]["verdict"] = {"holds": "fails"}.get(claims[0]["verdict"], "holds")
        result.attrs["claims"] = json.dumps(claims)

    result = changed(store, turn)
    code, found = compare(capsys, finished, store)
    (change,) = found["verdicts_changed"]
    assert code == 1 and not found["numbers_moved"]
    assert change["name"] == "C2a" and change["where"] == "correlation on gaussian"
    assert change["new"] == json.loads(result.attrs["claims"])[0]["verdict"] != change["old"]


def test_another_setting_is_told_beside_what_it_moved(finished, other_seed, capsys):
    code, found = compare(capsys, finished, other_seed)
    assert code == 1 and found["numbers_moved"] and not found["only_in_a"]
    assert {(c["name"], c["old"], c["new"]) for c in found["settings_changed"]} == {
        ("seed", "420", "1"),
        ("settings.seed", "420", "1"),
    }


def test_a_result_that_one_alone_has_is_named(finished, store, capsys):
    (name,) = Store.open(store).results()
    shutil.rmtree(store / name)
    code, found = compare(capsys, finished, store)
    assert (
        code == 1 and found["only_in_a"] == [f"correlation on gaussian ({name})"] and not found["only_in_b"]
    )
    code, found = compare(capsys, store, finished)
    assert code == 1 and found["only_in_b"] and found["numbers_compared"] == 0


def test_a_row_that_one_alone_has_is_named(finished, store, capsys):
    changed(store, lambda result: result.attrs.update(model_title="Another title"))
    _, found = compare(capsys, finished, store)
    assert "correlation on gaussian: table2: Gaussian field" in found["only_in_a"]
    assert "correlation on gaussian: table2: Another title" in found["only_in_b"]


def test_other_versions_are_told_and_are_no_difference(finished, store, capsys):
    log = store / "_ledger" / "runs.jsonl"
    entry = json.loads(log.read_text().splitlines()[-1])
    entry["versions"]["torch"] = "0.1"
    log.write_text(json.dumps(entry) + "\n")
    code, found = compare(capsys, finished, store)
    (change,) = found["versions_changed"]
    assert code == 0 and found["equal"] and (change["name"], change["new"]) == ("torch", "0.1")


def test_a_result_of_another_version_of_its_study_is_not_compared(finished, store, capsys):
    result = changed(store, lambda result: result.attrs.update(study_version=99))
    code, found = compare(capsys, finished, store)
    assert code == 1 and found["not_compared"] == [
        f"B: {name}: stored by another version of its study" for name in Store.open(store).results()
    ]
    assert result.attrs["study_version"] == 99


def test_a_store_on_object_storage_is_compared_as_a_directory_is(finished, capsys):
    remote = place_of(f"memory://{uuid.uuid4().hex}/runs")
    local = place_of(finished)
    for name in local.walk():
        (remote / name).write_atomic((local / name).read_bytes())
    before = sorted(remote.walk())
    code, found = compare(capsys, finished, remote.url)
    assert code == 0 and found["numbers_compared"] == 12 and sorted(remote.walk()) == before
    remote.remove_tree()


@pytest.fixture(scope="module")
def folders(finished, other_seed, tmp_path_factory):
    """Report folders of both stores."""
    made = [tmp_path_factory.mktemp("folders") / name for name in "ab"]
    for store, folder in zip((finished, other_seed), made, strict=True):
        assert taba("report", "--store", store, "--output", folder) == 0
    return made


def test_report_folders_tell_the_same_as_their_stores(finished, other_seed, folders, capsys):
    code, found = compare(capsys, folders[0], folders[0])
    assert code == 0 and found["numbers_compared"] == 12 and found["claims_compared"] == 3
    code, found = compare(capsys, *folders)
    _, of_stores = compare(capsys, finished, other_seed)

    def moved(document):
        return {(m["item"], m["column"]): (m["old"], m["new"]) for m in document["numbers_moved"]}

    assert code == 1 and moved(found) == moved(of_stores)
    assert [(c["name"], c["old"], c["new"]) for c in found["settings_changed"]] == [("seed", "420", "1")]


@pytest.mark.follows(" writes the report folder of a store.", "Name the --store of a run, the folder that ")
def test_what_cannot_be_compared_is_refused_with_the_way_out(finished, folders, tmp_path, refused):
    said = refused(2, "compare", finished, folders[0])
    assert said.startswith(
        f"{finished} is a store and {folders[0]} is a report folder; compare two of a kind."
    )
    assert taba("report", "--store", finished, "--output", tmp_path / "r") == 0
    assert taba("compare", tmp_path / "r", folders[0]) == 0
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "empty", tmp_path / "nowhere", "memory://nothing/here"):
        said = refused(2, "compare", finished, nothing)
        assert said.startswith(f"{nothing} is neither a store (it has no zarr.json), nor a report folder")
    assert taba("compare", finished, finished) == 0


@pytest.mark.parametrize("content", ["{", "[1]", '{"results": [{}]}', "[]["])
@pytest.mark.follows("Write it again by `taba report`")
def test_a_file_that_is_none_of_ours_is_refused_until_it_is_written_again(
    content, finished, folders, tmp_path, refused
):
    folder = shutil.copytree(folders[0], tmp_path / "r")
    (folder / "results.json").write_text(content)
    assert str(folder / "results.json") in refused(2, "compare", folder, folders[0])
    assert taba("report", "--store", finished, "--output", folder) == 0
    assert taba("compare", folder, folders[0]) == 0
