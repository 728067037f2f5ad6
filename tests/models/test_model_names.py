"""Models by name: complete options, fingerprints of content, and refusals that say the way out."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from taba_core.diffusion.denoiser import Denoiser
from taba_core.errors import UsageError, WorkError
from taba_core.models import mixture_fit
from taba_core.models.base import card_with_options, load_model, load_spec, model_spec


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 255, (70, 80, 3), dtype=np.uint8)).save(tmp_path / name)
    return tmp_path


def test_a_spec_holds_all_options_and_a_fingerprint():
    spec = model_spec("gaussian", {"beta": 3})
    assert spec.options == {"size": 32, "variance": 0.25, "beta": 3.0, "basis": "fourier"}
    assert spec.fingerprint and spec.fingerprint != model_spec("gaussian").fingerprint
    assert spec == model_spec("gaussian", spec.options)


def test_the_fingerprint_follows_the_photographs_not_their_folder(folder, tmp_path_factory):
    before = model_spec("photo-mixture", {"photos": str(folder)})
    elsewhere = tmp_path_factory.mktemp("moved")
    for path in folder.iterdir():
        (elsewhere / path.name).write_bytes(path.read_bytes())
    assert model_spec("photo-mixture", {"photos": str(elsewhere)}).fingerprint == before.fingerprint
    Image.new("RGB", (70, 80)).save(folder / "b.png")
    assert model_spec("photo-mixture", {"photos": str(folder)}).fingerprint != before.fingerprint


def test_the_fingerprint_needs_no_fit(monkeypatch):
    monkeypatch.setattr(mixture_fit, "fit_mixture", lambda *_: pytest.fail("fitted"))
    assert len(model_spec("photo-mixture").fingerprint) == 24


def test_embedded_models_are_denoisers():
    model = load_model("gaussian", options={"size": 8})
    assert isinstance(model, Denoiser) and model.sample_shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gauss", None, r"unknown model 'gauss': did you mean gaussian\?"),
        ("gaussian", {"betta": 1}, r"unknown gaussian option 'betta': did you mean beta\?"),
        ("gaussian", {"size": 1}, r"gaussian option size=1: input should be greater than or equal to 2"),
        (
            "photo-mixture",
            {"rank": "many"},
            r"rank='many': .*valid integer.*Leave it out for the default 32\.",
        ),
        ("dit", None, r"weights of DiT are not here \(.*\): `taba fetch dit` on a machine with internet, or"),
        ("dit", {"profil": "fast"}, r"unknown dit option 'profil': did you mean profile\?"),
    ],
)
def test_what_cannot_be_is_refused(name, options, message):
    with pytest.raises(UsageError, match=message):
        model_spec(name, options)
    with pytest.raises(UsageError, match=message):
        load_model(name, options=options)


def test_weights_for_a_model_without_weights_are_refused():
    with pytest.raises(UsageError, match=r"weights='x\.pt': gaussian is embedded and reads no weights"):
        load_model("gaussian", weights="x.pt")


def refused(folder):
    with pytest.raises(UsageError) as error:
        model_spec("photo-mixture", {"photos": str(folder)})
    return str(error.value)


def test_photo_folders_that_cannot_be_used_are_named(folder, tmp_path_factory):
    assert refused(folder / "none").startswith(f"photos='{folder / 'none'}': no such folder.")
    empty = tmp_path_factory.mktemp("empty")
    (empty / "notes.txt").write_text("no image")
    assert "holds no image; it holds 1 other entries. Accepted suffixes: .png, .jpg, .jpeg" in refused(empty)
    Image.new("RGB", (200, 63)).save(folder / "small.png")
    assert "small.png' is 200x63 pixels; the shorter side must have at least 64." in refused(folder)
    (folder / "small.png").write_bytes(b"not a picture")
    assert "small.png' is no PNG, JPEG, BMP, TIFF or WebP image" in refused(folder)


def test_where_the_photographs_lie_is_not_in_the_key(tmp_path):
    from taba_core.spec import Generation

    def key(folder):
        folder.mkdir()
        Image.fromarray(np.full((80, 90, 3), 7, np.uint8)).save(folder / "a.png")
        model = model_spec("photo-mixture", {"photos": str(folder)})
        assert model.location == str(folder)
        return Generation(model=model, num_samples=2, samples_per_shard=2, num_inference_steps=2, seed=0).key

    assert key(tmp_path / "here") == key(tmp_path / "there")


def test_photographs_that_changed_since_the_plan_are_refused(tmp_path):
    picture = tmp_path / "a.png"
    Image.fromarray(np.full((80, 90, 3), 7, np.uint8)).save(picture)
    spec = model_spec("photo-mixture", {"photos": str(tmp_path)})
    Image.fromarray(np.full((80, 90, 3), 8, np.uint8)).save(picture)
    with pytest.raises(WorkError, match="the files changed since"):
        load_spec(spec)


def test_the_card_of_the_gaussian_field_has_the_size_its_option_says():
    assert card_with_options("gaussian", {"size": 16}).sample_shape == (3, 16, 16)
    assert card_with_options("photo-mixture").sample_shape == (3, 32, 32)
