"""Every way out that a message about a model names works: it is followed, as it is written, and the model loads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tiny_checkpoints import edit_json, tiny_class_unet, tiny_dit, tiny_kl, tiny_ldm, tiny_unet
from tiny_text_checkpoints import save_tiny_if, save_tiny_sd, save_tiny_sdxl

from taba_core.errors import UsageError
from taba_core.models.base import model_spec
from taba_core.models.catalog import load_card
from taba_core.models.families import load_network
from taba_core.models.grids import timestep_grid
from taba_core.models.profile import profile_named

# What a card of a built-in name needs beside the lines of the message, because these checkpoints are tiny.
SMALL = {
    "ldm": ["sample_shape: [3, 8, 8]", "image_size: 32"],
    "sdxl": ["sample_shape: [4, 8, 8]", "image_size: 16"],
    "sd": ["sample_shape: [4, 8, 8]", "image_size: 16"],
    "if": ["sample_shape: [3, 8, 8]", "image_size: 8"],
    "dit": ["sample_shape: [4, 8, 8]", "image_size: 32"],
}


def load(name, weights=None):
    """Describe a model as a plan does, then build it as a worker does."""
    spec, card = model_spec(str(name), weights=weights), load_card(str(name))
    load_network(card, Path(weights or card.weights.location), device="cpu", profile=profile_named("exact"))
    timestep_grid(card, 10)
    assert spec.fingerprint
    return card


def card_of(lines, path):
    """A card of the given lines; of two for one field, the first is kept."""
    first = {}
    for line in lines:
        first.setdefault(line.split(":")[0], line)
    path.write_text("\n".join(first.values()) + "\n")
    return path


def lines_of(message):
    """The lines of a card that a message names, between backticks."""
    return [text for text in re.findall(r"`([^`]+)`", message) if re.match(r"[a-z_]+: ", text)]


def refusal(name, weights=None):
    with pytest.raises(UsageError) as caught:
        load(name, weights)
    return str(caught.value)


def scheduler(directory, **changes):
    edit_json(directory / "scheduler" / "scheduler_config.json", **changes)
    return directory


@pytest.mark.parametrize(
    ("make", "changes", "expected"),
    [
        (save_tiny_sd, {"timestep_spacing": "linspace"}, {"style": "diffusers-leading"}),
        (tiny_unet, {"clip_sample": True, "clip_sample_range": 2.0}, {"sampling_x0_rule": "clip"}),
        (save_tiny_if, {"sample_max_value": 3.0}, {"sampling_x0_rule": "dynamic"}),
    ],
)  # fmt: skip
def test_a_card_makes_another_choice_than_the_directorys_sampler(make, changes, expected, tmp_path):
    directory = tmp_path / "mine"
    make(directory)
    kept = load(directory)
    scheduler(directory, **changes)
    message = refusal(directory)
    assert "It is a choice of the sampler: make another in a YAML card of your own" in message
    card = load(card_of(lines_of(message), tmp_path / "chosen.yaml"))
    assert (card.name, card.family, card.schedule) == ("chosen", kept.family, kept.schedule)
    assert card.sample_shape == kept.sample_shape and card.weights == kept.weights
    assert (card.grid.model_dump() | card.reference.model_dump()).items() >= expected.items()


def test_the_cards_choices_override_those_of_the_file_one_by_one(tmp_path):
    directory = tmp_path / "mine"
    save_tiny_sd(directory)
    scheduler(directory, timestep_spacing="linspace", steps_offset=1, set_alpha_to_one=False)
    lines = [f"extends: {directory}", "grid: {style: diffusers-leading, final_alpha_bar: one}"]
    grid = load(card_of(lines, tmp_path / "a.yaml")).grid
    assert (grid.style, grid.steps_offset, grid.final_alpha_bar) == ("diffusers-leading", 1, "one")
    # A trailing grid has no offset, whatever the file says.
    lines[1] = "grid: {style: diffusers-trailing}"
    grid = load(card_of(lines, tmp_path / "b.yaml")).grid
    assert (grid.style, grid.steps_offset, grid.final_alpha_bar) == ("diffusers-trailing", 0, "first")


def test_a_card_beside_the_directory_extends_it_by_a_relative_path(tmp_path):
    tiny_unet(tmp_path / "mine")
    card = load(card_of(["extends: mine", "title: Mine"], tmp_path / "other.yaml"))
    assert (card.name, card.title, card.family) == ("other", "Mine", "unet")
    with pytest.raises(
        UsageError, match=r"extends \./gone: no such diffusers directory\. Correct the path, or"
    ):
        load_card(str(card_of(["extends: ./gone"], tmp_path / "gone.yaml")))


@pytest.mark.parametrize(
    ("name", "make", "break_it"),
    [
        ("ldm", tiny_ldm, lambda d: scheduler(d, prediction_type="v_prediction")),
        ("sdxl", save_tiny_sdxl, lambda d: scheduler(d, beta_end=0.02)),
        ("ldm", tiny_ldm, lambda d: scheduler(d, beta_schedule="squaredcos_cap_v2")),
        ("sd", save_tiny_sd, lambda d: edit_json(d / "vae" / "config.json", scaling_factor=0.5)),
        ("dit", tiny_dit, lambda d: edit_json(d / "vae" / "config.json", scaling_factor=0.5)),
    ],
)
def test_a_fact_that_contradicts_a_card_is_corrected_in_a_card_or_in_the_file(name, make, break_it, tmp_path):
    directory = tmp_path / "mine"
    make(directory)
    files = {file: file.read_text() for file in directory.rglob("*config.json")}
    right = card_of(
        [f"extends: {name}", f"weights: {directory}", *SMALL[name]], tmp_path / "mine-as-built-in.yaml"
    )
    load(right)
    break_it(directory)
    # The user's card is told to be corrected, a built-in one to be extended; both take the same line.
    message = refusal(right)
    (line,) = lines_of(message)
    assert "Correct the card: `" in message and "or correct the file if it is wrong." in message
    load(card_of([line, *right.read_text().splitlines()], tmp_path / "corrected.yaml"))
    for file, text in files.items():
        file.write_text(text)
    load(right)


def test_the_lines_for_a_built_in_card_are_a_whole_card(tmp_path):
    directory = save_tiny_sd(tmp_path / "mine")
    message = refusal("sd", directory)
    # The published size is 512, this directory's 16.
    assert "the card says 512" in message
    written = card_of(
        [*lines_of(message), "sample_shape: [4, 8, 8]", "image_size: 16"], tmp_path / "own.yaml"
    )
    assert "image_size: 128" in written.read_text()
    # sample_shape is the tiny checkpoint's own, so the size it makes is asked for next.
    message = refusal(written)
    (line,) = lines_of(message)
    assert line == "image_size: 16"
    load(card_of([line, *written.read_text().splitlines()], written))


def test_conditioning_that_contradicts_the_card_is_corrected_in_a_card(tmp_path):
    directory = tiny_class_unet(tmp_path / "mine")
    right = card_of([f"extends: {directory}", "conditional: none"], tmp_path / "none.yaml")
    message = refusal(right)
    assert "its card says conditional=none, and its network's conditioning is 'class'" in message
    load(card_of([*lines_of(message), *right.read_text().splitlines()], right))


def test_a_state_of_other_channels_or_sides_is_corrected_in_a_card(tmp_path):
    directory = tiny_unet(tmp_path / "mine", in_channels=1, out_channels=1)
    wrong = card_of([f"extends: {directory}", "sample_shape: [3, 16, 16]"], tmp_path / "three.yaml")
    message = refusal(wrong)
    assert "in_channels=1, out_channels=1; the card of three has states of 3 channels" in message
    load(card_of([*lines_of(message), *wrong.read_text().splitlines()], wrong))
    transformer = tiny_dit(tmp_path / "transformer")
    wrong = card_of([f"extends: {transformer}", "sample_shape: [4, 16, 16]"], tmp_path / "large.yaml")
    message = refusal(wrong)
    assert "sample_size=8; the card of large has states of 16 x 16" in message
    load(card_of([*lines_of(message), *wrong.read_text().splitlines()], wrong))


def test_what_no_card_can_change_is_corrected_in_the_file(tmp_path):
    directory = tiny_unet(tmp_path / "mine")
    for field, wrong, right in [
        ("trained_betas", [0.1, 0.2], None),
        ("beta_schedule", "sigmoid", "linear"),
        ("prediction_type", "flow_prediction", "epsilon"),
        ("_class_name", "EDMEulerScheduler", "DDIMScheduler"),
    ]:
        message = refusal(scheduler(directory, **{field: wrong}))
        assert f"{field}=" in message and "no card can change" in message
        # A card cannot, indeed.
        stubborn = card_of([f"extends: {directory}", "prediction: epsilon"], tmp_path / "stubborn.yaml")
        assert refusal(stubborn) == message
        load(scheduler(directory, **{field: right}))


def test_a_number_of_classes_that_is_not_known_is_stated_in_the_file(tmp_path):
    directory = tiny_unet(tmp_path / "mine", class_embed_type="timestep", num_class_embeds=5)
    edit_json(directory / "unet" / "config.json", num_class_embeds=None)
    assert "State it as num_class_embeds in this file." in refusal(directory)
    edit_json(directory / "unet" / "config.json", num_class_embeds=5)
    load(directory)


def test_a_table_of_learned_times_that_is_too_short_is_named(tmp_path):
    directory = tiny_unet(tmp_path / "mine", time_embedding_type="learned", num_train_timesteps=500)
    message = refusal(directory)
    assert "num_train_timesteps=500, and the schedule of mine has 1000 training timesteps" in message
    load(scheduler(directory, num_train_timesteps=500))


def test_an_sd_directory_under_the_sdxl_card_runs_by_itself(tmp_path):
    directory = save_tiny_sd(tmp_path / "mine")
    card = card_of(
        [f"weights: {directory}", "extends: sdxl", *SMALL["sdxl"], "scaling_factor: 0.18215"],
        tmp_path / "a.yaml",
    )
    message = refusal(card)
    assert message.endswith(f"or the directory by itself: --model {directory}.")
    assert load(directory).family == "sd"


def test_a_name_of_a_built_in_model_is_changed_or_given_as_weights(tmp_path):
    directory = tiny_ldm(tmp_path / "ldm")
    assert "'ldm' is the name of a built-in model" in refusal(directory)
    assert load(directory.rename(tmp_path / "renamed")).name == "renamed"


def test_an_autoencoder_of_other_latents_is_refused_and_the_directory_runs_by_itself(tmp_path):
    directory = tiny_dit(tmp_path / "mine")
    wrong = card_of([f"extends: {directory}", "sample_shape: [3, 8, 8]"], tmp_path / "three.yaml")
    message = refusal(wrong)
    assert message.endswith(f"Use the card's weights, or the directory by itself: --model {directory}.")
    load(directory)
    tiny_kl(latent_channels=6).save_pretrained(directory / "vae")
    assert "the autoencoder has latents of 6 channels and the denoiser reads 4" in refusal(directory)
