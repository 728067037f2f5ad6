"""`taba run paper` without a model: every table and figure of the paper, of the models that come with taba."""

from __future__ import annotations

import re

import pytest

from taba_core.errors import UsageError
from taba_core.models.catalog import list_cards
from workflows.analysis.study import studies
from workflows.command.cli import Question
from workflows.planning.jobs import check

TABLES, FIGURES = 13, 23


def _parts(*assignments: str):
    return Question(["paper"], set_=list(assignments)).parts()


@pytest.mark.parametrize("size", ["standard", "small"])
def test_every_table_and_figure_has_a_study(size):
    asked = {name for part in _parts(f"size={size}") for name in part.studies}
    filled = {alias for name in asked for alias in studies()[name].aliases}
    assert {f"table{number}" for number in range(1, TABLES + 1)} <= filled
    assert {f"fig{number}" for number in range(1, FIGURES + 1)} <= filled


@pytest.mark.parametrize("size", ["standard", "small"])
def test_every_part_can_be_planned(size):
    for part in _parts(f"size={size}"):
        job = check(part)
        assert [study.name for study in job.studies] == [
            name for name in studies() if name in part.studies
        ], part.model


def test_the_standard_size_asks_every_model_that_comes_with_taba():
    cards = {card.name for card in list_cards() if card.runs_anywhere and not card.embedded}
    assert {part.model for part in _parts()} == cards | {"photo-mixture"}


def test_what_the_user_sets_replaces_what_a_size_sets():
    by_model = {part.model: part for part in _parts("size=small", "num_samples=8", "seed=1")}
    assert "num_samples=8" in by_model["photo-dit"].assignments
    assert all(
        sum(text.startswith("num_samples=") for text in part.assignments) == 1 for part in by_model.values()
    )
    assert check(by_model["photo-dit"]).context.num_samples == 8
    assert check(by_model["photo-if"]).context.settings.seed == 1
    assert "methods.rows=table7" in by_model["photo-mixture"].assignments


def test_a_model_that_is_named_is_asked_the_papers_studies_at_its_own_size():
    (part,) = Question(["paper"], model=["photo-ldm"]).parts()
    assert (part.model, part.studies, part.assignments) == ("photo-ldm", ["paper"], [])


def test_an_unknown_size_is_refused_with_those_there_are():
    with pytest.raises(UsageError, match=re.escape("size=huge: sizes are standard, small.")):
        _parts("size=huge")


@pytest.mark.follows("a size belongs to")
@pytest.mark.parametrize("question", [{"studies": ["correlation"]}, {"studies": ["paper"], "model": ["ldm"]}])
def test_a_size_elsewhere_is_refused_and_a_number_of_images_is_the_way_out(question):
    with pytest.raises(UsageError, match="a size belongs to `taba run paper` alone and without --model"):
        Question(**question, set_=["size=small"]).parts()
    (part,) = Question(**question, set_=["num_samples=8"]).parts()
    assert check(part).context.num_samples == 8


def test_weights_go_with_one_model():
    with pytest.raises(UsageError, match=r"--weights w\.pt goes with one --model"):
        Question(["paper"], weights="w.pt").parts()
