"""Editors in `taba edit` and in stored edits: the bits of editing by hand, keys that stay, prices, refusals."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from engine_runs import nodes, taba
from PIL import Image
from pydantic import ValidationError
from real_image_runs import refused, save_pictures, write_metadata

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_text_checkpoints import save_tiny_sd

from taba_core import rng
from taba_core.artifacts.base import from_attrs
from taba_core.artifacts.edit import Edit
from taba_core.artifacts.generation import Generation
from taba_core.artifacts.images import ImageList
from taba_core.artifacts.inversion import Inversion
from taba_core.conventions import EXACT
from taba_core.diffusion.attention.editor import Prompts
from taba_core.diffusion.attention.editors.masactrl import MasaCtrl
from taba_core.diffusion.attention.editors.sdedit import SDEdit
from taba_core.diffusion.attention.sampling import EditStart, sample_edit
from taba_core.diffusion.forward import forward_diffuse
from taba_core.diffusion.guidance import Guided
from taba_core.diffusion.inversion import invert_with_report
from taba_core.errors import UsageError
from taba_core.images.collection import open_images
from taba_core.model_spec import ModelSpec, PromptSpec
from taba_core.models.base import load_model
from taba_core.models.catalog import load_card
from taba_core.models.grids import timestep_grid
from taba_core.stats.compressibility import to_bytes
from workflows.compute import edited as compute
from workflows.configuration.editor import ChosenEditor, parse_editor
from workflows.execution.edit import EditAsked, prepare

follows = pytest.mark.follows
STEPS = 4
CAPTIONS = ["a red boat", "the horse"]
TARGET = "a blue boat"
QUICK = ("--steps", STEPS, "--executor", "inline", "--device", "cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("editors")


@pytest.fixture(scope="module")
def model(base):
    return save_tiny_sd(base / "own-sd")


@pytest.fixture(scope="module")
def folder(base):
    return save_pictures(base / "two", 2, text=CAPTIONS)


def words(folder, model, store, output, *more):
    return (
        "edit",
        folder,
        "--to",
        TARGET,
        "--model",
        model,
        *QUICK,
        "--store",
        store,
        "--output",
        output,
        *more,
    )


def pngs(output, row):
    read = []
    for name in ("00", "01"):
        with Image.open(output / f"{name}--{row}.png") as image:
            read.append(np.asarray(image).transpose(2, 0, 1))
    return np.stack(read)


# ---------------------------------------------------------------- the command


def test_masactrl_has_the_bits_of_editing_by_hand_with_pinned_sources(base, folder, model, tmp_path):
    command = words(
        folder, model, base / "store", tmp_path, "--editor", "masactrl", "--set", "editor.start_step=1",
        "--set", "editor.layer=1", "--forward-steps", 0, "--forward-steps", 1, "--seeds", 1,
    )  # fmt: skip
    assert taba(*command) == 0
    told = json.loads((tmp_path / "edits.json").read_text())
    assert told["editor"] == "masactrl" and told["editor_options"] == {"start_step": 1, "layer": 1}
    assert told["guidance_scale"] == 7.5
    network, card = load_model(str(model)), load_card(str(model))
    rgb = open_images(folder).squares(0, 2, 16)
    x_0 = network.codec.encode(torch.from_numpy(rgb.astype(np.float32) / 127.5 - 1), "mean")
    noise = torch.from_numpy(rng.normal([0, 1], x_0.shape[1:], seed=42, stream="forward"))
    grid, cond = timestep_grid(card, STEPS), network.text.encode(CAPTIONS)
    for row, K in (("edit-latent", 0), ("edit-K1-seed42", 1)):
        states = {}
        report = invert_with_report(
            network, x_0, grid, "ddim", cond, network_time=EXACT.network_time, levels=EXACT.levels,
            forward_steps=K, forward_noise=noise if K else None,
            on_step=lambda record, states=states: states.update({record.step - 1: record.x_from}),
        )  # fmt: skip
        # Step 1 is replaced: below it stands the image itself.
        states.setdefault(0, x_0)
        path = torch.stack([states[step] for step in range(STEPS)], dim=1)
        image = sample_edit(
            network,
            EditStart(report.latent, states=path),
            grid,
            MasaCtrl(1, 1),
            Prompts(CAPTIONS, [TARGET] * 2),
            guidance_scale=7.5,
        )
        assert np.array_equal(pngs(tmp_path, row), to_bytes(network.codec.decode(image).numpy()))
    # The same command with another option computes edits alone.
    edits = [node.attrs["spec"] for node in nodes(base / "store", "edit")]
    assert all(edit["source_path"] == "pinned" and edit["editor"] == "masactrl" for edit in edits)


@pytest.mark.parametrize("editor", ["prompt-to-prompt", "plug-and-play", "style-aligned"])
def test_every_editor_runs_behind_any_method(base, folder, model, tmp_path, editor):
    common = ("--editor", editor, "--guidance-scale", 2, "--forward-steps", 0)
    plain = words(
        folder, model, base / "store", tmp_path / "plain", "--guidance-scale", 2, "--forward-steps", 0
    )
    assert taba(*plain) == 0
    assert taba(*words(folder, model, base / "store", tmp_path / "ddim", *common)) == 0
    latent = ("--set", "editor.start=latent") if editor == "style-aligned" else ()
    own = ("--method", "edict", *latent)
    assert taba(*words(folder, model, base / "store", tmp_path / "edict", *common, *own)) == 0
    pictures = [pngs(tmp_path / name, "edit-latent") for name in ("plain", "ddim", "edict")]
    assert not np.array_equal(pictures[0], pictures[1]) and not np.array_equal(pictures[1], pictures[2])


def test_sdedit_needs_no_inversion_and_runs_on_every_model(base, folder, tmp_path, capsys):
    command = ("edit", folder, "--to", "the flower", "--model", "photo-if", *QUICK, "--seeds", 2,
               "--guidance-scale", 2,
               "--editor", "sdedit", "--set",
               "editor.strength=0.5", "--store", base / "store", "--output", tmp_path)  # fmt: skip
    assert taba(*command) == 0
    assert "edits from noise on the image" in (said := capsys.readouterr().out)
    assert "reconstruction" not in said
    made = {file.name.partition("--")[2] for file in tmp_path.glob("*--*.png")}
    assert made == {"source.png", "edit-seed42.png", "edit-seed43.png"}
    assert not [
        node
        for node in nodes(base / "store", "inversion")
        if node.attrs["spec"]["source"]["model"]["name"] == "photo-if"
    ]
    network, card = load_model("photo-if"), load_card("photo-if")
    x_0 = torch.from_numpy(open_images(folder).squares(0, 2, 32).astype(np.float32) / 127.5 - 1)
    for seed in (42, 43):
        image = SDEdit(0.5, seed).sample(
            Guided(network, 2.0), x_0, timestep_grid(card, STEPS), network.text.encode(["the flower"] * 2),
            sample_ids=[0, 1],
        )  # fmt: skip
        assert np.array_equal(pngs(tmp_path, f"edit-seed{seed}"), to_bytes(image.numpy()))


def test_the_list_names_editors_with_their_options(capsys):
    assert taba("list") == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.strip().startswith("masactrl")]
    assert "start_step=4 layer=None" in line and "attention of SD or SDXL" in line
    assert any(line.strip().startswith("sdedit") and "strength=0.8" in line for line in lines)


# ---------------------------------------------------------------- the artifact


def generation(**fields):
    common = {"batch_size": 4, "num_inference_steps": 5, "seed": 0, "conditioning": "prompt", "prompts": SPEC}
    return Generation(model=ModelSpec(name="m"), **(common | fields))


SPEC = PromptSpec(fingerprint="p")
PICTURES = ImageList(
    model=ModelSpec(name="m"), batch_size=1, fingerprint="f", num_images=2, conditioning="prompt"
)


def test_edits_without_an_editor_keep_their_keys():
    edit = Edit(source=Inversion(source=generation(), num_inference_steps=5), target_list=SPEC)
    new = {"editor", "editor_options", "source_path", "num_inference_steps", "editor_predictions"}
    assert not new & set(edit.content()) and new <= set(Edit.model_fields)


def test_an_editor_its_options_and_the_way_of_its_source_are_in_the_key():
    inversion = Inversion(source=PICTURES, num_inference_steps=5)
    common = {"source": inversion, "target_list": SPEC, "editor": "masactrl"}
    edit = Edit(**common, editor_options={"start_step": 1}, source_path="pinned", editor_predictions=10)
    keys = {
        edit.key,
        Edit(source=inversion, target_list=SPEC).key,
        Edit(**common, editor_options={"start_step": 2}, source_path="pinned").key,
        Edit(**common, editor_options={"start_step": 1}, source_path="own").key,
    }
    assert len(keys) == 4 and edit.altered(editor_predictions=3).key == edit.key
    assert from_attrs(edit.attrs()).key == edit.key
    assert set(edit.reads_of(PICTURES)) == {"image", "class_id", "prompt"}
    assert "image" not in edit.altered(source_path="own").reads_of(PICTURES)


def test_an_editor_costs_source_and_target_and_a_pinned_source_one_more_inversion():
    inversion = Inversion(source=PICTURES, num_inference_steps=5, forward_steps=2)
    common = {"source": inversion, "target_list": SPEC, "guidance_scale": 7.5}
    fields = ChosenEditor("masactrl").fields(inversion, 5)
    # 2 rows, 2 halves, 5 steps; and the 3 steps of the inversion that are not replaced.
    assert Edit(**common, **fields).num_evaluations() == 2 * 2 * 5 + 3
    own = ChosenEditor("masactrl", {"source_path": "own"}).fields(inversion, 5)
    assert Edit(**common, **own).num_evaluations() == 2 * 2 * 5
    start = ChosenEditor("sdedit", {"strength": 0.6}).fields(PICTURES, 5)
    image = Edit(source=PICTURES, target_list=SPEC, guidance_scale=3.0, **start)
    assert image.num_evaluations() == 2 * 3 and image.num_steps == 5 and image.starts_from_image
    assert set(image.reads_of(PICTURES)) == {"image", "class_id", "prompt"}
    noise = Edit(source=generation(), target_list=SPEC, **ChosenEditor("masactrl").fields(generation(), 5))
    assert noise.source_path == "own" and noise.num_evaluations() == 2 * 5
    coupled = Inversion(source=PICTURES, num_inference_steps=5, method="edict", sampling_evaluations=10)
    assert ChosenEditor("masactrl").fields(coupled, 5)["editor_predictions"] == 20


@pytest.mark.parametrize(
    "fields, message",
    [
        (
            {"source": generation(), "noise_seed": 1, "editor": "masactrl"},
            "the noise that the source was made of",
        ),
        ({"source": PICTURES}, "editors that start from the images themselves"),
        ({"source": generation(), "num_inference_steps": 5}, "editors that start from the images themselves"),
        ({"source": generation(), "editor": "masactrl", "source_path": "pinned"}, "behind an inversion"),
    ],
)
def test_fields_that_do_not_go_together(fields, message):
    with pytest.raises(ValidationError, match=message):
        Edit(target_list=SPEC, **fields)


# ---------------------------------------------------------------- refusals


def asked(folder, model, editor="masactrl", *assignments, target=TARGET, **more):
    return EditAsked(
        str(folder), target, None, str(model), steps=STEPS, editor=editor, assignments=assignments, **more
    )


def planned(*words, **more):
    return prepare(asked(*words, **more), "unused", "cpu")


def says(*words, **more):
    with pytest.raises(UsageError) as refusal:
        planned(*words, **more)
    return str(refusal.value)


def test_a_model_without_such_attention_is_refused_in_one_line(folder, tmp_path, capsys):
    store = tmp_path / "store"
    line = refused(capsys, "edit", folder, "--to", "the flower", "--model", "photo-if", "--editor", "masactrl",
                   "--executor", "inline", "--store", store, "--output", tmp_path / "out")  # fmt: skip
    assert line.startswith(
        "editor 'masactrl': editors control layers that attend to the image or to the text alone"
    )
    assert "Photo IF attends to text and image in one softmax" in line and not store.exists()
    assert "reads its class through its norms" in says(folder, "photo-dit", target="cat")
    assert planned(folder, "photo-if", "sdedit", target="the flower")


@follows("' has no source beside its target; leave ", ": use ")
def test_the_way_of_the_source(folder, model):
    assert "editor 'sdedit' has no source beside its target" in says(
        folder, model, "sdedit", "editor.source_path=own"
    )
    assert planned(folder, model, "sdedit")
    assert "source_path=up: use pinned or own" in says(folder, model, "masactrl", "editor.source_path=up")
    for path in ("own", "pinned"):
        assert planned(folder, model, "masactrl", f"editor.source_path={path}")


@follows("levels of its own, by which the source goes back; use ", "comes back by itself; use ")
def test_a_source_that_cannot_be_pinned(folder, model):
    pinned = ("masactrl", "editor.source_path=pinned")
    message = says(folder, model, *pinned, method="edict", forward_steps=("0",))
    assert "'edict' has a sampler or levels of its own" in message
    assert planned(folder, model, "masactrl", "editor.source_path=own", method="edict", forward_steps=("0",))
    with pytest.raises(UsageError, match="a source that starts from its own noise comes back by itself"):
        ChosenEditor("masactrl", {"source_path": "pinned"}).fields(generation(), 5)
    assert ChosenEditor("masactrl", {"source_path": "own"}).fields(generation(), 5)["source_path"] == "own"


def test_an_editor_that_reads_the_inversion_needs_its_states(folder, model):
    assert planned(folder, model, "tic") and planned(folder, model, "tic", "editor.source_path=pinned")
    message = (
        "'tic' reads the states of the inversion, so its sources are pinned to them; use source_path=pinned"
    )
    assert message in says(folder, model, "tic", "editor.source_path=own")
    assert message in says(folder, model, "tic", method="edict", forward_steps=("0",))
    assert planned(folder, model, "rival", "editor.source_path=own")


@follows("so no source can be pinned to them; use ")
def test_a_method_that_hides_its_states_cannot_pin_a_source(monkeypatch):
    monkeypatch.setattr(compute, "inverted", lambda *_, **__: None)
    monkeypatch.setattr(compute, "start_of", lambda *_: (None, None))
    batch = SimpleNamespace(denoiser=lambda scale: None, grid=lambda steps: SimpleNamespace(lower_levels=()))
    inversion = Inversion(source=PICTURES, num_inference_steps=5)
    with pytest.raises(UsageError, match="'ddim' does not tell its states of 5 steps"):
        compute._states(batch, inversion)
    own = ChosenEditor("masactrl", {"source_path": "own"}).fields(inversion, 5)
    assert Edit(source=inversion, target_list=SPEC, **own).source_path == "own"


@follows(": write editor.NAME=VALUE, for example ", " is given twice; give it once.")
def test_options_that_cannot_be_read(folder, model):
    assert "--set start_step=4: write editor.NAME=VALUE" in says(folder, model, "masactrl", "start_step=4")
    assert "is given twice" in says(folder, model, "masactrl", "editor.layer=1", "editor.layer=2")
    assert "name it with --editor NAME" in says(folder, model, None, "editor.layer=1")
    assert "has no option 'depth'" in says(folder, model, "masactrl", "editor.depth=1")
    chosen = parse_editor("masactrl", ("editor.start_step=4", "editor.layer=1"))
    assert chosen is not None and chosen.options == {"start_step": 4, "layer": 1}
    assert parse_editor(None, ()) is None


@follows(
    "' starts from the image, without an inversion; leave it out",
    "makes an edit of every seed of --seeds; leave ",
)
def test_what_says_nothing_without_an_inversion(folder, model):
    assert "--forward-steps: editor 'sdedit' starts from the image" in says(
        folder, model, "sdedit", forward_steps=("1",)
    )
    assert "--method: editor 'sdedit'" in says(folder, model, "sdedit", method="renoise")
    assert "--set editor.seed=3" in says(folder, model, "sdedit", "editor.seed=3")
    _, rows, _ = planned(folder, model, "sdedit", seeds=3)
    assert [row.name for row in rows] == ["source", "edit-seed42", "edit-seed43", "edit-seed44"]


def test_prompts_that_an_editor_cannot_take_are_refused_before_anything_is_computed(folder, model):
    replace = ("prompt-to-prompt", "editor.mode=replace")
    assert "'the horse' has 2 words and 'a blue boat' 3" in says(folder, model, *replace)
    assert planned(folder, model, "prompt-to-prompt")
    assert "does not have this word" in says(folder, model, "prompt-to-prompt", "editor.word=dog")
    assert "start=latent" in says(folder, model, "style-aligned", method="edict", forward_steps=("0",))


def test_a_weighted_word_may_be_asked_of_what_the_images_show(tmp_path, model):
    same = save_pictures(tmp_path / "same", 2)
    write_metadata(same, 2, text=["a red boat"] * 2)
    told = says(same, model, "prompt-to-prompt", target="a red boat")
    assert "this is what the images show already" in told
    assert planned(
        same, model, "prompt-to-prompt", "editor.word=boat", "editor.weight=3", target="a red boat"
    )


def test_a_forward_noised_state_is_what_a_replaced_step_leaves(model):
    # The states below K replaced steps: the image with the same noise at their own levels.
    network, card = load_model(str(model)), load_card(str(model))
    grid = timestep_grid(card, STEPS)
    x_0, noise = torch.ones(1, 4, 8, 8), torch.full((1, 4, 8, 8), 2.0)
    level = grid.lower_levels[1]
    assert torch.allclose(forward_diffuse(x_0, noise, level), level.alpha * x_0 + level.sigma * noise)
    assert network.unet is not None
