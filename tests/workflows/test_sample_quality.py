"""Features and distances are stored, read again and compared: study sample-quality, on pixels and on latents."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from engine_runs import nodes, result_of, taba
from PIL import Image

import taba_core
from taba_core.artifacts.base import from_attrs
from taba_core.artifacts.distances import Distances
from taba_core.artifacts.features import Features
from taba_core.artifacts.inversion import Inversion
from taba_core.artifacts.reconstruction import Reconstruction
from taba_core.metrics.extractor import extractor_named
from taba_core.model_spec import ModelSpec
from taba_core.models.crops import real_crops
from taba_core.models.photos import load_photos
from taba_core.stats.frechet import frechet_distance
from taba_core.stats.manifold import density_coverage, precision_recall

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
import tiny_checkpoints as tiny

SMALL = ("num_samples=12", "num_inference_steps=4", "bootstrap_replicates=100", "batch_size=8")


def run(place, *settings, model="photo-mixture", report=False):
    chosen = dict(one.split("=", 1) for one in (*SMALL, *settings))  # the later one counts
    arguments = [part for name, value in chosen.items() for part in ("--set", f"{name}={value}")]
    where = ("--model", model, "--store", place, "--executor", "local", *(() if report else ("--no-report",)))
    return taba("run", "sample-quality", *where, *arguments)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("quality") / "store"
    assert run(place, report=True) == 0
    return place


def test_features_are_those_of_the_stored_images(place):
    images = taba_core.find(taba_core.open_store(place), kind="generation")["image"].values
    bytes_ = np.clip(np.round((images + 1) * 127.5), 0, 255).astype(np.uint8)
    import torch

    found = {
        n.attrs["extractor"]: n for n in nodes(place, "features") if n.attrs["source_kind"] == "generation"
    }
    assert found.keys() == {"pca-64", "random-convolutions", "crop-classifier"}
    for name, node in found.items():
        rows = extractor_named(name).rows(torch.from_numpy(bytes_))
        assert node["features"].dims == ("sample", "feature")
        np.testing.assert_allclose(node["features"], rows, rtol=1e-5, atol=1e-5)


def test_the_real_images_are_crops_by_counter(place):
    crops = {node.attrs["seed"]: node for node in nodes(place, "crops")}
    assert crops.keys() == {1, 2}
    for seed, node in crops.items():
        np.testing.assert_array_equal(
            node["image"], real_crops(load_photos(), np.arange(12), seed=seed, size=32)
        )


def test_the_numbers_are_those_of_the_definitions(place):
    result = result_of(place)
    by_name = {}
    for node in nodes(place, "features"):
        of = "samples" if node.attrs["source_kind"] == "generation" else node.attrs["seed"]
        by_name[node.attrs["extractor"], of] = node["features"].values.astype(np.float64)
    for name in ("pca-64", "random-convolutions", "crop-classifier"):
        real = by_name[name, 1]
        for suffix, rows in (("", by_name[name, "samples"]), ("_real", by_name[name, 2])):
            expected = {
                "frechet": frechet_distance(real.mean(0), np.cov(real.T), rows.mean(0), np.cov(rows.T)),
                "kernel": kernel(real, rows),
                "precision": float(precision_recall(real, rows)["precision"].value),
                "coverage": float(density_coverage(real, rows)["coverage"].value),
            }
            for measure, value in expected.items():
                stored = float(result[measure + suffix].sel(extractor=name))
                assert stored == pytest.approx(value, rel=1e-6), (name, measure, suffix)
    assert result.attrs["n"] == 12 and result["reference"].item().startswith("random crops of the ten")


def kernel(real, rows):
    """The definition, pair by pair."""
    n, d = real.shape
    k = lambda a, b: (a @ b.T / d + 1) ** 3  # noqa: E731
    within = [(k(x, x).sum() - np.trace(k(x, x))) / (n * (n - 1)) for x in (real, rows)]
    return sum(within) - 2 * k(real, rows).mean()


def test_the_report_labels_stand_ins_and_shows_pictures(place):
    page = (place / "report" / "pages" / "study-sample-quality.html").read_text()
    assert (
        "proxy for FID" in page
        and "stand-in for Inception-v3" in page
        and "Samples of Photo mixture beside real images" in page
    )


def test_more_samples_compute_only_what_is_missing(place, tmp_path, capsys):
    assert run(place, "num_samples=16") == 0
    # Two shards of 8 held 16 already.
    assert re.search(r"n=16: 0 of \d+ shards to compute", capsys.readouterr().out)
    assert run(tmp_path / "fresh", "num_samples=16") == 0
    for fresh in nodes(tmp_path / "fresh", "features"):
        (grown,) = [n for n in nodes(place, "features") if n.attrs["key"] == fresh.attrs["key"]]
        np.testing.assert_array_equal(grown["features"], fresh["features"])


def test_of_a_latent_model_decoded_images_are_compared_with_a_folder(tmp_path):
    model = tiny.tiny_dit(tmp_path / "tiny-dit")
    folder = tmp_path / "real"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(10):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    assert run(tmp_path / "s", f"sample-quality.reference={folder}", model=model) == 0
    result = result_of(tmp_path / "s")
    assert result.attrs["n"] == 10 and "frechet_real" not in result  # no more images than the folder has
    assert result["reference"].item().startswith("10 images of real, fingerprint ")
    assert "decoded" in taba_core.find(taba_core.open_store(tmp_path / "s"), kind="generation")


def test_what_cannot_be_compared_is_refused_before_a_store_is_made(tmp_path, capsys):
    model = tiny.tiny_unet(tmp_path / "tiny-unet")
    lacking = (
        "the training images of tiny-unet are not here. Give a folder of such images: "
        "--set sample-quality.reference=FOLDER"
    )
    nowhere = tmp_path / "no"
    for of, settings, said in (
        (model, (), lacking),
        (model, (f"sample-quality.reference={nowhere}",), str(nowhere)),
        ("photo-mixture", ("sample-quality.extractors=inception",), "unknown feature extractor 'inception'"),
        ("photo-mixture", ("sample-quality.extractors=",), "give at least one extractor"),
        ("photo-mixture", ("num_samples=5",), "looks for 5 neighbours of an image, and there are 5 images"),
    ):
        assert run(tmp_path / "s", *settings, model=of) == 2
        assert said in capsys.readouterr().err and not (tmp_path / "s").exists()


@pytest.mark.follows(
    " images; give more (--set num_samples).",
    " are not here. Give a folder of such images: --set sample-quality.reference=FOLDER.",
    " Leave it out.",
    " Or leave it out.",
)
def test_the_ways_out_of_refusals_are_open(tmp_path, monkeypatch):
    def planned(model, *settings):
        arguments = [part for text in ("num_inference_steps=4", *settings) for part in ("--set", text)]
        return taba("plan", "quality", "--model", model, "--store", tmp_path / "s", *arguments)

    assert planned("photo-mixture", "num_samples=5") == 2 and planned("photo-mixture", "num_samples=6") == 0
    model, folder = tiny.tiny_unet(tmp_path / "tiny-unet"), tmp_path / "real"
    folder.mkdir()
    for index in range(8):
        Image.new("RGB", (20, 20), (index, 0, 0)).save(folder / f"{index}.png")
    assert planned(model) == 2 and planned(model, f"sample-quality.reference={folder}") == 0
    without = "sample-quality.extractors=random-convolutions"
    monkeypatch.setattr(type(extractor_named("pca-64")), "least_side", 33)
    assert planned("photo-mixture", "num_samples=6") == 2
    assert planned("photo-mixture", "num_samples=6", without) == 0
    monkeypatch.undo()
    monkeypatch.setattr(type(extractor_named("pca-64")), "why_not", lambda self: "its weights are not here.")
    assert run(tmp_path / "s") == 2 and run(tmp_path / "s", without) == 0


def test_it_is_in_no_group():
    from workflows.analysis.study import GROUPS, find_studies

    for group in GROUPS:
        assert "sample-quality" not in {study.name for study in find_studies([group])}
    assert [study.name for study in find_studies(["quality"])] == ["sample-quality"]


def test_a_spec_of_what_is_measured_is_read_back_whatever_its_kind_and_kinds_tell_keys_apart():
    from taba_core.artifacts.generation import Generation

    images = Generation(model=ModelSpec(name="m"), batch_size=4, num_inference_steps=5, seed=0)
    back = Reconstruction(source=Inversion(source=images, num_inference_steps=5))
    specs = [Features(source=of, extractor="e", fingerprint="1", num_features=3) for of in (images, back)] + [
        Distances(source=back, reference=images, metric="m", fingerprint="1")
    ]
    for spec in specs:
        again = from_attrs(spec.attrs())
        assert again == spec and again.key == spec.key and again.source.kind == spec.source_kind
    assert len({spec.key for spec in specs}) == 3
    with pytest.raises(ValueError, match="source: inversion has no images to measure"):
        Features(source=back.source, extractor="e", fingerprint="1", num_features=3)


def test_the_list_says_which_measures_there_are_and_what_they_lack(capsys):
    assert taba("list") == 0
    shown = {" ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
    assert "pca-64 features Inception-v3 ready" in shown
    assert "crop-classifier features Inception-v3, DINO ready" in shown
    assert "random-lpips distance LPIPS ready" in shown


def test_of_a_class_conditional_model_the_share_of_recognised_samples_stands_in_a_table(tmp_path):
    """The share recomputed from the pictures themselves, and no such table where nothing was asked."""
    import torch

    from taba_core.metrics.extractors.crop_classifier import WEIGHTS, CropClassifier
    from taba_core.stats.attractors import binomial_interval

    asked = ("conditioning=class", "sample-quality.extractors=crop-classifier")
    assert run(tmp_path / "s", *asked, report=True) == 0
    images = taba_core.find(taba_core.open_store(tmp_path / "s"), kind="generation")
    bytes_ = np.clip(np.round((images["image"].values + 1) * 127.5), 0, 255).astype(np.uint8)
    taken = CropClassifier().posterior(torch.from_numpy(bytes_)).argmax(axis=1)
    right = int((taken == images["class_id"].values).sum())
    result = result_of(tmp_path / "s")
    low, high = binomial_interval(right, 12)
    assert [float(result[f"recognised{end}"]) for end in ("", "_low", "_high")] == [right / 12, low, high]
    # Guessing would find 6 of 12 with probability 5e-4.
    assert right >= 6
    assert float(result["held_out_accuracy"]) == WEIGHTS.facts()["held_out_accuracy"]
    page = (tmp_path / "s" / "report" / "pages" / "study-sample-quality.html").read_text()
    assert "Samples that a classifier takes for the photograph that was asked" in page


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("conditioning=class", "sample-quality.extractors=pca-64"),
        ("conditioning=class", "model.photos=FOLDER"),
    ],
)
def test_nothing_is_recognised_where_no_known_photograph_was_asked_for(settings, tmp_path):
    from workflows.analysis.study import read_settings, studies
    from workflows.configuration.context import Context

    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(2):
        Image.new("RGB", (80, 80), (index, 0, 0)).save(folder / f"{index}.png")
    given = [one.replace("FOLDER", str(folder)) for one in settings]
    study = studies()["sample-quality"]
    asked = study.requests(Context("photo-mixture", "ddim", read_settings(given)))["images"]
    assert asked.variables == ("image",)
    asked = study.requests(Context("photo-mixture", "ddim", read_settings(["conditioning=class"])))["images"]
    assert asked.variables == ("image", "class_id")
