"""The edit columns of study `methods`: of which images, numbers by their definition, where they are and are not."""

from __future__ import annotations

import numpy as np
import pytest
from engine_runs import result_of, taba

from taba_core.artifacts.edit import Edit
from taba_core.errors import UsageError
from taba_core.stats.compressibility import to_bytes
from taba_core.store import Store
from workflows.analysis.study import read_settings, studies
from workflows.configuration.context import Context
from workflows.studies.methods.tables import tables_of

ROWS = ("ddim", "forward-2-exact", "edict", "bdia-half", "renoise-k1")
SMALL = (
    "num_samples=8", "num_inference_steps=10", "bootstrap_replicates=100", "methods.arc_samples=2",
    "model.num_components_per_photo=2", "model.rank=8", f"methods.rows={','.join(ROWS)}",
)  # fmt: skip
STUDY = studies()["methods"]


def run(place, *sets, model="photo-mixture", settings=SMALL):
    arguments = [part for one in (*settings, *sets) for part in ("--set", one)]
    where = ("--model", model, "--executor", "local", "--store", place, "--no-report")
    return taba("run", "methods", *where, *arguments)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("methods") / "store"
    assert run(place) == 0
    return place


@pytest.fixture(scope="module")
def result(place):
    return result_of(place)


@pytest.fixture(scope="module")
def tables(place, result):
    told = STUDY.annotate(Store.open(place), result)
    return {table.id: table for table in tables_of("Photo mixture", told, 0, [told])}


def reader(place, result):
    groups = {group.name: group for group in Store.open(place).artifacts()}
    return lambda name, variable: groups[result.attrs["artifacts"][name]].read_samples(0, 8, (variable,))[
        variable
    ]


@pytest.mark.parametrize("row", ["noise", "ddim", "edict", "renoise-k1"])
def test_the_numbers_are_those_of_the_definitions(place, result, row):
    read = reader(place, result)
    image, edit = (
        to_bytes(read(*of)).astype(float) for of in (("edits/images", "image"), (f"edit/{row}", "edit"))
    )
    own, target = read("edits/images", "class_id"), read(f"edit/{row}", "target_class_id")
    posterior = read(f"posterior/{row}", "probability")
    expected = {
        "mae": np.abs(image - edit).mean() / 127.5,
        "random-lpips": read(f"edit-random-lpips/{row}", "distance").mean(dtype=float),
        "posterior_source": posterior[np.arange(8), own].mean(),
        "posterior_target": posterior[np.arange(8), target].mean(),
    }
    for name, value in expected.items():
        found = float(result["edit"].sel(edit_row=row, edit_measure=name))
        assert found == pytest.approx(value, rel=1e-5), name


def test_reconstructions_have_the_stand_in_for_lpips(place, result):
    read = reader(place, result)
    for row in ROWS:
        expected = read(f"back_proxy/{row}", "distance").mean(dtype=float)
        assert float(result["back_proxy"].sel(row=row)) == pytest.approx(expected, rel=1e-5)
    # EDICT comes back, DDIM does not.
    assert float(result["back_proxy"].sel(row="edict")) < 1e-3 < float(result["back_proxy"].sel(row="ddim"))


def test_images_without_a_condition_stay_what_they_were_and_edits_have_images_with_a_class(place, tmp_path):
    off = Context("photo-mixture", "ddim", read_settings([*SMALL, "methods.edits=off"]))
    on = Context("photo-mixture", "ddim", read_settings([*SMALL, "methods.edits=auto"]))
    asked, before = STUDY.requests(on), STUDY.requests(off)
    assert {name: asked[name].artifact.key for name in before} == {
        name: request.artifact.key for name, request in before.items()
    }
    images = asked["edits/images"].artifact
    assert images.conditioning == "class" and asked["generation"].artifact.conditioning == "none"
    assert {name for name in asked if name.startswith("edit/")} == {f"edit/{row}" for row in ("noise", *ROWS)}
    assert all(isinstance(asked[f"edit/{row}"].artifact, Edit) for row in ROWS)
    # With a condition of their own the images are edited themselves.
    own = Context("photo-mixture", "ddim", read_settings([*SMALL, "conditioning=class"]))
    same = STUDY.requests(own)
    assert same["edits/images"].artifact == same["generation"].artifact
    assert same["edit/ddim"].artifact.source == same["latent/ddim"].artifact


def test_no_number_that_was_there_moves(place, result, tmp_path):
    assert run(tmp_path / "s", "methods.edits=off") == 0
    before = result_of(tmp_path / "s")
    assert "edit" not in before and "back_proxy" not in before
    for name in before.variables:
        np.testing.assert_array_equal(before[name].values, result[name].values, err_msg=str(name))
    assert before.attrs["claims"] == result.attrs["claims"]


def test_table_7_has_source_and_target_before_the_time_labelled_as_stand_ins(tables, result):
    table = tables["table7"]
    names = [column.name for column in table.columns]
    assert names[-3:] == ["edit/posterior_source", "edit/posterior_target", "seconds"]
    source, target = table.columns[-3:-1]
    assert (source.label, target.label) == ("Source", "Target")
    assert (source.proxy, target.proxy) == ("CLIP-T (source)", "CLIP-T (target)")
    shown = dict(zip(table.rows, table.cells, strict=True))
    for row, name in (("Gaussian noise", "noise"), ("DDIM inversion", "ddim")):
        for cell, which in zip(shown[row][-3:-1], ("source", "target"), strict=True):
            where = {"edit_row": name, "edit_measure": f"posterior_{which}"}
            assert cell.value == float(result["edit"].sel(where)) and cell.paper is None
            assert cell.ci95[0] <= cell.value <= cell.ci95[1] and cell.spread >= 0
    notes = " ".join(table.notes)
    assert "made with a class" in notes and "`taba fetch metrics`" in notes
    every = tables["methods-edits"]
    assert set(every.rows) == {"Gaussian noise", *(str(one) for one in result["row_label"].values)}
    proxies = {column.name: column.proxy for column in every.columns}
    assert proxies["edit/random-lpips"] == proxies["back_proxy"] == "LPIPS" and not proxies["edit/mae"]


def test_models_without_a_condition_have_no_edits_and_asking_for_them_is_refused():
    plain = Context("gaussian", "ddim", read_settings(["num_samples=8"]))
    assert not [name for name in STUDY.requests(plain) if name.startswith("edit")]
    asked = Context("gaussian", "ddim", read_settings(["num_samples=8", "methods.edits=on"]))
    with pytest.raises(UsageError, match="reads neither; use a model that reads classes or prompts"):
        STUDY.requests(asked)
    for model in ("photo-dit", "photo-if"):
        of = [
            Context(model, "ddim", read_settings(["num_samples=8", *sets]))
            for sets in ([], ["methods.edits=on"])
        ]
        count = [sum(name.startswith("edit/") for name in STUDY.requests(context)) for context in of]
        assert (
            count[0] == 0
            and count[1] == len([n for n in STUDY.requests(of[1]) if n.startswith("latent/")]) + 1
        )


@pytest.mark.parametrize("model", ["photo-dit", "photo-if"])
def test_trained_networks_have_them_where_they_are_asked_for(tmp_path, model):
    rows = "methods.rows=ddim,direct-inversion" + (",negative-prompt" if model == "photo-if" else "")
    settings = ("num_samples=4", "num_inference_steps=4", "bootstrap_replicates=100", "methods.arc_samples=2")
    assert run(tmp_path / "s", rows, "methods.edits=on", model=model, settings=settings) == 0
    result = result_of(tmp_path / "s")
    names = result["edit_measure"].values.tolist()
    assert "classifier_target" in names and not [name for name in names if name.startswith("posterior")]
    assert np.isfinite(result["edit"].values).all() and not int(result["edit_other_images"])
    told = STUDY.annotate(Store.open(tmp_path / "s"), result)
    tables = {table.id: table for table in tables_of(model, told, 0, [told])}
    assert "edit/classifier_source" in [column.name for column in tables["table7"].columns]


def test_without_edits_a_result_has_the_key_that_it_had_before_there_were_any():
    # Of the paper's rows: the key of all rows moves with every method that is added.
    keys = {"photo-mixture": "2b159d8fd4a0", "photo-dit": "4c3860ce1c16", "gaussian": "ad36cc6c025d"}
    for model, key in keys.items():
        settings = read_settings(["methods.edits=off", "methods.rows=table7"])
        assert STUDY.result_key(Context(model, "ddim", settings)) == key
