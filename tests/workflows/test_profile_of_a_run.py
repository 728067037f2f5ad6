"""A network's profile where none is asked for: the paper's on a GPU, exact on a CPU, by what is asked, and said."""

from __future__ import annotations

import json

import pytest

from workflows.command.cli import Question
from workflows.command.plan_page import print_plan
from workflows.execution import resources
from workflows.execution.resources import planned_device
from workflows.planning.jobs import Asked, check
from workflows.planning.stages import Machines


@pytest.fixture(autouse=True)
def no_gpu_here(monkeypatch):
    monkeypatch.setattr(resources, "_has_gpu", lambda: False)


def context(model, device, *assignments):
    return check(Asked(["correlation"], "runs/none", model, "ddim", list(assignments), device=device)).context


def options(*arguments):
    return context(*arguments).model_spec.options


def test_a_network_on_a_gpu_has_the_papers_profile_unless_another_is_named():
    assert options("adm-64", "cuda") == {"profile": "reference", "compile": False}
    assert options("adm-64", "cpu") == {"profile": "exact", "compile": False}
    assert options("adm-64", "cuda", "model.profile=exact") == options("adm-64", "cpu")
    assert options("adm-64", "cuda", "model.compile=true") == {"profile": "reference", "compile": True}


def test_keys_of_closed_forms_know_no_device_and_those_of_a_profile_no_other_way_to_ask_for_it():
    def key(*arguments):
        return context(*arguments).generation(10).key

    assert key("photo-mixture", "cuda") == key("photo-mixture", "cpu")
    assert key("adm-64", "cuda") == key("adm-64", "cpu", "model.profile=reference") != key("adm-64", "cpu")


def test_the_device_of_a_plan_is_what_is_asked_then_what_its_nodes_have_then_what_is_here(monkeypatch):
    assert planned_device("adm-64", "cpu", allocated=True) == "cpu"
    assert planned_device("adm-64", "cuda", allocated=False) == "cuda"
    # Nodes are asked for with their GPUs, which only models made for CPUs leave alone.
    assert planned_device("adm-64", None, allocated=True) == "cuda"
    assert planned_device("photo-dit", None, allocated=True) == "cpu"
    assert planned_device("adm-64", None, allocated=False) == "cpu"
    assert planned_device("photo-mixture", "cuda", allocated=True) == "cpu"
    monkeypatch.setattr(resources, "_has_gpu", lambda: True)
    assert planned_device("photo-dit", None, allocated=False) == "cuda"


def test_a_plan_says_device_and_profile_and_its_request_repeats_the_device(capsys):
    parts = Question(["fix"], "runs/none", ["dit"]).planned(allocated=True)
    print_plan(parts, Machines(2, 4), as_json=False)
    printed = capsys.readouterr().out
    assert "network: device=cuda, profile=reference" in printed and " --device cuda" in printed
    print_plan(parts, None, as_json=True)
    (model,) = json.loads(capsys.readouterr().out)["models"]
    assert (model["device"], model["profile"]) == ("cuda", "reference")
    print_plan(Question(["fix"], "runs/none", ["photo-mixture"]).planned(allocated=True), None, as_json=False)
    assert "device=" not in capsys.readouterr().out
