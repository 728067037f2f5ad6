"""LPIPS in the comparison of methods: a column where it can be computed, and a dash with the reason where not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engine_runs import taba

from taba_core.metrics import measure
from taba_core.metrics.distances.lpips import ALEXNET, Lpips
from taba_core.store import Store
from workflows.analysis.presentation import DASH
from workflows.analysis.study import find_studies, read_settings
from workflows.compute.batch import Batch
from workflows.compute.kinds.pictures import distances
from workflows.configuration.context import Context
from workflows.planning.plan import make_plan
from workflows.studies.methods.lpips import unsuited
from workflows.studies.methods.tables import tables_of

SMALL = (
    "num_samples=4",
    "arc_samples=2",
    "bootstrap_replicates=100",
    "num_inference_steps=10",
    "methods=ddim,bdia",
)


def mean_difference(self, reference, estimate):
    """A distance of pictures that needs no network: mean |a - b|, in place of LPIPS."""
    return (reference - estimate).abs().mean(dim=(1, 2, 3))


@pytest.fixture
def measurable(monkeypatch):
    monkeypatch.setattr(Lpips, "why_not", lambda self: None)
    monkeypatch.setattr(Lpips, "of", mean_difference)


def run_methods(place, *settings):
    arguments = [part for one in (*SMALL, *settings) for part in ("--set", one)]
    where = ("--model", "gaussian", "--store", place, "--executor", "local", "--no-report")
    return taba("run", "methods", *where, *arguments)


def run(place, *settings):
    """The store, and its results as a report has them."""
    assert run_methods(place, *settings) == 0
    store = Store.open(place, mode="r")
    (methods,) = find_studies(["methods"])
    return store, [methods.annotate(store, store.read_result(name)) for name in store.results()]


def test_without_it_the_run_works_and_says_so_and_with_it_nothing_else_is_made_again(tmp_path, measurable):
    store, (result,) = run(tmp_path / "store")
    before = {group.name for group in store.artifacts()}
    tables = {table.id: table for table in tables_of("Gaussian field", result, 0, [result])}
    note = "LPIPS is not measured: it was not asked for; --set methods.lpips=on measures it."
    assert note in tables["table7"].notes and note in tables["methods-accuracy"].notes
    assert lpips_cell(tables["table7"], "DDIM inversion") == DASH and np.isnan(result["lpips"]).all()

    store, results = run(tmp_path / "store", "lpips=on")
    # No image is made again: a small artifact for each of two rows.
    added = [group for group in store.artifacts() if group.name not in before]
    assert [group.artifact.kind for group in added] == ["distances"] * 2 and len(results) == 2
    (measured,) = [one for one in results if np.isfinite(one["lpips"]).all()]
    # The stand-in is the mean absolute difference, which is measured anyway.
    np.testing.assert_allclose(measured["lpips"], measured["mae"], rtol=1e-5)
    tables = {table.id: table for table in tables_of("Gaussian field", measured, 0, [measured])}
    assert any("sha256 7be5be79..." in note for note in tables["table7"].notes)
    ddim = lpips_cell(tables["table7"], "DDIM inversion")
    assert ddim.value == pytest.approx(float(measured["mae"].sel(row="ddim")), rel=1e-5)
    assert ddim.paper is None  # the paper's value is SDXL's
    assert ddim.ci95[0] < ddim.value < ddim.ci95[1] and ddim.spread > 0
    assert lpips_cell(tables["methods-accuracy"], "DDIM inversion").value == ddim.value


def lpips_cell(table, row):
    column = [c.name for c in table.columns].index("lpips")
    return table.cells[table.rows.index(row)][column]


class Held:
    """A worker and its model in one: arrays by name, and a codec that doubles."""

    def __init__(self, **arrays):
        self.arrays, self.codec = arrays, self

    def read(self, source, start, stop, names):
        return {name: self.arrays[name][start:stop] for name in names}

    def model(self, spec):
        return self

    def tensor(self, array):
        return torch.from_numpy(array)

    def decode(self, latent):
        return 2 * latent[:, :3]


def test_of_a_latent_model_it_is_the_distance_of_decoded_pictures(measurable):
    context = Context("dit", "ddim", read_settings(["num_samples=4", "methods=ddim", "lpips=on"]))
    artifact = find_studies(["methods"])[0].requests(context)["lpips/ddim"].artifact
    # 8-bit 204 is 204 / 127.5 - 1 = .6; .25 decodes to .5, in 8 bits round(191.25) = 191: .498; off the screen 1.
    latent = np.full((2, 4, 32, 32), 0.25, dtype=np.float32)
    latent[1] = 7
    held = Held(decoded=np.full((2, 3, 32, 32), 204, dtype=np.uint8), reconstruction=latent)
    found = distances(Batch(held, artifact, 0, 2, ("distance",)))["distance"]
    np.testing.assert_allclose(found, [0.6 - (191 / 127.5 - 1), 0.4], rtol=1e-5)
    read = {p.artifact.kind: p.variables for p in make_plan(context, find_studies(["methods"])).artifacts}
    assert "decoded" in read["generation"]


def test_the_key_of_a_result_depends_on_what_was_asked_and_not_on_what_is_installed(monkeypatch):
    (study,) = find_studies(["methods"])
    contexts = {
        on: Context("gaussian", "ddim", read_settings([*SMALL, f"lpips={on}"])) for on in ("on", "off")
    }
    keys = {}
    for there, reason in (("here", None), ("missing", "lpips is not installed.")):
        monkeypatch.setattr(Lpips, "why_not", lambda self, reason=reason: reason)
        keys[there] = {on: study.result_key(context) for on, context in contexts.items()}
    assert keys["here"] == keys["missing"] and keys["here"]["on"] != keys["here"]["off"]

    asked, without = (study.requests(contexts[on]) for on in ("on", "off"))
    one = asked["lpips/ddim"].artifact
    assert (
        one.fingerprint == "1-7be5be79" and one.key != one.model_copy(update={"fingerprint": "1-other"}).key
    )
    planned = {p.artifact.kind: p for p in make_plan(contexts["on"], [study]).artifacts}["distances"]
    assert planned.sample_evaluations == 0 and planned.variables == ["distance"]
    assert {
        name: request.artifact.key for name, request in asked.items() if not name.startswith("lpips/")
    } == {name: request.artifact.key for name, request in without.items()}


def test_a_run_that_asks_for_it_where_it_is_missing_is_refused_before_the_store_is_made(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(measure, "find_spec", lambda name: object())
    assert run_methods(tmp_path / "store", "lpips=on") == 2
    said = capsys.readouterr().err
    assert (
        "--set methods.lpips=on: AlexNet's weights are not here" in said
        and "alexnet-owt-7be5be79.pth" in said
    )
    assert f"download them from {ALEXNET.url}" in said and "--set methods.lpips=off" in said
    assert not (tmp_path / "store").exists()


def test_images_too_small_are_said_to_be(measurable, monkeypatch):
    monkeypatch.setattr(Lpips, "least_side", 33)
    context = Context("gaussian", "ddim", read_settings(["lpips=on"]))
    assert unsuited(context) == (
        "it takes RGB images with sides of at least 33, and this model's are 3x32x32."
    )
    (study,) = find_studies(["methods"])
    assert not [name for name in study.requests(context) if name.startswith("lpips/")]
