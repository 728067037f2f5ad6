"""Recipes: the paper's own two as it trained them, a small one; what of a recipe reaches the loop and the network."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from taba_core.errors import UsageError
from taba_core.models.adm import build_unet
from taba_core.models.adm_flags import adm_flags
from taba_core.models.catalog import load_card
from taba_core.models.grids import noise_schedule
from taba_core.training.data import list_sources
from taba_core.training.networks import build_network
from taba_core.training.one import OneRun, _Training
from taba_core.training.recipe import (
    Recipe,
    StepRange,
    box_recipes,
    checkpoint_grid,
    recipe_named,
    recipes,
)

PAPER = ("adm-32", "adm-64")


def test_the_box_is_what_comes_with_taba():
    assert list(box_recipes()) == [
        "photo-autoencoder",
        "photo-adm",
        "photo-ldm",
        "photo-dit",
        "photo-flow",
        "photo-if",
        "crop-classifier",
    ]
    assert {*recipes()} - {*box_recipes()} == {"photo-tiny", *PAPER}
    assert {recipe.data for recipe in recipes().values()} == {*list_sources()}


@pytest.mark.parametrize(
    ("name", "count", "length", "first", "last"),
    [
        ("adm-32", 121, 700_000, (0, 25, 50, 150), (690_000, 695_000)),
        ("adm-64", 80, 1_500_613, (0, 25, 100, 2500), (1_463_594, 1_484_208)),
    ],
)
def test_the_papers_checkpoints_are_as_many_as_it_has_and_the_last_step_is_kept_too(
    name, count, length, first, last
):
    grid = checkpoint_grid(recipe_named(name))
    assert grid[-1] == length and len(grid[:-1]) == count
    assert grid[: len(first)] == first and grid[-3:-1] == last
    assert list(grid) == sorted(set(grid))


def test_the_checkpoints_of_adm_32_are_denser_where_the_network_changes_more():
    grid = checkpoint_grid(recipe_named("adm-32"))
    epoch = 390
    assert [step for step in grid if 5 * epoch <= step <= 100 * epoch] == [
        5 * epoch * i for i in range(1, 21)
    ]
    between = [step for step in grid if 100 * epoch < step < 425_000]
    assert between == [25 * epoch * i for i in range(5, 44)]
    assert [step for step in grid if step >= 425_000] == [425_000 + 5000 * i for i in range(56)]


def test_a_shorter_run_keeps_the_checkpoints_it_reaches_and_its_last_step():
    recipe = recipe_named("photo-tiny")
    assert checkpoint_grid(recipe) == (0, 25, 50, 100, 200, 400, 600, 800, 1000)
    assert checkpoint_grid(recipe, 110) == (0, 25, 50, 100, 110)
    assert checkpoint_grid(recipe, 50) == (0, 25, 50)
    assert checkpoint_grid(recipe_named("photo-adm"), 7) == (7,)


@pytest.mark.follows(" has no length of its own. Give a number of steps.")
def test_a_recipe_without_a_length_is_given_one():
    with pytest.raises(UsageError, match="photo-adm has no length of its own"):
        checkpoint_grid(recipe_named("photo-adm"))
    assert checkpoint_grid(recipe_named("photo-adm"), 100) == (100,)


def test_impossible_checkpoints_are_refused():
    with pytest.raises(ValidationError, match="steps 0 to 10 are no whole number of times 3"):
        StepRange(first=0, last=10, every=3)
    fields = recipe_named("photo-tiny").model_dump()
    with pytest.raises(ValidationError, match="a checkpoint lies after its 900 steps"):
        Recipe(**fields | {"steps": 900})


@pytest.mark.parametrize("name", [*PAPER, "photo-tiny"])
def test_the_network_is_that_of_the_card_parameter_for_parameter(name):
    recipe, card = recipe_named(name), load_card(name)
    with torch.device("meta"):
        ours = build_unet(adm_flags(name, recipe.network)).state_dict()
        theirs = build_unet(adm_flags(name, card.network)).state_dict()
    assert {key: tuple(value.shape) for key, value in ours.items()} == {
        key: tuple(value.shape) for key, value in theirs.items()
    }
    count = sum(value.numel() for value in ours.values())
    assert count == pytest.approx(card.num_parameters, rel=1e-4)  # the paper's cards give four digits
    # What the weights cannot say: heads and where attention is, the process, the size.
    flags = [
        adm_flags(name, network).model_dump(exclude={"dropout"}) for network in (recipe.network, card.network)
    ]
    assert flags[0] == flags[1]
    assert recipe.image_size == card.image_size
    assert (recipe.noise_schedule().alpha_bar == noise_schedule(card).alpha_bar).all()
    assert recipe.noise_schedule().timestep_scale == card.timestep_scale == 0.25


@pytest.mark.parametrize(("name", "dropout"), [("adm-32", 0.3), ("adm-64", 0.0)])
def test_dropout_is_in_every_residual_block_while_training_and_not_after(name, dropout):
    from diffusers.models.resnet import ResnetBlock2D

    with torch.device("meta"):
        unet = build_unet(adm_flags(name, recipe_named(name).network))
    blocks = [module for module in unet.modules() if isinstance(module, ResnetBlock2D)]
    assert len(blocks) == {"adm-32": 30, "adm-64": 30}[name]
    assert {block.dropout.p for block in blocks} == {dropout}
    others = [m.p for m in unet.modules() if isinstance(m, nn.Dropout)]
    assert sum(p > 0 for p in others) == len(blocks) * (dropout > 0)


def test_dropout_acts_in_training_alone():
    network = recipe_named("photo-tiny").network | {"dropout": 0.3}
    module = build_network(recipe_named("photo-tiny").model_copy(update={"network": network}), 0)
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    x, t = torch.randn(2, 3, 16, 16, generator=generator), torch.zeros(2)

    def call():
        return module(x, t, return_dict=False)[0].detach()

    assert not torch.equal(call(), call())
    module.eval()
    assert torch.equal(call(), call())


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_training_is_that_of_improved_diffusion(name):
    recipe = recipe_named(name)
    assert (recipe.batch_size, recipe.cpu_batch_size, recipe.learning_rate) == (128, 128, 1e-4)
    assert (recipe.warmup_steps, recipe.rate_fall, recipe.clip, recipe.precision) == (
        0,
        "constant",
        0.0,
        "fp32",
    )
    assert (recipe.ema, recipe.ema_warmup) == (0.9999, False)
    assert (recipe.objective, recipe.low_share) == ("hybrid", 0.0)  # all timesteps alike


@pytest.mark.parametrize("name", ["photo-tiny", "photo-adm"])
def test_what_a_recipe_says_of_the_loop_reaches_it(name, tmp_path):
    training = _Training(OneRun(name, tmp_path, steps=3))
    settings, recipe = training._settings(), recipe_named(name)
    for field in ("learning_rate", "warmup_steps", "rate_fall", "clip", "ema", "ema_warmup"):
        assert getattr(settings, field) == getattr(recipe, field), field
    assert (settings.batch_size, settings.steps) == (32, 3)
    assert settings.data == training.source.fingerprint
    assert (settings.ema, settings.clip) == {"photo-tiny": (0.995, 1.0), "photo-adm": (0.999, 1.0)}[name]
