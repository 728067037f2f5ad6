"""Every kind of artifact declares itself, and one class and one function make a new one: planned, stored, read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import xarray as xr

import taba_core
from cluster.pool.executor import Resources
from cluster.pool.local import LocalExecutor
from taba_core.artifacts.base import Artifact, SampleSource, from_attrs, kinds
from taba_core.artifacts.generation import Generation
from taba_core.artifacts.variable import row
from taba_core.store import Store
from workflows.analysis.study import Study, find_studies, studies
from workflows.compute import batch as batches
from workflows.compute.arrays import in_memory
from workflows.compute.kinds.generation import path_of
from workflows.configuration.context import Context
from workflows.configuration.settings import Settings, parse_settings
from workflows.execution.engine import run_plan
from workflows.planning.plan import make_plan

ROOT = Path(__file__).parents[2]
# Described, and no command makes them yet.
NOT_MADE: set[str] = set()


def test_every_kind_has_a_function_and_every_function_a_kind():
    made = {name: kind for name, kind in kinds().items() if name not in NOT_MADE}
    assert len(made) >= 9
    for kind in made.values():
        assert callable(batches.function_of(kind))
    assert set(made.values()) <= set(batches._COMPUTE) <= set(kinds().values())


@pytest.mark.parametrize("name", sorted(kinds()))
def test_a_kind_says_what_it_stores_and_reads(name):
    kind = kinds()[name]
    names = [variable.name for variable in kind.stored]
    assert kind.kind == name and len(set(names)) == len(names) > 0
    known = {variable.name for other in kinds().values() for variable in other.stored}
    assert set(kind.reads) <= known
    for variable in kind.stored:
        assert variable.dims[0] == "sample" and variable.units and variable.long_name
        assert variable.attrs()["units"] == variable.units


def test_every_kind_of_the_package_is_a_module_of_its_own_and_alone_in_it():
    modules = [kind.__module__ for kind in kinds().values()]
    assert len(set(modules)) == len(modules)
    assert all(module.startswith("taba_core.artifacts.") for module in modules)


# ---------------------------------------------------------------- a new kind


@pytest.fixture
def kind(monkeypatch):
    """A kind that is not in the package: how far the state moves in each step, which needs the whole path."""

    class PathLength(Artifact):
        kind: ClassVar[str] = "path-length"
        reads: ClassVar[tuple[str, ...]] = ("image", "class_id")
        paths_in_memory: ClassVar[int] = 1
        stored: ClassVar = (row("length", ("sample", "step"), "distance that the state moves in the step"),)

        source: Generation

        @property
        def samples(self) -> SampleSource:
            return self.source

        def sources(self):
            return (self.source,)

        def num_evaluations(self):
            return self.num_steps

        def saved_evaluations(self, made):
            return self.num_steps if self.source in made else 0

    def compute(batch):
        image = batch.read(batch.artifact.source, "image")["image"]
        x_t = in_memory(path_of(batch, batch.artifact.source)["x_t"])
        moves = np.diff(np.concatenate([image[:, None], x_t], axis=1), axis=1)
        return {"length": np.sqrt(np.square(moves, dtype=np.float64).sum(axis=(2, 3, 4)))}

    monkeypatch.setattr(batches, "_COMPUTE", dict(batches._COMPUTE))
    batches.function_of.cache_clear()
    batches.computes(PathLength)(compute)
    kinds.cache_clear()
    yield PathLength
    del PathLength.kind  # the class outlives the test, and is no kind any more
    kinds.cache_clear()
    batches.function_of.cache_clear()
    assert "path-length" not in kinds()


def asking(kind):
    """A study of the new kind."""

    class Lengths(Study):
        name, title, question = "lengths", "Lengths of paths", "How far does a sample go?"
        paper_section = "0"

        def requests(self, context):
            images = context.generation(context.num_steps(self.paper_steps))
            return {"lengths": context.request(kind(source=images), ("length",))}

        def analyse(self, inputs, context):
            length = inputs.head("lengths", "length", inputs.num_samples)
            return xr.Dataset({"mean": ("step", length.mean(axis=0))}).assign_attrs(claims="[]")

        def present(self, results):
            return self.section(results)

    return Lengths()


SETTINGS = ["num_samples=10", "samples_per_shard=4", "num_inference_steps=3", "bootstrap_replicates=100"]


def test_a_new_kind_is_planned_computed_stored_and_read(tmp_path, kind):
    context = Context("gaussian", "ddim", parse_settings(SETTINGS))
    study, store = asking(kind), Store.open(tmp_path / "s", mode="a")

    plan = make_plan(context, [study], store)
    generation, length = plan.artifacts
    assert (generation.artifact.kind, length.artifact.kind) == ("generation", "path-length")
    # It is made by the units that walk the path, and stores a float64 of each sample and step: 3 shards of 4, 3 steps.
    assert plan.units == 3 and plan.shards_missing == 6 and plan.evaluations == 12 * 3
    assert plan.bytes_of(length) == 3 * (4 * 3 * 8 + 24) and plan.files_of(length) > 3
    assert generation.variables == ["noise", "image", "class_id"]

    done = run_plan(plan, store, lambda: LocalExecutor(1), Resources(), workers=1, scheduler="synchronous")
    assert done.evaluations == 36 and done.analysed == ["lengths"]
    assert make_plan(context, [study], store).units == 0

    group = store.open_artifact(length.artifact)
    assert group.artifact == length.artifact == from_attrs(group.artifact.attrs())
    assert group.missing() == {} and group.verify(deep=True) == []
    node = taba_core.find(taba_core.open_store(tmp_path / "s", whole_shards=True), kind="path-length")
    assert node.length.dims == ("sample", "step") and node.length.shape == (12, 3)
    assert node.length.attrs["long_name"] == "distance that the state moves in the step"
    # The distances are those of the path as another run stores it.
    asked = [*SETTINGS, "trajectories=all"]
    whole = Store.open(tmp_path / "whole", mode="a")
    paths = make_plan(Context("gaussian", "ddim", parse_settings(asked)), find_studies(["step-error"]), whole)
    run_plan(paths, whole, lambda: LocalExecutor(1), Resources(), workers=1, scheduler="synchronous")
    (images,) = [g for g in whole.artifacts() if g.artifact == generation.artifact]
    read = images.read_samples(0, 12, ("image", "x_t"))
    states = np.concatenate([read["image"][:, None], read["x_t"]], axis=1).astype(np.float64)
    np.testing.assert_allclose(
        node.length, np.linalg.norm(np.diff(states, axis=1).reshape(12, 3, -1), axis=2), rtol=1e-6
    )
    # Tables take the first ten.
    (name,) = store.results()
    np.testing.assert_array_equal(store.read_result(name)["mean"], node.length[:10].values.mean(axis=0))


def test_a_kind_without_a_function_is_refused_by_name(kind):
    del batches._COMPUTE[kind]
    with pytest.raises(
        TypeError, match=r"no function in workflows\.compute\.kinds computes artifacts of kind 'path-length'"
    ):
        batches.function_of(kind)


# ---------------------------------------------------------------- what CONTRIBUTING promises


def text_of(name):
    return (ROOT / name).read_text()


def test_every_place_that_the_page_names_is_there():
    page = text_of("CONTRIBUTING.md")
    named = {
        name.rstrip("/")
        for name in re.findall(r"`([\w./-]+)`", page)
        if name.split("/")[0] in ("taba_core", "workflows", "cluster", "tests", "slurm") and "/" in name
    }
    assert len(named) > 8 and not {name for name in named if not (ROOT / name).exists()}


def test_a_study_is_found_by_being_there():
    folder = ROOT / "workflows" / "studies"
    found = {
        path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    homes = {type(study).__module__.split(".")[2] for study in studies().values()}
    assert homes == found - {"__init__", "__pycache__"}


def test_studies_come_in_the_papers_order():
    assert list(studies()) == [
        "model-card", "correlation", "regions", "location", "step-error", "fix", "derivation", "more-steps", "fix-long",
        "triangles", "mapping", "methods", "pie-bench", "sample-quality", "compressibility", "edits", "interpolation",
        "stochastic-edits", "flows", "training",
    ]  # fmt: skip


def test_a_field_of_a_run_is_declared_once_and_set_and_help_follow(capsys):
    from engine_runs import taba

    assert taba("run", "--help") == 0
    said = capsys.readouterr().out
    fields = set(Settings.model_fields) - {"model_options", "method_options", "study_options"}
    assert not {name for name in fields if name not in said}
    assert parse_settings(["trajectories=all"]).trajectories == "all"
    assert parse_settings(["trajectories=0"]).trajectories == 0
