"""A network whose weights a training makes: planned without them, run with them, in Table 1 where it is asked."""

from __future__ import annotations

import csv

import pytest

from taba_core.training.export import WEIGHTS, save_network, unpack
from taba_core.training.networks import build_network
from taba_core.training.recipe import recipe_named
from workflows.__main__ import main
from workflows.planning.jobs import GROUPS_OF_MODELS
from workflows.studies.model_card import ModelCard

SMALL = [
    "num_samples=4", "samples_per_shard=4", "num_inference_steps=3", "bootstrap_replicates=100",
]  # fmt: skip


def taba(*arguments) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def settings() -> list[str]:
    return [part for text in SMALL for part in ("--set", text)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Those of an untrained network, as a training writes them."""
    folder, recipe = tmp_path_factory.mktemp("trained"), recipe_named("photo-tiny")
    save_network(folder / "network", build_network(recipe, 0), recipe, {"data": "photographs"})
    return unpack(folder / "network", folder / "mine").with_name(WEIGHTS)


def test_no_group_of_models_has_a_network_that_nobody_trained():
    assert all("photo-tiny" not in models for models in GROUPS_OF_MODELS.values())


def test_it_is_planned_and_a_run_says_what_trains_it(tmp_path, capsys):
    asked = ("correlation", "--model", "photo-tiny", "--store", tmp_path / "s", *settings())
    assert taba("plan", *asked) == 0
    out = capsys.readouterr().out
    assert "weights: not trained yet: taba run training --model photo-tiny" in out and "taba fetch" not in out
    assert taba("run", *asked, "--executor", "local") == 2
    assert (
        "Photo tiny are not here (not trained yet): `taba run training --model photo-tiny`"
        in capsys.readouterr().err
    )


def test_with_its_weights_it_runs_and_has_a_row_of_table_1(weights, tmp_path, capsys):
    asked = (
        "model-card",
        "--model",
        "photo-tiny",
        "--weights",
        weights,
        "--store",
        tmp_path / "s",
        *settings(),
    )
    assert taba("run", *asked, "--executor", "local", "--workers", 1) == 0, capsys.readouterr().err
    with (tmp_path / "s" / "report" / "tables" / "table1.csv").open() as file:
        rows = [row["Model"] for row in csv.DictReader(file)]
    assert "Photo tiny" in rows
    others = list(ModelCard().present([]).tables[0].rows)  # of a report on other models
    assert others == [row for row in rows if row != "Photo tiny"] and len(others) == 21
