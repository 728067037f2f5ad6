"""The networks that come with taba: installed with it, whole, loaded as any other, and making crops of photographs."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from taba_core import rng
from taba_core.diffusion.sampling import generate
from taba_core.models.base import load_model
from taba_core.models.catalog import list_cards, load_card
from taba_core.models.grids import timestep_grid
from taba_core.models.network import Network
from taba_core.models.photos import content_of, load_photos
from taba_core.models.prompts import load_prompts
from taba_core.models.weights import BOX, content_hash, stored_at
from taba_core.training.captions import CaptionGrammar
from taba_core.training.crops import CropSource
from taba_core.training.data import PHOTOGRAPHS, open_source
from taba_core.training.export import save_network, unpack
from taba_core.training.heldout import conditions
from taba_core.training.networks import build_network
from taba_core.training.recipe import recipe_named
from taba_core.training.ship import captions

NAMES = ("photo-adm", "photo-ldm", "photo-dit", "photo-flow", "photo-if")
PHOTOS = load_photos()


def facts(name: str) -> dict:
    return json.loads((BOX / f"{name}.json").read_text(encoding="utf-8"))


def test_the_box_holds_the_four_families_in_less_than_ten_megabytes_and_a_flow_beside_them():
    assert tuple(card.name for card in list_cards() if card.weights.source == "package") == NAMES
    files = [path for path in BOX.rglob("*") if path.is_file()]
    flow = [path for path in files if path.is_relative_to(BOX / "photo-flow")]
    sizes = {path: path.stat().st_size for path in files}
    assert sum(sizes.values()) - sum(sizes[path] for path in flow) < 10e6 and sum(sizes.values()) < 12.5e6
    for name in NAMES:  # what a plan says of them is what is there
        weights = [p for p in files if p.suffix == ".safetensors" and p.is_relative_to(BOX / name)]
        assert sum(path.stat().st_size for path in weights) <= load_card(name).weights.bytes < 3e6


def test_the_wheel_takes_the_box_along():
    """The build takes whole packages, all files of them but those that git ignores."""
    root = Path(__file__).parents[2]
    build = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    assert build == {"targets": {"wheel": {"packages": ["taba_core", "cluster", "workflows"]}}}
    assert BOX.is_relative_to(root / "taba_core")
    parts = {part for path in BOX.rglob("*") for part in (path.name, f"{path.name}/", f"*{path.suffix}")}
    assert not parts & set((root / ".gitignore").read_text(encoding="utf-8").split())


@pytest.mark.parametrize("name", NAMES)
def test_the_files_are_those_that_were_trained_on_these_photographs(name):
    card, said = load_card(name), facts(name)
    assert content_hash(stored_at(card)) == said["content"]
    assert said["photos_fingerprint"] == content_of(PHOTOS).fingerprint
    assert said["images"] == said["steps"] * said["batch_size"]
    assert len(said["held_out_errors"]) == len(said["held_out_levels"]) == 10


@pytest.mark.parametrize("name", NAMES)
def test_a_network_loads_by_its_familys_loader_and_has_the_size_of_its_card(name):
    card, model = load_card(name), load_model(name)
    assert isinstance(model, Network)
    cond = condition(model, card, 3)
    x = torch.randn(3, *card.sample_shape, generator=torch.Generator().manual_seed(0))
    for t in (0.0, 400.0, 900.0):
        found = model.eps(x, t, cond)
        assert found.shape == x.shape
        assert found.isfinite().all()
    # Alone as in company, up to rounding.
    first = {key: value[:1] for key, value in cond.items()}
    assert (model.eps(x[:1], 400.0, first) - model.eps(x, 400.0, cond)[:1]).abs().max() < 1e-4


def condition(model, card, count: int) -> dict:
    crops = CropSource(PHOTOS, "training").counted(range(count), card.image_size, seed=0, stream="box")
    return conditions(model, card, open_source(PHOTOGRAPHS), crops)


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_smooth_and_have_the_colours_of_the_photographs(name):
    card, model = load_card(name), load_model(name)
    noise = torch.from_numpy(rng.normal(range(8), card.sample_shape, seed=1, stream="box"))
    x_0 = generate(
        model,
        noise,
        timestep_grid(card, 20),
        condition(model, card, 8),
        x0_rule=card.reference.sampling_x0_rule,
    )
    images = (model.codec.decode(x_0) if model.codec is not None else x_0).numpy()
    assert images.shape == (8, 3, card.image_size, card.image_size)
    assert np.abs(images).max() < 1.5
    real = CropSource(PHOTOS, "training").counted(range(1000), card.image_size, seed=0, stream="real").images
    colours = real.mean((2, 3)).numpy()
    nearest = np.linalg.norm(images.mean((2, 3))[:, None] - colours, axis=2).min(axis=1)
    assert nearest.max() < 0.2
    # Noise of one standard deviation differs from its neighbour by 1.13, these crops by 0.02 to 0.4.
    assert np.abs(np.diff(images, axis=3)).mean((1, 2, 3)).max() < 0.5


@pytest.mark.parametrize("name", NAMES[1:])
def test_training_writes_what_the_box_holds(name, tmp_path):
    """The same files with the same tensors in half precision, and the same configuration."""
    recipe, told = recipe_named(name), {"photos": [photo.name for photo in PHOTOS]}
    vocabulary = len(CaptionGrammar(told["photos"]).vocabulary)
    save_network(tmp_path / "n", build_network(recipe, 0, vocabulary=vocabulary), recipe, told)
    autoencoder = None
    if recipe.autoencoder:
        autoencoder, theirs = tmp_path / "a", recipe_named(recipe.autoencoder)
        save_network(autoencoder, build_network(theirs, 0), theirs, told)
    made = unpack(tmp_path / "n", tmp_path / "trained", autoencoder=autoencoder)
    assert tree(made) == tree(BOX / name)


def tree(folder: Path) -> dict[str, object]:
    """Headers of tensor files and contents of the others, without what names the version that wrote them."""
    from safetensors import safe_open

    found: dict[str, object] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
                found[str(path.relative_to(folder))] = {
                    key: (part.get_dtype(), tuple(part.get_shape())) for key, part in slices.items()
                }
        else:
            content = json.loads(path.read_text(encoding="utf-8"))
            versions = ("_diffusers_version", "transformers_version")
            found[str(path.relative_to(folder))] = {k: v for k, v in content.items() if k not in versions}
    return found


def test_the_captions_of_the_box_are_those_of_training_crops():
    assert load_prompts("photo-captions").prompts == tuple(captions(PHOTOS))
    assert load_card("photo-if").defaults.prompts == "photo-captions"
