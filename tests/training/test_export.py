"""A trained network's file, unpacked and read by its family's ordinary loader, predicts what was trained."""

from __future__ import annotations

import pytest
import torch

from taba_core.errors import UsageError
from taba_core.models.base import load_model
from taba_core.models.catalog import load_card
from taba_core.models.photos import Photo
from taba_core.training.captions import CaptionGrammar, facts_of
from taba_core.training.crops import CropSource
from taba_core.training.export import load_module, save_network, unpack
from taba_core.training.latents import latent_pool, standardise
from taba_core.training.networks import build_network
from taba_core.training.recipe import recipe_named

FACTS = {"photos": [f"photo{i}" for i in range(10)]}
VOCABULARY = len(CaptionGrammar(FACTS["photos"]).vocabulary)


def saved(name: str, folder):
    """A file with random weights, no branch of which is zero."""
    recipe = recipe_named(name)
    module = build_network(recipe, 0, vocabulary=VOCABULARY)
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    save_network(folder / f"{name}.safetensors", module, recipe, FACTS)
    return folder / f"{name}.safetensors"


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    return saved("photo-autoencoder", tmp_path_factory.mktemp("files"))


@pytest.mark.parametrize(
    "name", ["photo-adm", "photo-tiny", "photo-ldm", "photo-dit", "photo-flow", "photo-if"]
)
def test_the_ordinary_loader_predicts_what_the_file_holds(name, tmp_path, autoencoder):
    file = saved(name, tmp_path)
    recipe = recipe_named(name)
    place = unpack(
        file, tmp_path / f"trained-{name}", autoencoder=autoencoder if recipe.autoencoder else None
    )
    model, card, module = load_model(str(place)), load_card(str(place)), load_module(file)[0]
    assert card.family == recipe.family
    assert card.prediction == {"adm": "epsilon"}.get(recipe.family, recipe.objective)

    x = torch.randn(3, *card.sample_shape, generator=torch.Generator().manual_seed(2))
    t = 400.0 if recipe.timestep_scale == 1.0 else 100.0  # timestep 400 of 4000 is asked for as 100
    cond, output = {}, None
    time = torch.full((3,), t)
    if recipe.family == "dit":
        cond = {"class_id": torch.tensor([0, 4, 9])}
        output = module(x, timestep=time, class_labels=cond["class_id"], return_dict=False)[0]
    elif name == "photo-if":
        grammar = CaptionGrammar(FACTS["photos"])
        pixels = (
            (torch.rand((3, 100, 200, 3), generator=torch.Generator().manual_seed(3)) * 255).byte().numpy()
        )
        crops = CropSource(
            [Photo(*pair) for pair in zip(FACTS["photos"], pixels, strict=False)], "whole"
        ).counted(range(3), 32, seed=0, stream="x")
        facts = facts_of(crops)
        ids, mask = grammar.ids(facts)
        text = module.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        output = module.unet(x, time, encoder_hidden_states=text, return_dict=False)[0]
        cond = model.text.encode(grammar.texts(facts))
    else:
        output = module(x, time, return_dict=False)[0]
    found = model.eps(x, t, cond)
    expected = output[:, : card.sample_shape[0]]
    if card.prediction == "v":
        a = float(recipe.noise_schedule().alpha_bar[400])
        expected = a**0.5 * expected + (1 - a) ** 0.5 * x
    if card.prediction == "velocity":
        expected = x + (1 - 0.4) * expected  # eps of the straight line at s = 400 / 1000
    assert expected.std() > 0.01
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.follows(" works on latents; give the file of its autoencoder.")
def test_a_network_on_latents_needs_its_autoencoder(tmp_path, autoencoder):
    with pytest.raises(UsageError, match="photo-dit works on latents; give the file of its autoencoder"):
        unpack(saved("photo-dit", tmp_path), tmp_path / "photo-dit")
    unpack(saved("photo-dit", tmp_path), tmp_path / "mine", autoencoder=autoencoder)
    assert load_card(str(tmp_path / "mine")).family == "dit"


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(UsageError, match="no file of a trained network"):
        load_module(path)


def test_standardised_latents_have_unit_scale_and_decode_to_the_same(autoencoder):
    module = load_module(autoencoder)[0]
    images = torch.rand(16, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before = module.encode(images).latent_dist
    decoded = module.decode(before.mean).sample
    standardise(module, images)
    after = module.encode(images).latent_dist
    assert after.mean.mean((0, 2, 3)).abs().max() < 1e-4
    assert (after.mean.std((0, 2, 3)) - 1).abs().max() < 1e-4
    assert (module.decode(after.mean).sample - decoded).abs().max() < 1e-4
    ratio = (after.std / before.std).mean((0, 2, 3)) * before.mean.std((0, 2, 3))
    assert (ratio - 1).abs().max() < 1e-3


def test_the_pool_of_latents_is_a_function_of_its_ids(autoencoder):
    pixels = (torch.rand((2, 100, 200, 3), generator=torch.Generator().manual_seed(0)) * 255).byte().numpy()
    source = CropSource([Photo("a", pixels[0]), Photo("b", pixels[1])], "training")
    few, photo = latent_pool(autoencoder, source, 6, seed=1, device=torch.device("cpu"))
    more, _ = latent_pool(autoencoder, source, 9, seed=1, device=torch.device("cpu"))
    assert few.shape == (6, 4, 16, 16)
    assert photo.tolist() == [0, 1, 0, 1, 0, 1]
    assert (more[:6] - few).abs().max() < 1e-5
