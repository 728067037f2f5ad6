"""The fit repeats to the bit, matches the crops' statistics, and survives a damaged or missing cache."""

from __future__ import annotations

import dataclasses
import multiprocessing
import warnings

import numpy as np
import pytest
from PIL import Image

from taba_core.models import mixture_fit
from taba_core.models.crops import random_crops
from taba_core.models.mixture_fit import Mixture, cached_mixture, fit_key, fit_mixture
from taba_core.models.options import PhotoMixtureOptions
from taba_core.models.photos import Photo, load_photos


@pytest.fixture
def options(tmp_path):
    """A folder of two small photographs: smooth colour ramps with grain."""
    folder = tmp_path / "photos"
    folder.mkdir()
    ramp = np.linspace(0, 200, 90)
    for name, seed in (("one.png", 1), ("two.png", 2)):
        grain = np.random.default_rng(seed).normal(0, 4 * seed, (80, 90, 3))
        pixels = np.clip(ramp[None, :, None] + [10, 20, 30] + grain, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return PhotoMixtureOptions(photos=str(folder), num_components_per_photo=2, rank=4)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TABA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def same(a: Mixture, b: Mixture) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(Mixture))


def test_two_fits_are_the_same_bits_and_another_seed_is_another_fit(options):
    photos = load_photos(options.photos)
    first = fit_mixture(photos, options)
    assert same(first, fit_mixture(photos, options))
    other = options.model_copy(update={"fit_seed": 1})
    assert not same(first, fit_mixture(photos, other)) and fit_key(options) != fit_key(other)


def test_weights_sum_to_one_and_every_photo_has_an_equal_share(options):
    mixture = fit_mixture(load_photos(options.photos), options)
    weight = np.exp(mixture.log_weight)
    assert weight[mixture.component_class == 0].sum() == pytest.approx(0.5)
    assert weight.sum() == pytest.approx(1) and mixture.class_names == ("one.png", "two.png")


def test_the_mean_of_the_mixture_is_the_mean_of_the_crops(options):
    photo = load_photos(options.photos)[1]
    one = options.model_copy(update={"num_components_per_photo": 1})
    mixture = fit_mixture((photo,), one)
    crops = random_crops(photo, range(mixture_fit.CROPS_PER_COMPONENT), seed=0)
    # Coefficient 0 is sum over 3072 values / sqrt(3 * 32 * 32).
    assert mixture.mean[0, 0] == pytest.approx(crops.mean() * np.sqrt(3072), rel=1e-5)


def test_the_cache_answers_the_second_time_and_a_damaged_file_is_replaced(options, own_cache, monkeypatch):
    first = cached_mixture(options)
    (path,) = own_cache.glob("*.npz")
    whole = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(mixture_fit, "fit_mixture", lambda *_: pytest.fail("fitted again"))
        assert same(cached_mixture(options), first)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for damage in (b"", b"no zip file", whole[: len(whole) // 2], bytes(flipped)):
        path.write_bytes(damage)
        assert same(cached_mixture(options), first)
        assert len(path.read_bytes()) == len(whole)
    assert {file.name for file in own_cache.iterdir()} == {
        path.name,
        "photographs.json",
        ".lock",
    }  # no drafts


def test_a_cache_that_cannot_be_written_only_costs_the_fit(options, own_cache):
    own_cache.write_text("a file where the folder should be")
    assert same(cached_mixture(options), fit_mixture(load_photos(options.photos), options))


def _fit_in_another_process(options):
    return cached_mixture(options).mean.tobytes()


def test_processes_that_fit_at_once_agree(options, own_cache):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.map(_fit_in_another_process, [options] * 2)
    assert first == second == cached_mixture(options).mean.tobytes()
    assert len(list(own_cache.glob("*.npz"))) == 1


def flat_photos():
    """Pictures of fewer different crops than components: one colour, a step that few crops see, and one twice."""
    step = np.full((64, 64, 3), 40, np.uint8)
    step[:, 32:] = 200
    flat = np.full((80, 90, 3), 77, np.uint8)
    return {
        "flat": (flat,),
        "twice": (flat, flat),
        "white": (flat * 0 + 255,),
        "step": (step,),
        "mixed": (flat, step),
    }


@pytest.mark.parametrize("name", ["flat", "twice", "white", "step", "mixed"])
def test_photographs_with_few_different_crops_are_fitted_without_a_librarys_warning(name):
    photos = tuple(Photo(f"{i}.png", pixels) for i, pixels in enumerate(flat_photos()[name]))
    options = PhotoMixtureOptions(num_components_per_photo=6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mixture = fit_mixture(photos, options)
    assert np.exp(mixture.log_weight).sum() == pytest.approx(1)
    for field in dataclasses.fields(Mixture):
        values = getattr(mixture, field.name)
        assert field.name == "class_names" or np.isfinite(values).all()
    if name == "flat":  # one component, at the colour: coefficient 0 of a flat picture v is v sqrt(3072)
        assert len(mixture.mean) == 1
        assert mixture.mean[0, 0] == pytest.approx((77 / 127.5 - 1) * np.sqrt(3072), rel=1e-5)
        assert mixture.mode_variance().max() <= 1.01 * mixture_fit.MIN_VARIANCE
