"""Folders of small pictures with plain and busy halves, and runs of the studies that start from real images."""

from __future__ import annotations

import json

import numpy as np
from engine_runs import taba
from PIL import Image

from cluster.pool.executor import Resources
from cluster.pool.local import LocalExecutor
from taba_core.store import Store
from workflows.analysis.study import find_studies, read_settings
from workflows.configuration.context import Context
from workflows.execution.engine import run_plan
from workflows.planning.plan import make_plan

STUDIES = ("correlation", "regions", "fix")
SMALL = ("num_inference_steps=5", "batch_size=4", "samples_per_shard=8", "bootstrap_replicates=100", "top_k=5",
         "forward_steps=1", "patch_size=4")  # fmt: skip
MIXTURE = ("model.num_components_per_photo=1", "model.rank=4")


def save_pictures(folder, count=10, **columns):
    """Pictures 00.png, 01.png ... of 48 x 40, and their metadata if any is given."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    for i in range(count):
        pixels = np.full((40, 48, 3), rng.integers(0, 255, 3), dtype=np.uint8)
        pixels[:, 20:] = rng.integers(0, 255, (40, 28, 3))
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    if columns:
        write_metadata(folder, count, **columns)
    return folder


def write_metadata(folder, count=10, **columns):
    rows = [
        {"file_name": f"{i:02}.png", **{name: values[i] for name, values in columns.items()}}
        for i in range(count)
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def context_of(folder, *sets, model="photo-mixture", small=SMALL):
    options = MIXTURE if model == "photo-mixture" else ()
    return Context(str(model), "ddim", read_settings([*small, *options, f"images={folder}", *sets]))


def run(store, context, studies=STUDIES, workers=1):
    place = Store.open(store, mode="a")
    plan = make_plan(context, find_studies(list(studies)), place)
    return run_plan(
        plan, place, lambda: LocalExecutor(workers), Resources(), workers=workers, scheduler="synchronous"
    )


def arguments(folder, store, *sets, studies=STUDIES, model="photo-mixture"):
    """The same run as words of the command line."""
    options = MIXTURE if model == "photo-mixture" else ()
    every = [*SMALL, *options, f"images={folder}", *sets]
    words = [word for text in every for word in ("--set", text)]
    return [*studies, "--model", str(model), "--store", str(store), *words]


def group(store, kind, **fields):
    """The one artifact of a kind whose spec has these fields."""
    (found,) = [
        g
        for g in Store.open(store).artifacts()
        if g.artifact.kind == kind
        and all(getattr(g.artifact, name) == value for name, value in fields.items())
    ]
    return found


def results(store):
    place = Store.open(store)
    read = [place.read_result(name) for name in place.results()]
    return {result.attrs["study"]: result for result in read}


def refused(capsys, *words):
    """The one line of a refusal before anything was written."""
    assert taba(*words) == 2
    said = capsys.readouterr().err
    assert said.count("taba: error: ") == 1
    return said.partition("taba: error: ")[2].strip()


def local(folder, store, *sets, **choice):
    return ("run", *arguments(folder, store, *sets, **choice), "--executor", "local", "--no-report")
