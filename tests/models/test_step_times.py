"""What an evaluation costs under each profile: the paper's time, a measured one, or an estimate that says so."""

from __future__ import annotations

import statistics

import pytest

from taba_core.models.catalog import load_card
from taba_core.models.profile import GPU_PROFILE
from taba_core.models.step_times import step_cost, step_times


def test_reference_keeps_the_papers_time_and_its_machine():
    cost = step_cost(load_card("adm-64"), "reference")
    assert (cost.step_seconds, cost.batch_size, cost.source) == (0.093, 128, "GH200")
    assert any(t.model == "adm-64" and t.profile == "reference" for t in step_times())  # of another machine


def test_a_measured_time_replaces_the_cards_own_on_the_same_graphics_card():
    card = load_card("adm-64")
    there = card.cost.model_copy(update={"measured_on": "NVIDIA H200"})
    found = step_cost(load_card("adm-64").model_copy(update={"cost": there}), "reference")
    assert found.source == "NVIDIA H200"  # a card that is not the built-in one has only its own time
    line = next(t for t in step_times() if (t.model, t.profile, t.compiled) == ("adm-64", "fast", True))
    fast = step_cost(card, "fast", compiled=True)
    assert fast.step_seconds == line.seconds and fast.source == f"{line.card}, {line.date:%Y-%m-%d}"


def test_what_was_not_measured_is_said_to_be_an_estimate():
    card = load_card("sdxl")
    cost = step_cost(card, "fast")
    ratios = []
    for name in {t.model for t in step_times() if (t.profile, t.compiled) == ("fast", False)}:
        of_model = step_cost(load_card(name), "fast")  # at the batch nearest to the card's own
        ratios.append(of_model.step_seconds / of_model.batch_size / load_card(name).cost.image_seconds)
    assert len(ratios) >= 5
    assert cost.step_seconds == pytest.approx(card.cost.step_seconds * statistics.median(ratios))
    assert cost.source == "estimate for fast from the time under reference: GH200"
    # Nothing was compiled under `exact`: the uncompiled time of `reference` stands for it.
    assert step_cost(load_card("if"), "exact", compiled=True).source.startswith(
        "estimate for exact, compiled"
    )


def test_models_for_cpus_keep_their_own_time_and_a_cpu_is_no_gpu():
    for profile in ("", "exact", "fast"):
        assert step_cost(load_card("photo-dit"), profile).source == "one CPU core"
    cost = step_cost(load_card("dit"), "exact", device="cpu")
    assert cost.step_seconds == 0.104 and cost.source == "GH200; a CPU takes many times as long"


def test_every_line_names_a_model_and_says_more_of_no_way_to_run_it_than_once():
    lines = step_times()
    named = [(t.model, t.profile, t.compiled, t.batch, t.card) for t in lines]
    assert len(set(named)) == len(named) and all(load_card(t.model).num_parameters for t in lines)
    assert GPU_PROFILE in {t.profile for t in lines}
