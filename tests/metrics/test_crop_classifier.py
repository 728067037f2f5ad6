"""The classifier of crops knows what was recorded of it, its features are exact, and damaged files are refused."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from taba_core.errors import UsageError, WorkError
from taba_core.metrics import measure
from taba_core.metrics.crop_classifier import CropNetwork, features_of, to_side
from taba_core.metrics.extractor import extractor_named
from taba_core.metrics.extractors import crop_classifier
from taba_core.metrics.extractors.crop_classifier import WEIGHTS, CropClassifier
from taba_core.models.crops import box_means, random_crops
from taba_core.models.photos import content_of, load_photos
from taba_core.models.weights import BOX, file_sha256
from taba_core.training.crops import CropSource
from taba_core.training.one import HELD_OUT_SEED

PHOTOS = load_photos()


def eight_bit(images):
    return torch.from_numpy(np.clip(np.round((np.asarray(images) + 1) * 127.5), 0, 255).astype(np.uint8))


def pictures(count=12, size=32):
    generator = torch.Generator().manual_seed(0)
    return (256 * torch.rand(count, 3, size, size, generator=generator)).to(torch.uint8)


# ---------------------------------------------------------------------- what it was recorded to know


@pytest.fixture(scope="module")
def held_out():
    """The held-out crops that the record is about, and what each is taken for."""
    count = WEIGHTS.facts()["measured_crops"]
    crops = CropSource(PHOTOS, "held-out").counted(range(count), 32, seed=HELD_OUT_SEED, stream="held-out")
    taken = CropClassifier().posterior(eight_bit(crops.images)).argmax(axis=1)
    return crops, taken


def test_the_recorded_accuracy_is_found_again_on_the_held_out_crops(held_out):
    crops, taken = held_out
    facts, photo = WEIGHTS.facts(), crops.photo.numpy()
    assert len(photo) >= 500
    assert round(float((taken == photo).mean()), 4) == facts["held_out_accuracy"] > 0.8
    confusion = np.array(facts["confusion"])
    np.testing.assert_array_equal(
        confusion, [np.bincount(taken[photo == i], minlength=10) for i in range(10)]
    )
    assert facts["photos"] == [one.name for one in PHOTOS]


def test_of_crops_by_the_other_generator_it_knows_nearly_all_photographs():
    # models.crops draws from whole photographs and by another stream: 15 % at most of a crop is of the held-out strip.
    right = [
        (
            CropClassifier().posterior(eight_bit(random_crops(photo, range(40), seed=3))).argmax(1) == index
        ).mean()
        for index, photo in enumerate(PHOTOS)
    ]
    assert np.mean(right) > 0.9 and min(right) > 0.7


def test_crops_at_half_the_resolution_are_recognised_too(held_out):
    crops, _ = held_out
    coarse = eight_bit(crops.images.reshape(-1, 3, 16, 2, 16, 2).mean((3, 5)))
    taken = CropClassifier().posterior(coarse).argmax(axis=1)
    found = float((taken == crops.photo.numpy()).mean())
    assert found == pytest.approx(WEIGHTS.facts()["held_out_accuracy_at_16"], abs=1e-3)


def test_the_files_are_small_and_those_that_were_recorded():
    facts = WEIGHTS.facts()
    assert file_sha256(WEIGHTS.path()) == facts["content"] == WEIGHTS.sha256
    assert WEIGHTS.path().stat().st_size < 300e3
    state = load_file(WEIGHTS.path())
    assert {array.dtype for array in state.values()} == {np.dtype(np.float16)}
    assert state.keys() == dict(CropNetwork(10).named_parameters()).keys()
    assert sum(array.size for array in state.values()) < 150_000
    assert facts["photos_fingerprint"] == content_of(PHOTOS).fingerprint
    assert extractor_named("crop-classifier").fingerprint() == f"1-{facts['content']}"
    told = [facts[name] for name in ("held_out_accuracy", "held_out_accuracy_at_16", "training_accuracy")]
    row = " | ".join(f"{accuracy:.3f}" for accuracy in told)
    page = (BOX / "README.md").read_text(encoding="utf-8")
    assert (
        f"| crop-classifier | {row} | 0.1 |" in page and f"--steps {facts['steps']} --held-out 1000" in page
    )


# ---------------------------------------------------------------------- what it computes


def test_features_of_a_flat_picture_by_hand():
    # Each kernel is 1 at its centre for one pair of channels: borders and strides change nothing of a flat picture.
    network = CropNetwork(2).double()
    weights = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    weights["layers.0.weight"][5, :, 2, 2] = torch.tensor([1.0, 2.0, -1.0])  # 0.5 + 2 * 0.25 + 0.5 = 1.5
    weights["layers.0.weight"][6, :, 2, 2] = torch.tensor([-1.0, 0.0, 0.0])  # -0.5, cut to 0
    weights["layers.1.weight"][7, 5, 1, 1], weights["layers.1.bias"][7] = 2.0, -1.0  # 2 * 1.5 - 1 = 2
    weights["layers.1.weight"][8, 6, 1, 1], weights["layers.1.bias"][8] = 9.0, 0.25  # 9 * 0 + 0.25
    weights["layers.2.weight"][0, 7, 1, 1], weights["layers.2.weight"][0, 8, 1, 1] = 1.0, 4.0  # 2 + 1 = 3
    weights["layers.3.weight"][63, 0, 1, 1] = 0.5  # 1.5
    weights["layers.3.bias"][62] = 2.0
    flat = torch.tensor([0.5, 0.25, -0.5], dtype=torch.float64)[None, :, None, None].expand(1, 3, 32, 32)
    # Mean square of the means (2.25 + 4) / 64: they are divided by 2.5 / 8.
    expected = torch.zeros(1, 64, dtype=torch.float64)
    expected[0, 62:] = torch.tensor([6.4, 4.8])
    torch.testing.assert_close(features_of(weights, flat), expected, rtol=1e-5, atol=0)
    weights["head.weight"][1, 63], weights["head.bias"][0] = 2.0, -1.0
    network.load_state_dict(weights)
    torch.testing.assert_close(network(flat)[0].tolist(), [-1.0, 9.6], rtol=1e-5, atol=0)
    dark = {name: torch.zeros_like(value) for name, value in weights.items()}
    assert features_of(dark, flat).tolist() == [[0.0] * 64]  # no division of 0 by 0


def test_a_kernel_of_one_neighbour_shifts_and_strides_halve_twice():
    # The mean over the 8x8 positions that strides of 2 and 2 leave: positions 0, 4, 8, ... of the picture.
    weights = {name: torch.zeros_like(v).double() for name, v in CropNetwork(1).state_dict().items()}
    weights["layers.0.weight"][0, 1, 2, 4] = 1.0  # two to the right
    for layer in (1, 2, 3):
        weights[f"layers.{layer}.weight"][0, 0, 1, 1] = 1.0
    weights["layers.3.bias"][1] = 1.0  # what the other feature is read in, as both are divided by one number
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = features_of(weights, x)
    torch.testing.assert_close(found[:, 0] / found[:, 1], x[:, 1, ::4, 2::4].mean((1, 2)))


def test_pictures_are_brought_to_32_by_means_over_boxes_as_crops_are():
    given = pictures(2, 64)
    four = (given.double() / 127.5 - 1).reshape(2, 3, 32, 2, 32, 2).mean((3, 5))
    torch.testing.assert_close(to_side(given), four, rtol=0, atol=1e-12)
    small = pictures(2, 16)
    repeated = (small.double() / 127.5 - 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(to_side(small), repeated, rtol=0, atol=1e-12)
    assert torch.equal(to_side(pictures(2)), pictures(2).double() / 127.5 - 1)
    odd = pictures(3, 80)[:, :, 10:57]  # 47 x 80 pixels
    lines = np.arange(33) / 32
    for picture, found in zip(odd, to_side(odd), strict=True):
        expected = box_means(picture.permute(1, 2, 0).numpy().copy(), 47 * lines[None], 80 * lines[None])[0]
        np.testing.assert_allclose(found, expected / 127.5 - 1, atol=1e-12)


@pytest.mark.parametrize("size", [16, 32, 64])
def test_no_bit_depends_on_the_batch_or_on_the_number_of_threads(size):
    extractor, given = extractor_named("crop-classifier"), pictures(50, size)
    whole, before = extractor.rows(given), torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for at_once in (1, 7, 50):
                parts = [extractor.rows(part) for part in given.split(at_once)]
                assert torch.equal(torch.cat(parts), whole), (threads, at_once)
    finally:
        torch.set_num_threads(before)
    assert not whole.requires_grad and (whole >= 0).all()


def test_probabilities_are_the_softmax_of_the_linear_map():
    extractor, given = CropClassifier(), pictures(4)
    state = {name: array.astype(np.float64) for name, array in load_file(WEIGHTS.path()).items()}
    rows = extractor.rows(given).numpy().astype(np.float64)
    found = extractor.posterior(given)
    assert found.shape == (4, 10)
    for row, shares in zip(rows, found, strict=True):
        logits = [float(row @ w + b) for w, b in zip(state["head.weight"], state["head.bias"], strict=True)]
        total = math.fsum(math.exp(x - max(logits)) for x in logits)
        np.testing.assert_allclose(shares, [math.exp(x - max(logits)) / total for x in logits], rtol=1e-9)
    np.testing.assert_allclose(np.square(rows).mean(axis=1), 1, rtol=1e-3)
    # Logits of thousands are no overflow.
    assert np.isfinite(extractor.probabilities(1e4 * rows)).all()


# ---------------------------------------------------------------------- what is refused


def test_a_picture_too_small_is_refused_by_its_size():
    extractor = extractor_named("crop-classifier")
    assert extractor.unsuited((3, 16, 16)) == ""
    assert extractor.unsuited((3, 15, 32)).startswith("it takes RGB images with sides of at least 16")
    assert extractor.unsuited((1, 32, 32))


DAMAGES = {
    "no weights": lambda weights, facts: weights.unlink(),
    "one byte": lambda weights, facts: weights.write_bytes(weights.read_bytes()[:-1] + b"x"),
    "truncated": lambda weights, facts: weights.write_bytes(weights.read_bytes()[:1000]),
    "no record": lambda weights, facts: facts.unlink(),
    "half a record": lambda weights, facts: facts.write_text(facts.read_text()[:40]),
    "another record": lambda weights, facts: facts.write_text(json.dumps({"seed": 0})),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_refused_by_name_until_they_are_installed_again(damage, tmp_path, monkeypatch):
    box = tmp_path / "box"
    extractor = extractor_named("crop-classifier")
    expected = extractor.rows(pictures(2))
    monkeypatch.setattr(measure, "BOX", box)
    crop_classifier._read.cache_clear()

    def install():
        shutil.copytree(BOX / WEIGHTS.name, box / WEIGHTS.name, dirs_exist_ok=True)
        shutil.copy(BOX / f"{WEIGHTS.name}.json", box)

    install()
    assert extractor.why_not() is None and torch.equal(extractor.rows(pictures(2)), expected)
    DAMAGES[damage](WEIGHTS.path(), box / f"{WEIGHTS.name}.json")
    said = r"^crop classifier: \S*crop-classifier\S* .*; install taba again\.$"
    with pytest.raises(UsageError, match=said):
        extractor.check()
    with pytest.raises(WorkError, match=said):
        extractor.rows(pictures(2))
    install()
    assert torch.equal(extractor.rows(pictures(2)), expected)
