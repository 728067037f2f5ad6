"""Interpolations between noises and latents: stored images by the definition, and study `interpolation`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_runs import nodes, result_of, taba

from taba_core.artifacts.base import from_attrs
from taba_core.artifacts.generation import Generation
from taba_core.artifacts.interpolation import Interpolation
from taba_core.artifacts.inversion import Inversion
from taba_core.artifacts.reconstruction import Reconstruction
from taba_core.diffusion import generate
from taba_core.errors import UsageError
from taba_core.metrics import inception
from taba_core.metrics.extractor import extractor_named
from taba_core.model_spec import ModelSpec
from taba_core.models.base import card_of, load_spec
from taba_core.models.crops import real_crops
from taba_core.models.grids import timestep_grid
from taba_core.models.photos import load_photos
from taba_core.slerp import slerp
from taba_core.stats.compressibility import to_bytes
from taba_core.stats.set_comparison import compare_sets
from taba_core.store import Store

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
import tiny_checkpoints as tiny

SMALL = ("num_samples=16", "num_inference_steps=4", "batch_size=8", "interpolation.points=3")
FIRST = Generation(model=ModelSpec(name="m"), batch_size=4, num_inference_steps=5, seed=1)
SECOND = FIRST.altered(seed=2)


def run(place, *settings, model="photo-mixture", report=False, method=None):
    chosen = dict(one.split("=", 1) for one in (*SMALL, *settings))
    arguments = [part for name, value in chosen.items() for part in ("--set", f"{name}={value}")]
    where = ["--model", model, "--store", place, "--executor", "local", *([] if report else ["--no-report"])]
    return taba("run", "interpolation", *where, *(["--method", method] if method else []), *arguments)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("interpolation") / "store"
    assert run(place, report=True) == 0
    return place


def ends(inverted, second=SECOND, **fields):
    """Reconstructions at both ends, with forward seeds of their own."""
    return Reconstruction(source=inverted), Reconstruction(
        source=inverted.altered(source=second, **({"forward_seed": 21} | fields))
    )


# ---------------------------------------------------------------- the artifact


def test_a_spec_reads_its_starting_states_and_is_read_back():
    plain = Inversion(source=FIRST, num_inference_steps=5)
    for first, second, name in ((FIRST, SECOND, "noise"), (*ends(plain), "latent")):
        spec = Interpolation(first=first, second=second, weight=0.5)
        again = from_attrs(json.loads(json.dumps(spec.attrs())))
        assert again == spec and again.key == spec.key and type(again.first) is type(first)
        assert [variable for _, variable in spec.starts] == [name, name]
        assert spec.samples == FIRST and spec.num_evaluations() == 5 and spec.num_steps == 5
    # Conditions are those of the first end; of the second only the state is read.
    noise = Interpolation(first=FIRST, second=SECOND, weight=0.5)
    assert noise.reads_of(FIRST) == ("noise", "class_id") and noise.reads_of(SECOND) == ("noise",)
    keys = {
        Interpolation(first=FIRST, second=SECOND, weight=w, by_row=r).key for w in (0.25, 0.5) for r in (0, 1)
    }
    assert len(keys) == 4


def test_ends_that_are_no_independent_twins_are_refused():
    plain, other = (
        Inversion(source=FIRST, num_inference_steps=5),
        FIRST.altered(seed=3, num_inference_steps=6),
    )
    fixed = plain.altered(forward_steps=1)
    carrying = plain.altered(carried={"eps": {"channel": 3}})
    for first, second, said in (
        (FIRST, FIRST, "give them two seeds"),
        (FIRST, other, "differ in more than their seeds"),
        (FIRST, Reconstruction(source=plain.altered(source=SECOND)), "differ in more than their seeds"),
        (*ends(fixed, forward_seed=42), "share one noise"),
        (*ends(fixed, forward_steps=2), "differ in more than their seeds"),
        (*ends(carrying), "carries eps beside the latent"),
    ):
        with pytest.raises(ValueError, match=said):
            Interpolation(first=first, second=second, weight=0.5)
    for weight in (0.0, 1.0):  # these are the ends themselves
        with pytest.raises(ValueError, match="weight"):
            Interpolation(first=FIRST, second=SECOND, weight=weight)
    assert Interpolation(first=ends(fixed)[0], second=ends(fixed)[1], weight=0.5)


def test_images_between_are_the_samplers_of_the_points_on_the_sphere(place):
    """Of noises and of latents, by the definition, from what the store has."""
    by_key = {node.attrs["key"]: node for kind in ("generation", "inversion") for node in nodes(place, kind)}
    made = {Interpolation.model_validate(node.attrs["spec"]): node for node in nodes(place, "interpolation")}
    assert len(made) == 4  # the middle between noises, latents, and latents repaired by both rules
    for spec, node in made.items():
        states = [by_key[of.key][name].values for of, name in spec.starts]
        start = torch.from_numpy(slerp(*states, spec.weight)).float()
        model = load_spec(spec.samples.model)
        expected = torch.cat(
            [
                generate(
                    model,
                    start[i : i + 8],
                    timestep_grid(card_of(spec.samples.model), 4),
                    x0_rule=FIRST.x0_rule,
                )
                for i in (0, 8)
            ]
        )
        np.testing.assert_allclose(node["interpolated"].values, expected, atol=1e-5)


def test_bits_depend_on_no_shard_and_more_samples_compute_what_is_missing(place, tmp_path, capsys):
    assert run(tmp_path / "one", "samples_per_shard=16") == 0
    for node in nodes(place, "interpolation"):
        (other,) = [
            n for n in nodes(tmp_path / "one", "interpolation") if n.attrs["key"] == node.attrs["key"]
        ]
        np.testing.assert_array_equal(other["interpolated"], node["interpolated"])
    assert run(tmp_path / "grown", "num_samples=12") == 0
    capsys.readouterr()
    assert run(tmp_path / "grown") == 0
    assert re.search(r"n=16: 0 of \d+ shards to compute", capsys.readouterr().out)


def test_the_second_end_takes_the_shards_that_the_first_has_in_the_store(tmp_path):
    asked = ("--model", "photo-mixture", "--store", tmp_path / "s", "--executor", "local", "--no-report")
    settings = [
        part for one in ("num_samples=16", "num_inference_steps=4", "batch_size=8") for part in ("--set", one)
    ]
    assert taba("run", "sample-quality", *asked, *settings, "--set", "samples_per_shard=16") == 0
    assert run(tmp_path / "s") == 0
    store = Store.open(tmp_path / "s")
    sizes = {
        g.artifact.name: g.extent.samples_per_shard
        for g in store.artifacts()
        if g.artifact.samples.kind != "crops"
    }
    assert set(sizes.values()) == {16}


@pytest.mark.follows("another store (--store), or another seed.")
def test_ends_in_shards_of_two_sizes_are_refused_and_another_seed_is_a_way_out(tmp_path, capsys):
    asked = ("--model", "photo-mixture", "--store", tmp_path / "s", "--executor", "local", "--no-report")
    settings = [
        part for one in ("num_samples=16", "num_inference_steps=4", "batch_size=8") for part in ("--set", one)
    ]
    for seed, size in ((420, 16), (0, 8)):
        more = ("--set", f"seed={seed}", "--set", f"samples_per_shard={size}")
        assert taba("run", "sample-quality", *asked, *settings, *more) == 0
    assert run(tmp_path / "s") == 2
    assert "in shards of different sizes" in capsys.readouterr().err
    assert run(tmp_path / "s", "interpolation.second_seed=5") == 0


# ---------------------------------------------------------------- the study


def test_the_numbers_are_those_of_the_definitions(place):
    result = result_of(place)
    assert list(result["prior"].values) == ["noise", "latent", "latent-1-exact", "latent-1-matched"]
    assert list(result["weight"].values) == [0, 0.5, 1]
    real = to_bytes(real_crops(load_photos(), np.arange(16), seed=1, size=32))
    images = {node.attrs["seed"]: node["image"].values for node in nodes(place, "generation")}
    for extractor in ("pca-64", "random-convolutions", "crop-classifier"):
        rows = extractor_named(extractor).rows
        expected = compare_sets(rows(torch.from_numpy(real)), rows(torch.from_numpy(to_bytes(images[420]))))
        for measure, estimate in expected.items():
            at = {"extractor": extractor, "prior": "noise", "weight": 0}
            assert float(result[measure].sel(at)) == pytest.approx(float(estimate), rel=1e-4), measure
    for measure in ("frechet", "recall"):
        values = result[measure].values
        np.testing.assert_allclose(result[f"{measure}_ends"], (values[..., 0] + values[..., 2]) / 2)
    contrast = (
        result["frechet"].values[..., 1]
        - (result["frechet"].values[..., 0] + result["frechet"].values[..., 2]) / 2
    )
    np.testing.assert_allclose(result["frechet_contrast"], contrast)
    assert (result["recall_high"] <= 1).all() and (result["recall_low"] >= 0).all()
    # Independent noises of 3072 entries: cosines of mean 0 and spread 1/sqrt(3072) = .018, entries of rms 1.
    noise = result.sel(prior="noise")
    assert abs(float(noise["cosine"])) < 4 * 0.018 / np.sqrt(16) and float(noise["length"]) == pytest.approx(
        1, abs=0.01
    )


def test_the_pictures_are_the_first_pairs(place):
    result = result_of(place)
    images = {node.attrs["seed"]: node["image"].values for node in nodes(place, "generation")}
    strip = result["path_noise"].values
    np.testing.assert_array_equal(strip[0], images[420][:3])
    np.testing.assert_array_equal(strip[-1], images[0][:3])
    (node,) = [
        node
        for node in nodes(place, "interpolation")
        if isinstance(Interpolation.model_validate(node.attrs["spec"]).first, Generation)
    ]
    np.testing.assert_array_equal(strip[1], node["interpolated"].values[:3])


def test_the_report_has_both_figures_labelled_stand_ins_and_a_claim_that_waits_for_weights(place):
    page = (place / "report" / "pages" / "study-interpolation.html").read_text()
    assert "proxy for FID" in page and "Paths between two images" in page and "Quality and diversity" in page
    claims = {claim["id"]: claim for claim in json.loads(result_of(place).attrs["claims"])}
    assert (
        claims["CF5"]["verdict"] == "not resolved"
        and "weights of Inception-v3" in claims["CF5"]["explanation"]
    )
    margin = claims["CF5a~, pca-64"]["numbers"]
    contrast = result_of(place)["frechet_contrast"].sel(extractor="pca-64")
    assert margin["margin"] == pytest.approx(
        float(contrast.sel(prior="latent") - contrast.sel(prior="noise"))
    )
    repaired = float(contrast.sel(prior="latent-1-exact") - contrast.sel(prior="noise"))
    kept = claims["CF5c~, 1-exact, pca-64"]["numbers"]["margin"]
    assert kept == pytest.approx(0.5 * margin["margin"] - abs(repaired))


def test_of_a_latent_model_with_classes_decoded_images_are_compared_with_other_samples(tmp_path):
    """No photographs behind the model: as many other samples stand in their place; the pair shares its class."""
    model = tiny.tiny_dit(tmp_path / "tiny-dit")
    settings = ("interpolation.extractors=random-convolutions", "num_samples=12")
    assert run(tmp_path / "s", *settings, model=model) == 0
    result = result_of(tmp_path / "s")
    assert result["reference"].item().startswith("as many other samples")
    made = {node.attrs["seed"]: node for node in nodes(tmp_path / "s", "generation")}
    assert made.keys() == {420, 0, 1, 2}
    assert np.array_equal(made[420]["class_id"], made[0]["class_id"]) and (made[0]["class_id"] >= 0).all()
    assert result["path_noise"].shape[2:] == made[420]["decoded"].shape[1:]
    np.testing.assert_allclose((result["path_noise"][0] + 1) * 127.5, made[420]["decoded"][:3], atol=1e-3)


@pytest.mark.follows(
    " images, and there are ",
    " points have none in the middle; use an odd number, such as ",
    "use another: --set interpolation.second_seed=NUMBER.",
    "use another: --set interpolation.second_forward_seed=NUMBER.",
    "nothing says what lies between those of two images; use a method that carries nothing, such as ddim.",
)
def test_what_cannot_be_interpolated_is_refused_and_the_ways_out_are_open(tmp_path, capsys):
    def planned(*settings, method="ddim"):
        chosen = dict(one.split("=", 1) for one in (*SMALL, *settings))
        arguments = [part for name, value in chosen.items() for part in ("--set", f"{name}={value}")]
        where = ("--model", "photo-mixture", "--store", tmp_path / "s", "--method", method)
        return taba("plan", "fig5", *where, *arguments)

    for settings, said, out in (
        (("num_samples=11",), "sets of at least 12 images, and there are 11", ("num_samples=12",)),
        (("seed=0",), "second_seed=0 is the seed of the first end too", ("interpolation.second_seed=1",)),
        (
            ("forward_seed=21",),
            "second_forward_seed=21 is the forward_seed",
            ("interpolation.second_forward_seed=1",),
        ),
        (("interpolation.points=4",), "use an odd number, such as 5", ("interpolation.points=5",)),
    ):
        assert planned(*settings) == 2 and said in capsys.readouterr().err
        assert planned(*settings, *out) == 0
    assert planned(method="edit-friendly") == 2
    assert "beside the latent" in capsys.readouterr().err


def test_a_method_whose_steps_are_not_replaced_has_no_repaired_latents():
    from workflows.analysis.study import read_settings
    from workflows.configuration.context import Context
    from workflows.studies.interpolation.priors import priors

    def names(method, *more):
        settings = read_settings(["num_inference_steps=4", *more])
        return list(priors(Context("photo-mixture", method, settings), 4))

    assert names("ddim") == ["noise", "latent", "latent-1-exact", "latent-1-matched"]
    assert names("noise-level") == ["noise", "latent"]
    with pytest.raises(UsageError, match="noise-level"):  # asked for, they are refused
        names("noise-level", "interpolation.forward_steps=1")


@pytest.mark.follows("were not asked for, and stand-ins decide claims of their own ", printed=True)
def test_with_the_weights_of_inception_the_claims_are_about_it(place, tmp_path, monkeypatch, capsys):
    """Without the file the run is refused; with it (random weights here) CF5 is decided by it, and no stand-in."""
    claims = json.loads(result_of(place).attrs["claims"])
    assert "--set interpolation.extractors=inception-clean" in claims[0]["explanation"]
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    asked = ("interpolation.extractors=inception-clean", "num_samples=12")
    assert (
        run(tmp_path / "s", *asked) == 2 and "Inception-v3's weights are not here" in capsys.readouterr().err
    )
    inception.WEIGHTS.path().parent.mkdir(parents=True)
    torch.manual_seed(0)
    network = torch.nn.Sequential()
    network.add_module(
        "layers", torch.nn.Sequential(torch.nn.Conv2d(3, 2048, 75, stride=75), torch.nn.AvgPool2d(3))
    )
    torch.jit.script(network).save(str(inception.WEIGHTS.path()))
    assert run(tmp_path / "s", *asked) == 0
    found = {claim["id"] for claim in json.loads(result_of(tmp_path / "s").attrs["claims"])}
    assert {"CF5a, inception-clean", "CF5b, inception-clean"} <= found and "CF5" not in found


def test_claims_on_features_whose_verdicts_are_known():
    """Latents whose middle is far from real images, and repaired latents like noise; of 16 images nothing follows."""
    from workflows.analysis.findings import Findings
    from workflows.studies.interpolation.claims import find_claims

    def verdicts(n):
        draw = np.random.default_rng(0).normal(size=(8, n, 4))
        real, ends = draw[0], compare_sets(draw[0], draw[1])
        noise = [ends, compare_sets(real, draw[2]), compare_sets(real, draw[3])]
        latent = [ends, compare_sets(real, draw[4] + 5), ends]
        path = {"noise": noise, "latent": latent, "latent-2-exact": latent, "latent-2-matched": noise}
        found = Findings()
        find_claims(found, {"pca-64": path})
        return {claim["id"]: claim["verdict"] for claim in json.loads(found.dataset().attrs["claims"])}

    assert verdicts(80) == {
        "CF5": "not resolved",
        "CF5a~, pca-64": "holds",
        "CF5b~, pca-64": "holds",
        "CF5c~, 2-exact, pca-64": "fails",
        "CF5c~, 2-matched, pca-64": "holds",
    }
    assert set(verdicts(16).values()) == {"not resolved"}


def test_it_is_in_no_group():
    from workflows.analysis.study import GROUPS, find_studies

    for group in GROUPS:
        assert "interpolation" not in {study.name for study in find_studies([group])}
    assert {study.name for study in find_studies(["fig5", "fig23"])} == {"interpolation"}
