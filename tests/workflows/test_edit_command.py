"""`taba edit`: files of every picture, the bits of the artifacts made by hand, what is shared and what resumes."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from engine_runs import taba
from PIL import Image
from real_image_runs import save_pictures, write_metadata

from taba_core import rng
from taba_core.artifacts.base import from_attrs
from taba_core.artifacts.images import ImageList
from taba_core.artifacts.inversion import Inversion
from taba_core.conventions import EXACT
from taba_core.diffusion.guidance import Guided
from taba_core.diffusion.inversion import invert, reconstruct
from taba_core.images.collection import open_images, open_images_at
from taba_core.model_spec import ModelSpec
from taba_core.models.base import load_model
from taba_core.models.catalog import load_card
from taba_core.models.grids import timestep_grid
from taba_core.stats.compressibility import to_bytes

STEPS = 4
QUICK = ("--steps", STEPS, "--executor", "inline", "--device", "cpu")
REPAIRED = ("--forward-steps", 0, "--forward-steps", "25%", "--seeds", 2)
ROWS = ["source", "reconstruction", "edit-latent", "edit-K1-seed42", "edit-K1-seed43"]
CAPTION = "a close view of the cat, medium, mostly orange, mixed"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("edit")


@pytest.fixture(scope="module")
def folder(base):
    """Two pictures that the test draws."""
    return save_pictures(base / "two", 2)


@pytest.fixture(scope="module")
def edited(base, folder):
    """Both pictures as photo-dit edits them: store, output."""
    command = ("edit", folder, "--to", "flower", "--prompt", "cat", "--model", "photo-dit", *QUICK, *REPAIRED)
    assert taba(*command, "--store", base / "store", "--output", base / "out") == 0
    return base / "store", base / "out", command


def facts(output):
    return json.loads((output / "edits.json").read_text())


def png(output, name, row):
    with Image.open(output / f"{name}--{row}.png") as image:
        return np.asarray(image).transpose(2, 0, 1)


def test_every_picture_of_every_image_is_a_file_and_edits_json_says_what_made_it(edited, folder):
    _, output, _ = edited
    told = facts(output)
    expected = {f"{name}--{row}.png" for name in ("00", "01") for row in ROWS}
    assert {f.name for f in output.iterdir()} == expected | {
        "contact-sheet.png",
        "edits.json",
        "targets.jsonl",
    }
    assert (told["target"], told["prompt"], told["to"], told["guidance_scale"]) == (3, 1, "flower", 3.0)
    assert told["num_inference_steps"] == STEPS and told["method"] == "ddim" and told["seconds"] > 0
    assert told["images_fingerprint"] == open_images(folder).under(told["prompt"]).fingerprint()
    assert list(told["artifacts"]) == ROWS and told["model"]["name"] == "photo-dit"
    for number, image in enumerate(told["images_edited"]):
        assert image["sha256"] == hashlib.sha256((folder / f"{number:02}.png").read_bytes()).hexdigest()
        assert [made["made"] for made in image["pictures"]] == ROWS
        assert [made["forward_seed"] for made in image["pictures"]] == [None, None, None, 42, 43]
        source = png(output, f"{number:02}", "source").astype(float)
        assert source.shape == (3, 64, 64)
        for made in image["pictures"]:
            assert made["sha256"] == hashlib.sha256((output / made["file"]).read_bytes()).hexdigest()
            if made["made"] != "source":
                other = png(output, f"{number:02}", made["made"]).astype(float)
                mean = np.abs(other - source).mean() / 127.5  # 8-bit levels in units of [-1, 1]
                assert made["mean_difference"] == pytest.approx(mean, abs=1e-6) and made["ssim"] < 1
    with Image.open(output / "contact-sheet.png") as sheet:
        assert sheet.height > sheet.width  # five rows of two pictures


def test_the_same_command_computes_nothing_and_another_target_shares_the_inversions(
    edited, base, capsys, tmp_path
):
    store, output, command = edited
    before = {file.name: file.read_bytes() for file in output.glob("*--*.png")}
    assert taba(*command, "--store", store, "--output", output) == 0
    again = capsys.readouterr().out
    assert "0 of 9 shards to compute in 0 units" in again
    assert before == {file.name: file.read_bytes() for file in output.glob("*--*.png")}
    lines = [line for line in again.splitlines() if line.startswith(("00.png: ", "01.png: "))]
    assert (
        len(lines) == 2
        and "edits repaired with K=1" in lines[0]
        and str(output / "contact-sheet.png") in again
    )
    other = [*command[:3], "temple", *command[4:]]
    # Images, three inversions, reconstruction and its decoded pictures are there: three edits are missing.
    assert taba(*other, "--store", store, "--output", tmp_path / "temple") == 0
    assert "3 of 9 shards to compute" in capsys.readouterr().out
    assert not np.array_equal(png(tmp_path / "temple", "00", "edit-latent"), png(output, "00", "edit-latent"))


def test_pictures_of_an_earlier_command_do_not_stay_beside_the_new_ones(edited, tmp_path):
    store, _, command = edited
    assert taba(*command, "--store", store, "--output", tmp_path) == 0
    (tmp_path / "mine.png").write_bytes(b"of the user")
    assert taba(*command[:-2], "--seeds", 1, "--store", store, "--output", tmp_path) == 0
    assert not list(tmp_path.glob("*-seed43.png")) and len(list(tmp_path.glob("*-seed42.png"))) == 2
    assert (tmp_path / "mine.png").read_bytes() == b"of the user"


def test_a_photograph_by_classes_has_the_bits_of_inverting_and_sampling_by_hand(base, folder, tmp_path):
    one = folder / "01.png"
    command = ("edit", one, "--to", "flower", "--prompt", "cat", *QUICK, *REPAIRED, "--guidance-scale", 2)
    assert taba(*command, "--store", base / "store", "--output", tmp_path) == 0
    assert facts(tmp_path)["model"]["name"] == "photo-dit"  # because flower is one of its classes
    model, card = load_model("photo-dit"), load_card("photo-dit")
    rgb = open_images(folder).squares(1, 2, 64)
    x_0 = model.codec.encode(torch.from_numpy(rgb.astype(np.float32) / 127.5 - 1), "mean")
    of = {name: {"class_id": torch.tensor([model.class_names.index(name)])} for name in ("cat", "flower")}
    grid, rules = timestep_grid(card, STEPS), EXACT

    def latent(**fields):
        return invert(
            model, x_0, grid, "ddim", of["cat"], network_time=rules.network_time, levels=rules.levels,
            x0_rule=rules.inversion_x0_rule, **fields,
        )  # fmt: skip

    def sampled(start, cond, denoiser):
        image = reconstruct(denoiser, start, grid, "ddim", cond, x0_rule=rules.sampling_x0_rule)
        return to_bytes(model.codec.decode(image).numpy())[0]

    assert np.array_equal(png(tmp_path, "01", "source"), rgb[0])
    assert np.array_equal(png(tmp_path, "01", "reconstruction"), sampled(latent(), of["cat"], model))
    guided = Guided(model, 2.0)
    assert np.array_equal(png(tmp_path, "01", "edit-latent"), sampled(latent(), of["flower"], guided))
    for seed in (42, 43):
        noise = torch.from_numpy(rng.normal([0], x_0.shape[1:], seed=seed, stream="forward"))
        repaired = latent(
            forward_steps=1, forward_level=rules.forward_level, forward_noise=noise.to(x_0.dtype)
        )
        assert np.array_equal(
            png(tmp_path, "01", f"edit-K1-seed{seed}"), sampled(repaired, of["flower"], guided)
        )


def test_a_photograph_under_text_has_the_bits_of_inverting_and_sampling_by_hand(base, folder, tmp_path):
    command = ("edit", folder / "00.png", "--to", CAPTION, *QUICK, "--forward-steps", 0)
    assert taba(*command, "--store", base / "store", "--output", tmp_path) == 0
    told = facts(tmp_path)
    assert told["model"]["name"] == "photo-if" and told["prompt"] == "" and told["guidance_scale"] == 3.0
    model, card = load_model("photo-if"), load_card("photo-if")
    rgb = open_images(folder).squares(0, 1, 32)
    x_0 = torch.from_numpy(rgb.astype(np.float32) / 127.5 - 1)
    grid, rules = timestep_grid(card, STEPS), EXACT
    latent = invert(
        model, x_0, grid, "ddim", model.text.encode([""]), network_time=rules.network_time, levels=rules.levels,
        x0_rule=rules.inversion_x0_rule,
    )  # fmt: skip
    edit = reconstruct(
        Guided(model, 3.0), latent, grid, "ddim", model.text.encode([CAPTION]), x0_rule=rules.sampling_x0_rule
    )
    assert np.array_equal(png(tmp_path, "00", "edit-latent"), to_bytes(edit.numpy())[0])
    assert [made["made"] for made in told["images_edited"][0]["pictures"]] == ROWS[:3]


def test_images_have_the_classes_of_their_folder_and_an_own_class_gives_the_image_back(base, tmp_path):
    mixed = save_pictures(tmp_path / "mixed", 2)
    write_metadata(mixed, 2, **{"class": [2, 1]})
    command = ("edit", mixed, "--to", 2, *QUICK, "--forward-steps", 0, "--guidance-scale", 1)
    assert taba(*command, "--store", base / "store", "--output", tmp_path / "out") == 0
    told = facts(tmp_path / "out")
    assert (told["prompt"], told["target"]) == (None, 2)
    out = tmp_path / "out"
    assert np.array_equal(png(out, "00", "edit-latent"), png(out, "00", "reconstruction"))
    assert not np.array_equal(png(out, "01", "edit-latent"), png(out, "01", "reconstruction"))


def test_one_condition_of_all_images_is_another_artifact_by_its_pixels_and_conditions_alone(folder):
    images = open_images(folder)
    (alone,) = open_images_at(folder / "00.png").files
    assert alone == folder / "00.png" and images.location == folder
    assert images.under("a cat").fingerprint() != images.under("a dog").fingerprint() != images.fingerprint()
    shared = {"model": ModelSpec(name="m"), "batch_size": 1, "num_images": 2}
    by_hand = ImageList(**shared, fingerprint="f", conditioning="prompt")
    given = ImageList(**shared, fingerprint="f", conditioning="prompt", condition="a cat")
    assert by_hand.key == given.key and from_attrs(given.attrs()).condition == "a cat"
    for conditioning, condition in (("class", "a cat"), ("prompt", 3), ("none", 3)):
        with pytest.raises(ValueError, match=r"it is a (prompt|class)"):
            ImageList(**shared, fingerprint="f", conditioning=conditioning, condition=condition)
    assert Inversion(source=given, num_inference_steps=2).samples.condition_variables == (
        "class_id",
        "prompt",
    )
