"""Networks on real images: what they read of a picture, and the captions and classes that come with it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_runs import fingerprints, taba
from real_image_runs import (
    arguments,
    context_of,
    group,
    local,
    refused,
    results,
    run,
    save_pictures,
    write_metadata,
)

from taba_core.images.collection import open_images
from taba_core.models.base import load_model
from workflows.compute.conditioning import prompts_from_bytes, prompts_to_bytes
from workflows.report.from_store import write_store_report

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_checkpoints import tiny_class_unet, tiny_dit, tiny_ldm, tiny_unet
from tiny_text_checkpoints import save_tiny_sd

CAPTIONS = [f"a red boat, number {i}" for i in range(10)]
CLASSES = [3, 0, 9, 1, 1, 2, 8, 7, 5, 4]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_pictures(tmp_path_factory.mktemp("real") / "boats")


def test_a_grey_channel_reads_luminance(tmp_path, folder):
    model = tiny_unet(tmp_path / "grey", in_channels=1, out_channels=1)
    run(tmp_path / "s", context_of(folder, model=model), ["correlation"])
    image = group(tmp_path / "s", "images").read_samples(0, 10, ("image",))["image"]
    rgb = open_images(folder).squares(0, 10, 16) / 127.5 - 1
    grey = 0.299 * rgb[:, 0] + 0.587 * rgb[:, 1] + 0.114 * rgb[:, 2]
    assert image.shape == (10, 1, 16, 16) and np.allclose(image[:, 0], grey, atol=1e-6)


@pytest.mark.slow
def test_a_latent_model_encodes_the_picture(tmp_path, folder):
    model = tiny_ldm(tmp_path / "own-ldm")
    for workers in (1, 2):
        run(tmp_path / str(workers), context_of(folder, model=model), workers=workers)
    assert fingerprints(tmp_path / "1") == fingerprints(tmp_path / "2")
    held = group(tmp_path / "1", "images").read_samples(0, 10, ("image", "decoded"))
    rgb = open_images(folder).squares(0, 10, 32)
    assert np.array_equal(held["decoded"], rgb)
    codec = load_model(str(model)).codec
    for start, stop in ((0, 4), (4, 8), (8, 10)):
        pictures = torch.from_numpy(rgb[start:stop].astype(np.float32) / 127.5 - 1)
        assert np.array_equal(held["image"][start:stop], codec.encode(pictures, "mean").numpy())
    assert results(tmp_path / "1")["correlation"]["first_image"].shape == (8, 3, 32, 32)
    write_store_report(tmp_path / "1", None, force=True)
    assert json.loads((tmp_path / "1" / "report" / "failures.json").read_text()) == []


@pytest.mark.slow
def test_captions_condition_their_images_and_no_prompt_list_is_needed(tmp_path):
    folder = save_pictures(tmp_path / "told", text=CAPTIONS)
    model = save_tiny_sd(tmp_path / "own-sd")
    assert (
        taba("run", *arguments(folder, tmp_path / "s", model=model), "--executor", "local", "--no-report")
        == 0
    )
    prompts = group(tmp_path / "s", "images").read_samples(0, 10, ("prompt",))["prompt"]
    assert prompts_from_bytes(prompts) == CAPTIONS
    run(tmp_path / "two", context_of(folder, model=model), workers=2)
    assert fingerprints(tmp_path / "s") == fingerprints(tmp_path / "two")
    write_metadata(folder, text=CAPTIONS[::-1])
    run(tmp_path / "other", context_of(folder, model=model), ["correlation"])
    latents = [
        group(tmp_path / name, "inversion", forward_steps=0).read_samples(0, 10, ("latent",))["latent"]
        for name in ("s", "other")
    ]
    assert (np.abs(latents[0] - latents[1]).max(axis=(1, 2, 3)) > 0).all()


def test_a_long_caption_is_stored_as_far_as_a_text_encoder_reads(tmp_path):
    text = load_model(str(save_tiny_sd(tmp_path / "own-sd"))).text
    long = "é日🏯 the red boat " * 100
    (stored,) = prompts_from_bytes(prompts_to_bytes([long]))
    assert long.startswith(stored) and 1020 < len(stored.encode()) <= 1024 < len(long.encode())
    for whole, cut in zip(text.encode([long]).values(), text.encode([stored]).values(), strict=True):
        assert torch.equal(whole, cut)


@pytest.mark.slow
def test_classes_condition_their_images(tmp_path):
    folder = save_pictures(tmp_path / "told", **{"class": CLASSES})
    model = tiny_dit(tmp_path / "own-dit")
    for workers in (1, 2):
        run(tmp_path / str(workers), context_of(folder, model=model), workers=workers)
    assert fingerprints(tmp_path / "1") == fingerprints(tmp_path / "2")
    assert group(tmp_path / "1", "images").read_samples(0, 10, ("class_id",))["class_id"].tolist() == CLASSES


def test_classes_the_model_does_not_know_are_refused_before_anything_runs(tmp_path, capsys):
    folder = save_pictures(tmp_path / "told", **{"class": CLASSES})
    said = refused(capsys, *local(folder, tmp_path / "s", model=tiny_class_unet(tmp_path / "five", 5)))
    assert said == (
        f"{folder / 'metadata.jsonl'}: '02.png' has class 9, and five has the classes 0 to 4. Give it one of these."
    )
    # The embedding behind the last class is that of no class, which would be read without a word.
    write_metadata(folder, **{"class": [*CLASSES[:9], 10]})
    said = refused(capsys, *local(folder, tmp_path / "s", model=tiny_dit(tmp_path / "own-dit")))
    assert "'09.png' has class 10, and own-dit has the classes 0 to 9." in said
    said = refused(capsys, *local(folder, tmp_path / "s", "conditioning=class"))
    assert "'09.png' has class 10, and Photo mixture has the classes 0 to 9." in said
    assert not (tmp_path / "s").exists()


def test_missing_conditions_and_prompts_of_another_source_are_refused(tmp_path, folder, capsys):
    sd = save_tiny_sd(tmp_path / "own-sd")
    for model, kind, field in ((sd, "prompt", "text"), (tiny_dit(tmp_path / "own-dit"), "class", "class")):
        said = refused(capsys, *local(folder, tmp_path / "s", model=model))
        assert said == (
            f"images={folder}: {model.name} reads a condition (conditioning={kind}), and the images have none. Give "
            f"each of them a '{field}' in metadata.jsonl of that folder."
        )
    told = save_pictures(tmp_path / "told", text=CAPTIONS)
    assert refused(capsys, *local(told, tmp_path / "s", "prompts=builtin", model=sd)) == (
        "prompts=builtin: real images have the captions of metadata.jsonl in their folder. Leave prompts out, or leave "
        "images out."
    )
