"""Every way out that a message about given images names works: it is followed, and the plan is made."""

from __future__ import annotations

import re

import pytest
from engine_runs import taba
from real_image_runs import save_pictures, write_metadata

follows = pytest.mark.follows


@pytest.fixture
def planned(capsys):
    """(exit code, what was said) of the plan of a study on the images of a folder."""

    def call(folder, *more, study="correlation", model="gaussian"):
        images = () if folder is None else ("--set", f"images={folder}")
        code = taba("plan", study, "--model", model, *images, *more)
        return code, capsys.readouterr().err

    return call


@follows("and a table needs at least ", ". Add images, or ")
def test_images_are_added_to_a_small_folder_or_another_is_given(tmp_path, planned):
    few, other = save_pictures(tmp_path / "few", 3), save_pictures(tmp_path / "other", 4)
    code, said = planned(few)
    assert code == 2 and "at least 4. Add images, or give another folder." in said
    assert planned(other)[0] == 0
    save_pictures(few, 4)
    assert planned(few)[0] == 0


@follows(" channels, and pictures have 3 or 1. Use ")
def test_images_for_a_model_of_other_channels_go_to_another_model(tmp_path, planned):
    folder, card = save_pictures(tmp_path / "boats"), tmp_path / "two.yaml"
    card.write_text("extends: adm-64\nsample_shape: [2, 64, 64]\n")
    code, said = planned(folder, model=card)
    assert code == 2 and "works on 2 channels, and pictures have 3 or 1. Use another model." in said
    card.write_text("extends: adm-64\nsample_shape: [1, 64, 64]\n")
    for model in ("gaussian", card):
        assert planned(folder, model=model)[0] == 0


@pytest.mark.parametrize(("model", "values"), [("dit", list(range(10))), ("sdxl", ["a red boat"] * 10)])
@follows("have none. Give each of them a '")
def test_a_condition_that_the_model_reads_is_given_in_the_file_that_is_named(
    model, values, tmp_path, planned
):
    folder = save_pictures(tmp_path / "boats")
    code, said = planned(folder, model=model)
    assert code == 2
    name, file = re.findall(r"Give each of them a '(\w+)' in (\S+) of that folder", said)[0]
    assert file == "metadata.jsonl"
    write_metadata(folder, **{name: values})
    code, said = planned(folder, model=model)
    assert code == 0, said


@follows(". Give it one of these.")
def test_a_class_the_model_does_not_know_is_replaced_by_one_that_it_names(tmp_path, planned):
    folder = save_pictures(tmp_path / "boats", **{"class": [*range(9), 1000]})
    code, said = planned(folder, model="dit")
    assert code == 2 and "'09.png' has class 1000" in said
    low, high = map(int, re.findall(r"has the classes (\d+) to (\d+)\. Give it one", said)[0])
    for number in (low, high):
        write_metadata(folder, **{"class": [*range(9), number]})
        assert planned(folder, model="dit")[0] == 0


@follows(" in their folder. Leave ")
def test_prompts_beside_images_are_left_out_or_the_images_are(tmp_path, planned):
    folder = save_pictures(tmp_path / "boats", text=["a red boat"] * 10)
    own = tmp_path / "prompts.txt"
    own.write_text("a red boat\n")
    prompts = ("--set", f"prompts={own}")
    code, said = planned(folder, *prompts, model="sdxl")
    assert code == 2 and "Leave prompts out, or leave images out." in said
    assert planned(folder, model="sdxl")[0] == 0
    assert planned(None, *prompts, model="sdxl")[0] == 0


@follows("images have neither. Studies that run on real images: correlation, regions, fix.")
def test_a_study_that_needs_a_path_gives_way_to_those_that_do_not(tmp_path, planned):
    folder = save_pictures(tmp_path / "boats")
    code, said = planned(folder, study="step-error")
    assert code == 2
    for study in said.rpartition("Studies that run on real images: ")[2].rstrip(".\n").split(", "):
        assert planned(folder, study=study)[0] == 0


@follows("a text-conditional model, or another method.")
def test_a_method_of_texts_gets_a_model_of_texts_or_gives_way(planned):
    code, said = planned(None, "--method", "null-text")
    assert code == 2 and "works on a text condition" in said
    assert planned(None, "--method", "null-text", model="sdxl")[0] == 0
    assert planned(None, "--method", "fixed-point")[0] == 0
