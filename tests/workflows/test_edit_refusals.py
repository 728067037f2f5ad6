"""What `taba edit` refuses before anything is written, one message each; the way out that it names is taken."""

from __future__ import annotations

import numpy as np
import pytest
from engine_runs import taba
from PIL import Image
from real_image_runs import refused, save_pictures, write_metadata

from taba_core.errors import UsageError
from workflows.execution.edit import EditAsked, prepare

follows = pytest.mark.follows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_pictures(tmp_path_factory.mktemp("edit") / "two", 2)


def asked(place, target="flower", prompt="cat", model="photo-dit", **more):
    return EditAsked(str(place), target, prompt, model, steps=4, **more)


def planned(*words, **more):
    """(what is planned) without writing anything."""
    return prepare(asked(*words, **more), "unused", "cpu")


def says(*words, **more):
    """The message of a refusal."""
    with pytest.raises(UsageError) as refusal:
        planned(*words, **more)
    return str(refusal.value)


def test_a_refusal_is_one_line_and_leaves_neither_store_nor_output(folder, tmp_path, capsys):
    store, output = tmp_path / "store", tmp_path / "out"
    line = refused(
        capsys, "edit", folder, "--to", "dragon", "--prompt", "cat", "--model", "photo-dit",
        "--executor", "inline", "--store", store, "--output", output,
    )  # fmt: skip
    assert line.startswith("--to dragon: this is no class of Photo DiT") and line.count("\n") == 0
    assert not store.exists() and not output.exists()


def test_an_image_that_is_not_there(folder, tmp_path):
    assert "nothing.jpg': there is no such image or folder" in says(tmp_path / "nothing.jpg")
    assert planned(folder / "00.png") and planned(folder)


def test_a_file_that_is_no_image_is_named(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    assert "broken.png' is no PNG, JPEG, BMP, TIFF or WebP image" in says(broken)


@follows(" times. Give a picture whose sides have at least ")
def test_a_tiny_image_is_refused_and_half_the_size_of_the_model_is_enough(tmp_path):
    tiny = tmp_path / "tiny.png"
    Image.fromarray(np.zeros((31, 90, 3), np.uint8)).save(tiny)
    message = says(tiny)
    assert "has 90 x 31 pixels, and the model works on 64 x 64" in message and "at least 32 pixels" in message
    Image.fromarray(np.zeros((32, 90, 3), np.uint8)).save(tiny)
    assert planned(tiny)


@follows(": this is no class of ")
def test_a_target_that_is_no_class(folder):
    message = says(folder, target="dragon")
    assert "a number from 0 to 9, or a name of astronaut, cat, coffee" in message
    assert "--to 10: this is no class" in says(folder, target="10")
    assert "--prompt dragon: this is no class" in says(folder, prompt="dragon")
    context, _, _ = planned(folder, target="temple", prompt="1")
    assert (context.target, context.condition) == (8, 1)


@follows(": this is what the images show already; give ")
def test_what_the_images_show_already(folder, tmp_path):
    assert "--to cat: this is what the images show already" in says(folder, target="cat")
    mixed = save_pictures(tmp_path / "mixed", 2)
    write_metadata(mixed, 2, **{"class": [1, 2]})
    assert planned(mixed, target="cat", prompt=None)  # one of the two shows something else


@follows(" inverts an image under its class: give ")
def test_a_class_model_needs_the_class_of_the_images(folder, tmp_path):
    assert "Photo DiT inverts an image under its class" in says(folder, prompt=None)
    assert planned(folder, prompt="cat")
    assert planned(folder, target="the flower", prompt=None, model="photo-if")[0].condition == ""
    own = save_pictures(tmp_path / "own", 2)
    write_metadata(own, 2, **{"class": [1, 2]})
    assert planned(own, prompt=None)[0].condition is None


@follows("' for each image. Leave --prompt out, or ")
def test_images_with_classes_of_their_own_take_no_other(tmp_path):
    own = save_pictures(tmp_path / "own", 2)
    write_metadata(own, 2, **{"class": [1, 2]})
    assert "metadata.jsonl of" in (message := says(own)) and "has a 'class' for each image" in message
    assert planned(own, prompt=None)
    assert planned(own / "00.png")[0].condition == 1


def test_captions_that_do_not_match_the_images_are_refused_as_everywhere(tmp_path):
    own = save_pictures(tmp_path / "own", 2)
    write_metadata(own, 1, text=["the cat"])
    assert "1 image has no line, the first is '01.png'" in says(own, "the flower", None, "photo-if")
    write_metadata(own, 2, text=["the cat", "a " * 80 + "cat"])
    assert "the prompt has 82 tokens" in says(own, "the flower", None, "photo-if")


def test_a_prompt_longer_than_the_encoder_reads(folder):
    # 76 words and the end mark are 77 tokens; one word more does not fit.
    words = " ".join(["cat"] * 76)
    assert planned(folder, words, "", "photo-if")
    message = says(folder, words + " cat", "", "photo-if")
    assert "--to: the prompt has 78 tokens, and the text encoder of Photo IF reads 77" in message
    assert "Shorten it by 1 or more" in message
    assert "--prompt: the prompt has 78 tokens" in says(folder, "cat", words + " cat", "photo-if")


def test_a_prompt_that_has_no_room(folder):
    assert "more than the 1024 bytes" in says(folder, "x" * 1025, "", "photo-if")
    assert planned(folder, "x" * 1024, "", "photo-if")


@follows(": the prompt is empty; say what ")
def test_an_empty_target(folder):
    assert "--to: the prompt is empty" in says(folder, " ", "", "photo-if")
    assert planned(folder, "cat", "", "photo-if")


def test_a_model_without_conditions_or_weights(folder):
    assert "Photo ADM reads neither; use a model that reads classes or prompts" in says(
        folder, model="photo-adm"
    )
    assert "`taba fetch" in says(folder, "a cat", "", "sd")


@follows(": give how many forward noises ")
def test_seeds_steps_and_methods_that_cannot_be(folder):
    assert "--seeds 0: give how many" in says(folder, seeds=0)
    assert planned(folder, seeds=1)
    assert "--forward-steps 9: " in says(folder, forward_steps=("9",))
    assert "--forward-steps 10%: " in says(folder, forward_steps=("10%",))  # 0.4 of a step at T = 4
    assert [row.forward_steps for row in planned(folder, forward_steps=("50%", "0"), seeds=1)[1]] == [
        None, 0, 0, 2,
    ]  # fmt: skip
    with pytest.raises(UsageError, match="its first steps cannot be replaced"):
        planned(folder, method="edict")
    assert planned(folder, method="edict", forward_steps=("0",))


@follows(": the folder cannot be made (")
def test_an_output_that_is_a_file(folder, tmp_path, capsys):
    file = tmp_path / "out"
    file.write_text("mine")
    common = ("edit", folder, "--to", "flower", "--prompt", "cat", "--steps", 2, "--forward-steps", 0,
              "--executor", "inline", "--store", tmp_path / "store")  # fmt: skip
    assert "out: the folder cannot be made" in refused(capsys, *common, "--output", file)
    assert file.read_text() == "mine" and not (tmp_path / "store").exists()
    assert taba(*common, "--output", tmp_path / "another") == 0


@follows(": give a number above 0; ")
def test_guidance_that_cannot_be(folder):
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        assert "--guidance-scale " in (message := says(folder, guidance_scale=scale)) and "above 0" in message
    assert planned(folder, guidance_scale=1.0)[2] == 1.0


@follows("' guides its own sampler; leave ")
def test_a_method_that_guides_by_itself_takes_no_other_guidance(folder):
    text = (folder, "the temple", "the cat", "photo-if")
    own = {"method": "negative-prompt", "forward_steps": ("0",)}
    assert "'negative-prompt' guides its own sampler" in says(*text, guidance_scale=2.0, **own)
    assert planned(*text, **own)[2] == 1.0


def test_the_closed_form_mixture_is_edited_by_its_classes(folder):
    context, rows, _ = planned(folder, model="photo-mixture")
    assert context.conditioning == "class" and context.title == "Photo mixture on two" and len(rows) == 7


def test_a_word_that_a_small_vocabulary_lacks_is_said_and_so_is_the_empty_prompt(folder):
    notes = planned(folder, "a dragon on the temple", None, "photo-if")[0].notes
    assert any(
        "--to: Photo IF was trained on few words and does not know dragon, on" in note for note in notes
    )
    assert any("under the empty prompt" in note for note in notes)
    assert planned(folder, "the temple", "the cat", "photo-if")[0].notes == []
