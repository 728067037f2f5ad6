"""Studies on real images: which they are is told everywhere, nothing is said that only generated images have."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from engine_runs import fingerprints, taba
from real_image_runs import (
    SMALL,
    STUDIES,
    arguments,
    context_of,
    group,
    local,
    refused,
    results,
    run,
    save_pictures,
)

from cluster.pool.executor import Resources
from cluster.pool.local import LocalExecutor
from taba_core import rng
from taba_core.artifacts.variable import UNCONDITIONAL
from taba_core.errors import UsageError
from taba_core.images.collection import open_images
from taba_core.store import Store
from workflows.analysis.study import find_studies
from workflows.execution.done import FailedUnitsError
from workflows.execution.engine import run_plan
from workflows.planning.plan import make_plan
from workflows.report.from_store import write_store_report

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="module")
def folder(base):
    return save_pictures(base / "boats")


@pytest.fixture(scope="module")
def store(base, folder):
    """The three studies on the photo mixture, with one worker: shards of 8 (two batches) and of the last 2."""
    place = base / "store"
    done = run(place, context_of(folder))
    assert sorted(done.analysed) == sorted(STUDIES)
    return place


@pytest.fixture(scope="module")
def told(store):
    """Every number of the report, the text of its tables, and that of the studies' pages."""
    write_store_report(store, None, force=True)
    report = store / "report"
    tables = {path.stem: path.read_text() for path in (report / "tables").glob("*.md")}
    pages = "".join(path.read_text() for path in sorted((report / "pages").glob("study-*.html")))
    return json.loads((report / "results.json").read_text()), tables, pages


def test_images_are_the_squares_of_the_files_in_shards_of_several_batches_and_a_cut_last_one(store, folder):
    images = group(store, "images")
    assert (images.extent.num_samples, images.extent.samples_per_shard, images.num_shards) == (10, 8, 2)
    assert set(images.variables) == {"image", "class_id"}
    held = images.read_samples(0, 10, ("image", "class_id"))
    expected = open_images(folder).squares(0, 10, 32).astype(np.float32) / 127.5 - 1
    assert np.array_equal(held["image"], expected) and (held["class_id"] == UNCONDITIONAL).all()
    assert all(g.extent.num_samples == 10 for g in Store.open(store).artifacts())


def test_two_workers_make_the_same_bits(store, folder, tmp_path):
    run(tmp_path / "two", context_of(folder), workers=2)
    report = {name: bits for name, bits in fingerprints(store).items() if not name.startswith("report")}
    assert fingerprints(tmp_path / "two") == report


def test_results_and_tables_say_which_images_and_hold_no_number_of_generated_ones(store, folder, told):
    which = f"10 images of boats, fingerprint {open_images(folder).fingerprint()}"
    for result in results(store).values():
        assert result.attrs["model_title"] == "Photo mixture on boats" and result.attrs["images"] == which
        assert (result.attrs["n"], result.attrs["T"]) == (10, 5)
        assert not [name for name in result.variables if "theory" in name or "flat" in name]
    records, tables, page = told
    assert records and all(r["theory"] is None and r["paper"] is None and r["seed"] is None for r in records)
    note = (
        f"Photo mixture on boats: real images ({which}; n of them are used). They came from no noise; what stands here "
        "for noise is white noise that was drawn for comparison."
    )
    for name in ("table2", "table2-unbiased", "table3", "table4", "table4-unbiased"):
        assert note in tables[name] and "Photo mixture on boats" in tables[name]
        assert "seed = " not in tables[name]
    assert "White noise " in tables["table4"]
    for said in (
        "Real images, white noise for comparison, their latents, and",
        "Real images, their plain areas, white",
    ):
        assert said in page
    assert "noise they came from" not in page and "closed form" not in page.lower().replace(
        "is a closed form", ""
    )


def test_latents_of_real_images_have_no_error_and_a_spread(store, told):
    _, tables, _ = told
    found = results(store)["regions"]
    assert not [name for name in found.variables if name.startswith(("error", "rms_error", "std_bound"))]
    (line,) = [line for line in tables["table3"].splitlines() if line.startswith("| Photo mixture")]
    cells = [cell.strip() for cell in line.split("|")[2:-1]]
    assert cells[:3] == ["–"] * 3 and all(float(cell.split()[0]) > 0 for cell in cells[3:])
    assert "real images came from no noise, so their latents have no error." in tables["table3"]
    claims = [claim["id"] for claim in json.loads(found.attrs["claims"])]
    assert claims == ["C3b", "C3c"]
    # The standard deviation by hand, over the plain pixels of all images and channels.
    latent = (
        group(store, "inversion", forward_steps=0).read_samples(0, 10, ("latent",))["latent"].astype(float)
    )
    region = group(store, "regions").read_samples(0, 10, ("region",))["region"].astype(bool)
    assert 0.2 < region.mean() < 0.8
    plain = latent.transpose(1, 0, 2, 3)[:, region]
    assert float(found["std"][0]) == pytest.approx(plain.std(ddof=1), rel=1e-6)


def test_noise_columns_are_white_noise_of_a_stream_of_their_own(store):
    found = results(store)["correlation"]
    noise = rng.normal(np.arange(10), (3, 32, 32), seed=0, stream="independent/noise")
    assert np.array_equal(found["first_noise"].values, noise[:8])
    other = rng.normal(
        np.arange(10), (3, 32, 32), seed=0, stream="independent"
    )  # what KL is measured against
    assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 4 / noise.size**0.5
    fix = results(store)["fix"]
    z = (noise - noise.mean()) / noise.std()
    assert abs(float(fix["std_noise"]) - 1) < 0.03 and abs(z.mean()) < 1e-6
    region = group(store, "regions").read_samples(0, 10, ("region",))["region"].astype(bool)
    spread = noise.astype(float).transpose(1, 0, 2, 3)[:, region].std(ddof=1)
    assert float(results(store)["regions"]["std_reference"][0]) == pytest.approx(spread, rel=1e-6)


def test_reconstructions_are_measured_against_the_given_image(store):
    image = group(store, "images").read_samples(0, 10, ("image",))["image"].astype(float)
    backs = [g for g in Store.open(store).artifacts() if g.artifact.kind == "reconstruction"]
    (plain,) = [g for g in backs if not g.artifact.source.forward_steps]
    back = plain.read_samples(0, 10, ("reconstruction",))["reconstruction"]
    found = results(store)["fix"]
    assert float(found["mae"][0, 0]) == pytest.approx(np.abs(image - back).mean(), rel=1e-6)
    worst = found["worst"].values
    assert np.array_equal(found["worst_image"].values, image[worst].astype(np.float32))


def test_reconstructions_come_back_to_the_image_with_many_steps(folder, tmp_path):
    sets = (
        "num_inference_steps=200",
        "batch_size=4",
        "num_samples=4",
        "forward_steps=1",
        "bootstrap_replicates=100",
    )
    run(tmp_path / "s", context_of(folder, model="gaussian", small=sets), ["fix"])
    run(
        tmp_path / "few",
        context_of(folder, model="gaussian", small=("num_inference_steps=20", *sets[1:])),
        ["fix"],
    )
    many, few = (float(results(tmp_path / name)["fix"]["mae"][0, 0]) for name in ("s", "few"))
    assert many < few / 4


def test_too_few_images_no_folder_and_no_image_are_refused(tmp_path, capsys):
    few = save_pictures(tmp_path / "few", 3)
    assert refused(capsys, *local(few, tmp_path / "s")) == (
        f"images={few}: the folder holds 3 images, and a table needs at least 4. Add images, or give another folder."
    )
    said = refused(capsys, *local(tmp_path / "gone", tmp_path / "s"))
    assert said.startswith(f"images='{tmp_path / 'gone'}': no such folder. Give a folder of images (.png,")
    save_pictures(few, 4)
    (few / "02.png").write_text("no picture")
    said = refused(capsys, *local(few, tmp_path / "s"))
    assert said.startswith(f"image '{few / '02.png'}' is no PNG, JPEG, BMP, TIFF or WebP image")
    assert "images is: folder of real images" in refused(capsys, *local("", tmp_path / "s"))
    assert not (tmp_path / "s").exists()


NEED_A_PATH = ("model-card", "location", "step-error", "derivation", "methods", "triangles", "mapping", "more-steps",
               "fix-long")  # fmt: skip


def test_every_study_either_runs_on_real_images_or_is_in_the_list_of_those_that_refuse():
    assert {study.name for study in find_studies(["paper"])} == {*STUDIES, *NEED_A_PATH}


@pytest.mark.parametrize("study", NEED_A_PATH)
def test_studies_that_need_a_path_refuse_with_one_message(study, folder):
    with pytest.raises(UsageError) as found:
        find_studies([study])[0].requests(context_of(folder))
    assert str(found.value) == (
        f"images={folder}: this study needs the noise or the path that images were sampled from, and real images have "
        "neither. Studies that run on real images: correlation, regions, fix."
    )


def plan_then(change, folder, store):
    """Plan a run, change the folder, run it."""
    place = Store.open(store, mode="a")
    plan = make_plan(context_of(folder), find_studies(["correlation"]), place)
    change()
    with pytest.raises(FailedUnitsError) as failed:
        run_plan(plan, place, lambda: LocalExecutor(1), Resources(), workers=1, scheduler="synchronous")
    assert failed.value.exit_code == 3 and not Store.open(store).results()
    return str(failed.value)


def test_an_image_that_changes_between_plan_and_run_fails_by_name_and_the_way_out_works(tmp_path):
    folder = save_pictures(tmp_path / "boats")

    def change():
        time.sleep(0.01)
        shutil.copy(folder / "01.png", folder / "00.png")

    said = plan_then(change, folder, tmp_path / "s")
    assert f"the images in {folder} are others than the run was planned with" in said
    assert "of 4 units failed (2 by themselves" in said
    assert run(tmp_path / "s", context_of(folder), ["correlation"]).units == 4
    held = [g for g in Store.open(tmp_path / "s").artifacts() if g.artifact.kind == "images"]
    assert len(held) == 2  # what was planned has no shard
    assert sorted(len(g.ledger.receipts()) for g in held) == [0, 2]


def test_a_folder_that_vanishes_fails_by_name(tmp_path):
    folder = save_pictures(tmp_path / "boats")
    said = plan_then(lambda: shutil.rmtree(folder), folder, tmp_path / "s")
    assert f"'{folder}': there is no such image or folder. Give an image, or a folder" in said


def test_plan_status_verify_and_gc(store, folder, tmp_path, capsys):
    assert taba("plan", *arguments(folder, tmp_path / "none")) == 0
    said = capsys.readouterr().out
    assert "Photo mixture on boats: correlation, regions, fix" in said and "photo-mixture-images-" in said
    assert not (tmp_path / "none").exists()
    before = fingerprints(store)
    assert taba("status", "--store", store) == 0
    assert taba("verify", "--deep", "--store", store) == 0
    assert taba("gc", "--store", store) == 0
    assert fingerprints(store) == before
    assert taba(*local(folder, store)) == 0
    assert "computed 0 units, analysed 0 studies, reused 3" in capsys.readouterr().out


@pytest.mark.slow
def test_more_images_compute_what_is_missing_wherever_the_folder_lies_by_then(store, tmp_path, capsys):
    place = tmp_path / "s"
    shards = [text.replace("shard=8", "shard=4") for text in SMALL]
    first, moved = save_pictures(tmp_path / "a" / "boats"), tmp_path / "b" / "boats"
    run(place, context_of(first, "num_samples=4", small=shards))
    moved.parent.mkdir()
    shutil.copytree(first, moved, copy_function=shutil.copyfile)  # other times too
    shutil.rmtree(first)
    done = run(place, context_of(moved))
    shards = {g.artifact.kind: g.num_shards for g in Store.open(place).artifacts()}
    assert set(shards.values()) == {3}
    images = group(place, "images")
    assert sorted(r.shard for r in images.ledger.receipts()) == [0, 1, 2]
    assert done.units and images.extent.num_samples == 10
    grown = {result.attrs["study"]: result for result in results_of_n(place, 10)}
    for study, whole in results(store).items():
        found = grown[study]
        assert whole.identical(found.assign_attrs(whole.attrs))
        assert (
            whole.attrs["claims"] == found.attrs["claims"] and whole.attrs["images"] == found.attrs["images"]
        )
    assert taba(*local(moved, place, "num_samples=50")) == 0
    said = capsys.readouterr().out
    assert f"num_samples=50: {moved} holds 10 images, and n is their number." in said
    assert "analysed 0 studies, reused 3" in said


def results_of_n(store, n):
    place = Store.open(store)
    return [r for r in map(place.read_result, place.results()) if r.attrs["n"] == n]
