"""A method of one's own as one file: what it is, what it scored, and what another needs to make it again."""

from __future__ import annotations

import copy
import hashlib
import json
import sys

import pytest
from engine_runs import taba
from test_own_method import of_the_page

from taba_core.store import Store
from workflows.studies.methods.submission import MADE_OF, submissions, with_origin

METHOD = "submitted_method:Twice"
RUN = (
    "run", "methods", "--model", "gaussian", "--executor", "local", "--workers", "1", "--method", METHOD,
    "--set", "num_samples=8", "--set", "num_inference_steps=10", "--set", "bootstrap_replicates=100",
    "--set", "methods=ddim",
)  # fmt: skip
FILE = "submission-submitted_method-Twice.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with the method's file and a finished store."""
    folder = tmp_path_factory.mktemp("submission")
    (folder / "submitted_method.py").write_text(of_the_page("submitted"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [p for p in sys.path if p])
        assert taba(*RUN, "--set", "method.weight=0.5", "--store", "s") == 0
        yield folder


@pytest.fixture(scope="module")
def written(folder):
    return json.loads((folder / "s/report" / FILE).read_text())


def test_it_says_what_the_method_is(folder, written):
    digest = hashlib.blake2b((folder / "submitted_method.py").read_bytes(), digest_size=6).hexdigest()
    assert (written["method"], written["options"], written["module_hash"]) == (
        METHOD,
        {"weight": 0.5},
        digest,
    )
    # The machine it was made on is nobody else's matter.
    assert str(folder) not in json.dumps(written)
    (entry,) = written["results"]
    assert (entry["model"], entry["n"], entry["T"], entry["seed"]) == ("gaussian", 8, 10, 420)
    assert entry["run"]["versions"]["torch"] and set(entry["run"]["code"]) == {
        "taba_core",
        "cluster",
        "workflows",
    }


def test_its_row_has_the_numbers_of_the_report(folder, written):
    rows = json.loads((folder / "s/report/results.json").read_text())
    mine = {
        r["column"]: r
        for r in rows
        if r["item"] in ("methods-accuracy", "methods-gaussianity")
        and r["row"].endswith(f"{METHOD} (weight=0.5)")
    }
    row = written["results"][0]["table7"]
    assert {"evaluations", "correlation", "kl", "mae", "psnr"} <= row.keys()
    told = [column for column in row.keys() & mine.keys() if row[column]["value"] is not None]
    for column in told:
        assert {key: row[column][key] for key in ("value", "ci95", "floor", "T")} == {
            key: mine[column][key] for key in ("value", "ci95", "floor", "T")
        }
    assert len(told) >= 4
    assert row["evaluations"]["value"] == 20 and row["correlation"]["floor"] > 0
    assert row["mae"]["ci95"][0] <= row["mae"]["value"] <= row["mae"]["ci95"][1]
    noise = [r for r in rows if r["item"] == "table7" and r["row"].endswith("Gaussian noise")]
    assert written["results"][0]["gaussian_noise"]["kl"]["value"] == next(
        r["value"] for r in noise if r["column"] == "kl"
    )


def test_its_artifacts_are_those_of_the_store(folder, written):
    store = Store.open(folder / "s")
    (entry,) = written["results"]
    assert entry["result"] in store.results()
    assert entry["artifacts"].keys() >= {"generation", "latent/own", "image/own", "arc/own"}
    groups = {group.name: group.artifact for group in store.artifacts()}
    assert set(entry["artifacts"].values()) <= groups.keys()
    # The spec that is written down makes the key: another can tell that it is the same inversion.
    inversion = groups[entry["artifacts"]["latent/own"]]
    assert type(inversion).model_validate(entry["inversion"]).key == inversion.key


def test_two_submissions_are_compared(folder, written, tmp_path, capsys):
    file = folder / "s/report" / FILE
    assert taba("compare", file, file) == 0
    other = {**copy.deepcopy(written), "options": {"weight": 1.0}}
    other["results"][0]["table7"]["mae"]["value"] += 1
    other["results"][0]["table7"]["seconds"]["value"] += 1  # a time, which differs from run to run
    (tmp_path / "other.json").write_text(json.dumps(other))
    capsys.readouterr()
    assert taba("compare", file, tmp_path / "other.json", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert [(m["item"], m["column"]) for m in found["numbers_moved"]] == [("table7", "mae")]
    assert [(c["name"], c["new"]) for c in found["settings_changed"]] == [("options.weight", "1.0")]


@pytest.fixture
def stored(folder):
    """The study's result as a report reads it."""
    store = Store.open(folder / "s")
    (name,) = store.results()
    result = store.read_result(name)
    result.attrs["name"] = name
    return store, result


def test_other_options_and_an_edited_file_are_files_of_their_own(stored, written):
    store, result = stored
    one = with_origin(store, result)
    assert submissions([one])[FILE.removesuffix(".json")]["results"][0]["result"] == result.attrs["name"]
    origin = one.attrs[MADE_OF]
    others = [
        one.assign_attrs(
            {MADE_OF: {**origin, "inversion": {**origin["inversion"], **changed}}, "name": f"m-{key}"}
        )
        for key, changed in (
            ("b", {"method_options": {"weight": 1.0}}),
            ("c", {"method_fingerprint": "0" * 12}),
        )
    ]
    files = submissions([one, *others, one])
    first = FILE.removesuffix(".json")
    assert list(files) == [first, f"{first}-b", f"{first}-c"] and len(files[first]["results"]) == 2
    assert files[f"{first}-b"]["options"] == {"weight": 1.0}
    assert files[f"{first}-c"]["module_hash"] == "0" * 12 != written["module_hash"]


def test_a_comparison_without_a_method_of_ones_own_writes_none(stored):
    store, result = stored
    without = result.sel(row=["ddim"])
    assert with_origin(store, without) is without and submissions([without]) == {}
