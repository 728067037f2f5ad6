"""DiT: class conditioning, learned variance, its autoencoder's scaling, and what contradicts a card."""

from __future__ import annotations

import pytest
import torch
from tiny_checkpoints import DIT_LABELS, edit_json, tiny_dit
from torch.testing import assert_close

from taba_core.diffusion import generate, invert
from taba_core.errors import UsageError
from taba_core.models.catalog import load_card
from taba_core.models.dit import load
from taba_core.models.grids import timestep_grid
from taba_core.models.pipeline_dir import card_from_directory
from taba_core.models.profile import profile_named

EXACT = profile_named("exact")


def normal(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def of_classes(*ids):
    return {"class_id": torch.tensor(ids)}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tiny_dit(tmp_path_factory.mktemp("ckpt") / "dit")


@pytest.fixture(scope="module")
def model(directory):
    return load(card_from_directory(directory), directory, device="cpu", profile=EXACT)


def test_there_and_back_again(directory, model):
    card = card_from_directory(directory)
    assert (card.family, card.conditional, card.scaling_factor) == ("dit", "class", 0.18215)
    cond, noise, errors = of_classes(3, 8), normal(2, 4, 8, 8), []
    for steps in (20, 80):
        grid = timestep_grid(card, steps)
        x_0 = generate(model, noise, grid, cond)
        reconstruction = generate(model, invert(model, x_0, grid, "ddim", cond), grid, cond)
        errors.append(float((reconstruction - x_0).abs().mean() / x_0.abs().mean()))
    # Inversion is wrong at first order: four times the steps leave about a quarter of the error.
    assert errors[0] < 0.2 and 0.15 < errors[1] / errors[0] < 0.45
    assert model.codec.decode(x_0).shape == (2, 3, 32, 32)
    assert_close(model.codec.decode(x_0), model.codec.vae.decode(x_0 / 0.18215).sample)


def test_another_class_changes_eps_of_its_own_row(model):
    x = normal(2, 4, 8, 8)
    first, second = model.eps(x, 400, of_classes(0, 2)), model.eps(x, 400, of_classes(1, 2))
    assert (first[0] - second[0]).abs().max() > 1e-3
    assert_close(first[1], second[1], atol=1e-6, rtol=0)


def test_the_four_channels_of_learned_variance_are_dropped(directory, model):
    from diffusers import DiTTransformer2DModel

    x, transformer = (
        normal(2, 4, 8, 8),
        DiTTransformer2DModel.from_pretrained(directory / "transformer").eval(),
    )
    with torch.no_grad():
        raw = transformer(x, torch.tensor([400, 400]), torch.tensor([0, 2])).sample
    assert raw.shape == (2, 8, 8, 8)
    assert_close(model.eps(x, 400, of_classes(0, 2)), raw[:, :4], atol=2e-6, rtol=1e-5)


def test_labels_are_not_dropped_as_in_training(model):
    # Label dropout of 0.1 would change one row in ten.
    x = normal(64, 4, 8, 8)
    cond = {"class_id": torch.arange(64) % 10}
    assert torch.equal(model.eps(x, 100, cond), model.eps(x, 100, cond))


def test_classes_are_named_by_the_directory_and_the_null_class_is_none_of_them(model):
    assert model.class_names == tuple(name.split(",")[0] for name in DIT_LABELS)
    with pytest.raises(UsageError, match="spans 11 to 11; the network has classes 0 to 9"):
        model.eps(normal(1, 4, 8, 8), 400, of_classes(11))


def test_a_thousand_unnamed_classes_are_imagenets(tmp_path):
    directory = tiny_dit(tmp_path / "dit", num_embeds_ada_norm=1000, num_layers=1)
    edit_json(directory / "model_index.json", id2label=...)
    names = load(card_from_directory(directory), directory, device="cpu", profile=EXACT).class_names
    assert len(names) == 1000 and names[207] == "golden retriever"


def test_the_hubs_old_class_name_is_read(tmp_path, directory, model):
    # facebook/DiT-XL-2-256 was saved as Transformer2DModel, without norm_eps.
    old = tiny_dit(tmp_path / "old")
    edit_json(
        old / "transformer" / "config.json",
        _class_name="Transformer2DModel", norm_eps=..., num_vector_embeds=None, only_cross_attention=False,
        use_linear_projection=False, double_self_attention=False, cross_attention_dim=None,
    )  # fmt: skip
    card = card_from_directory(old)
    assert card.family == "dit"
    loaded, x = load(card, old, device="cpu", profile=EXACT), normal(2, 4, 8, 8)
    assert_close(loaded.eps(x, 5, of_classes(1, 2)), model.eps(x, 5, of_classes(1, 2)), rtol=0, atol=0)


def test_the_papers_half_precision_stays_inside(directory, model):
    card = card_from_directory(directory).model_copy(update={"precision": "fp16"})
    half = load(card, directory, device="cpu", profile=profile_named("reference"))
    grid, cond, noise = timestep_grid(card, 10), of_classes(3, 8), normal(2, 4, 8, 8)
    x_0, exact = generate(half, noise, grid, cond), generate(model, noise, grid, cond)
    assert x_0.dtype == torch.float32
    assert 0 < (x_0 - exact).abs().max() < 0.05 * exact.abs().max()
    assert half.codec.decode(x_0).dtype == torch.float32


def test_the_built_in_card_takes_it_up_to_its_size(directory, tmp_path):
    card = load_card("dit")
    with pytest.raises(UsageError, match=r"sample_size=8; the card of dit has states of 32 x 32"):
        load(card, directory, device="cpu", profile=EXACT)
    small = card.model_copy(update={"sample_shape": (4, 8, 8)})
    assert load(small, directory, device="cpu", profile=EXACT).codec.scaling == 0.18215
    other = tiny_dit(tmp_path / "betas")
    edit_json(other / "scheduler" / "scheduler_config.json", beta_end=0.012)
    with pytest.raises(UsageError, match=r"says schedule.beta_end=0.012, the card of dit says 0.02"):
        load(small, other, device="cpu", profile=EXACT)
