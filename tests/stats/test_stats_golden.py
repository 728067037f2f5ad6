"""Agreement with the metric values of the reference implementation, to the tolerances that come with them."""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from taba_core.stats import (
    AngleHistogram,
    EntryKL,
    GlobalKL,
    Moments,
    PatchCorrelation,
    PathDistance,
    ReconstructionError,
    Triangle,
    accuracy,
    nearest,
    path_distance_direct,
    plain_mask,
    reduce_blocks,
)

DATA = Path(__file__).parents[1] / "data"
OBJECTS = {"noise": "noise", "image": "sample", "latent": "latent"}  # our name: name in the files


def load(name):
    with np.load(DATA / name, allow_pickle=False) as archive:
        return dict(archive)


INPUTS, EXPECTED = load("metrics_inputs.npz"), load("metrics_expected.npz")
SCALE = {"i8": 32, "i16": 1024}


def sets(prefix):
    codes = {"noise": "i8", "image": "i16", "latent": "i8"}
    return {
        name: (INPUTS[f"{prefix}_{OBJECTS[name]}_{code}"] / SCALE[code]).astype(np.float32)
        for name, code in codes.items()
    }


def summary(statistic, data):
    n = len(next(iter(data.values())))
    return reduce_blocks([{"sample": np.arange(n), **data}], n, {"s": statistic})["s"].summary()


both = pytest.mark.parametrize("prefix", ["pix", "lat"])
top_k = pytest.mark.parametrize("k", [10, 20])
each_object = pytest.mark.parametrize("name", OBJECTS)


@both
@top_k
@each_object
def test_patch_correlation(prefix, k, name):
    got = summary(PatchCorrelation(name, top_k=k), sets(prefix))
    assert_allclose(
        [got["mean_top"], got["spread"]], EXPECTED[f"{prefix}_corrpatch{k}_{OBJECTS[name]}"], atol=1e-4
    )
    if k == 20:
        assert_allclose(got["values"], EXPECTED[f"{prefix}_corrpatch20_{OBJECTS[name]}_values"], atol=1e-6)


@pytest.mark.parametrize(
    ("prefix", "k", "name"),
    [("lat", 20, n) for n in OBJECTS] + [("lat", 10, "latent"), ("pix", 20, "latent")],
)
def test_correlation_over_the_whole_object(prefix, k, name):
    got = summary(PatchCorrelation(name, patch_size=None, top_k=k), {name: sets(prefix)[name]})
    assert_allclose(
        [got["mean_top"], got["spread"]], EXPECTED[f"{prefix}_corr{k}_{OBJECTS[name]}"], atol=1e-4
    )


@both
@each_object
def test_pooled_mean_and_std(prefix, name):
    got = summary(Moments(name), sets(prefix))
    assert_allclose([got["mean"], got["std"]], EXPECTED[f"{prefix}_stats_{OBJECTS[name]}"], atol=1e-5)


@both
@pytest.mark.parametrize(("p", "q"), [("noise", "latent"), ("latent", "noise")])
def test_kl_divergences(prefix, p, q):
    data = sets(prefix)
    assert_allclose(summary(GlobalKL(p, q), data)["kl"], EXPECTED[f"{prefix}_kl_{p}_{q}"][0], atol=1e-5)
    assert_allclose(summary(EntryKL(p, q), data)["kl"], EXPECTED[f"{prefix}_kl2_{p}_{q}"][0], atol=1e-5)


@both
def test_triangles(prefix):
    statistic, data = Triangle(), sets(prefix)
    got = summary(statistic, data)
    sides = [EXPECTED[f"{prefix}_mean_l2_{s}"][0] for s in ("img_lat", "img_noise", "noise_lat")]
    spreads = [EXPECTED[f"{prefix}_std_l2_{s}"][0] for s in ("img_lat", "img_noise", "noise_lat")]
    assert_allclose(got["side_mean"], sides, atol=1e-3)
    assert_allclose(got["side_std"], spreads, atol=1e-3)
    cosines = [EXPECTED[f"{prefix}_mean_cossim_{v}"][0] for v in ("img", "noise", "latent")]
    assert_allclose(got["angle_of_mean_cosine"], cosines, atol=1e-2)
    n = len(data["noise"])
    rows = statistic.rows({"sample": np.arange(n), **data})
    angles = np.stack([EXPECTED[f"{prefix}_angle_{v}"] for v in "snl"], axis=1)
    assert_allclose(np.degrees(np.arccos(rows["cosine"])), angles, atol=1e-2)


@both
def test_angle_histograms_and_most_probable_triangle_of_the_reference(prefix):
    got = summary(AngleHistogram(bins="reference"), sets(prefix))
    for vertex, name in enumerate("snl"):
        assert_allclose(got["histogram"][vertex, 1:179], EXPECTED[f"{prefix}_hist_{name}"], atol=1)
    latent, image, noise = EXPECTED[f"{prefix}_triangle_l_s_n"]
    assert_array_equal(got["most_probable"], [image, noise, latent])
    assert_array_equal(
        summary(Triangle(bins="reference"), sets(prefix))["most_probable"], [image, noise, latent]
    )


MAPPINGS = [
    ("noise_for_sample", "image", "noise"),
    ("sample_for_noise", "noise", "image"),
    ("latent_for_sample", "image", "latent"),
    ("sample_for_latent", "latent", "image"),
]


@both
@pytest.mark.parametrize(("name", "queries", "candidates"), MAPPINGS)
def test_smallest_distance_mappings(prefix, name, queries, candidates):
    data = sets(prefix)
    found = nearest(data[queries], data[candidates])
    assert_array_equal(found.id, EXPECTED[f"{prefix}_nn_{name}_idx"])
    assert_allclose(float(accuracy(found)), EXPECTED[f"{prefix}_nn_{name}_acc"].item(), atol=1e-6)


@both
def test_path_distances(prefix):
    data = {name: x[:6] for name, x in sets(prefix).items()}
    shares = (0, 0.25, 0.5, 0.75, 1)
    data["path"] = np.stack([(1 - u) * data["noise"] + u * data["image"] for u in shares], axis=1)
    got = summary(PathDistance(path="path", image=None), data)
    assert_allclose(got["distance"], EXPECTED[f"{prefix}_interp_dist"], atol=1e-3)
    direct = path_distance_direct(data["noise"], data["latent"], data["path"], np.linspace(0, 1, 25))
    assert_allclose(got["distance"], direct, rtol=1e-9, atol=1e-6)


@both
def test_reconstruction_error(prefix):
    data = sets(prefix)
    image = data["image"]
    data = {"image": image, "reconstruction": 0.8 * image + 0.2 * data["noise"]}
    assert_allclose(
        summary(ReconstructionError(), data)["mae"], EXPECTED[f"{prefix}_reconstruction_error"][0], atol=1e-6
    )


@both
def test_mean_squared_error(prefix):
    data = sets(prefix)
    data = {"image": data["image"], "reconstruction": 0.9 * data["image"] + 0.1 * data["noise"]}
    assert_allclose(
        summary(ReconstructionError(), data)["mse"], EXPECTED[f"{prefix}_mean_mse_img_img2"][0], atol=1e-6
    )


def test_plain_mask_is_exact():
    assert_array_equal(plain_mask(sets("pix")["image"]), EXPECTED["pix_mask"].astype(bool))


@pytest.mark.parametrize("threshold", [0.02, 0.025, 0.03])
def test_share_of_plain_pixels(threshold):
    share = plain_mask(sets("pix")["image"], threshold).mean()
    assert_allclose(share, EXPECTED[f"pix_mask_fraction_{threshold}"][0], atol=1e-6)
