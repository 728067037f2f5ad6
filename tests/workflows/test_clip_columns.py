"""CLIP-T and CLIPScore of edits: numbers of the package called directly, claims, and what is said without CLIP."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_runs import result_of, taba
from PIL import Image

from taba_core.artifacts.edit import Edit
from taba_core.metrics.extractors import clip
from taba_core.models.photos import load_photos
from taba_core.stats.compressibility import to_bytes
from taba_core.store import Store
from workflows.analysis.edit_measures import CLIP_MISSING, text_cosines
from workflows.analysis.published import paper_value
from workflows.analysis.study import read_settings, studies
from workflows.configuration.context import Context
from workflows.report.from_store import write_store_report
from workflows.studies.edits.views import tables_of
from workflows.studies.methods.tables import tables_of as methods_tables

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
import tiny_text_checkpoints as tiny

follows = pytest.mark.follows
LAYERS = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
SMALL = (
    "num_samples=6", "num_inference_steps=4", "bootstrap_replicates=100", "model.num_components_per_photo=2",
    "model.rank=8",
)  # fmt: skip


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """CLIP with random weights, one layer in each tower and the width of ViT-B/32, where `taba fetch` puts CLIP."""
    from transformers import CLIPConfig, CLIPModel

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TABA_CACHE", str(tmp_path_factory.mktemp("cache")))
        size = len(tiny.clip_vocabulary())
        config = CLIPConfig(
            text_config={**LAYERS, "vocab_size": size, "bos_token_id": size - 2, "eos_token_id": size - 1},
            vision_config={**LAYERS, "image_size": 224, "patch_size": 32},
            projection_dim=512,
        )
        torch.manual_seed(0)
        made = CLIPModel(config)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.normal_(std=0.3)
        folder = clip.WEIGHTS.path()
        made.save_pretrained(folder)
        tiny.save_clip_tokenizer(folder / "tokenizer", pad_token="<|endoftext|>")
        for file in (folder / "tokenizer").iterdir():
            file.rename(folder / file.name)
        assert clip.Clip().why_not() is None
        yield made.eval()


def run(place, study, *sets):
    chosen = dict(one.split("=", 1) for one in (*SMALL, *sets))  # the later one counts
    arguments = [part for name, value in chosen.items() for part in ("--set", f"{name}={value}")]
    return taba("run", study, "--executor", "local", "--store", place, "--no-report", *arguments)


@pytest.fixture(scope="module")
def place(network, tmp_path_factory):
    place = tmp_path_factory.mktemp("clip") / "store"
    assert run(place, "edits", "edits.forward_steps=1", "edits.clip=on") == 0
    return place


def cosines(network, pictures, texts):
    """CLIP-T by the package alone: its own preprocessing and its own tokenizer."""
    from transformers import CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224}, resample=Image.Resampling.BICUBIC,
        image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.26862954, 0.26130258, 0.27577711],
    )  # fmt: skip
    images = processor([Image.fromarray(one.transpose(1, 2, 0)) for one in pictures], return_tensors="pt")
    tokens = CLIPTokenizer.from_pretrained(clip.WEIGHTS.path())(
        list(texts), padding=True, truncation=True, max_length=77, return_tensors="pt"
    )
    with torch.no_grad():
        together = network(**images, **tokens)
    return (together.logits_per_image.diagonal() / network.logit_scale.exp()).detach().numpy()


@pytest.mark.parametrize("start", ["noise", "latent", "exact-1"])
def test_the_columns_are_cosines_of_edits_and_names_of_classes(network, place, start):
    result, store = result_of(place), Store.open(place)
    groups = {group.name: group for group in store.artifacts()}
    read = groups[result.attrs["artifacts"][f"edit/{start}"]].read_samples(0, 6, ("edit", "target_class_id"))
    own = groups[result.attrs["artifacts"]["images"]].read_samples(0, 6, ("class_id",))["class_id"]
    names = [photo.name for photo in load_photos()]
    pictures = to_bytes(read["edit"])
    for which, classes in (("target", read["target_class_id"]), ("source", own)):
        expected = cosines(network, pictures, [names[value] for value in classes])
        found = {
            name: float(result["value"].sel(start=start, measure=f"{name}_{which}"))
            for name in ("clip-t", "clip-score")
        }
        assert found["clip-t"] == pytest.approx(expected.mean(), abs=1e-5)
        assert found["clip-score"] == pytest.approx(250 * np.maximum(expected, 0).mean(), abs=2e-3)


def test_texts_are_asked_once_and_keep_their_images(network):
    features = np.random.default_rng(0).normal(size=(4, 512)).astype(np.float32)
    texts = ["cat", "boat", "cat", "cat"]
    rows = clip.Clip().text_rows(texts).numpy().astype(float)
    expected = (features * rows).sum(1) / np.linalg.norm(features, axis=1) / np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(text_cosines(features, texts), expected, rtol=1e-5)


def test_claims_are_made_on_the_cosine_and_not_again_on_the_score(place):
    claims = {claim["id"]: claim for claim in json.loads(result_of(place).attrs["claims"])}
    assert {"C6-clip-t-target", "C6-clip-t-source"} <= set(claims)
    assert not [name for name in claims if "clip-score" in name]
    assert "stand-in" not in claims["C6-clip-t-target"]["statement"]
    value = result_of(place)["value"].sel(measure="clip-t_target")
    margin = claims["C6-clip-t-target"]["numbers"]["margin"]
    assert margin == pytest.approx(float(value.sel(start="noise") - value.sel(start="latent")))
    assert "CLIP-T, target" in claims["C7~-exact-1"]["numbers"]


def test_the_tables_have_the_columns_without_a_proxy_and_say_what_they_are(place):
    result = result_of(place)
    tables = {table.id: table for table in tables_of("Photo mixture", result, 0, [result])}
    columns = {column.name: column for column in tables["table12"].columns}
    assert columns["clip-t_target"].label == "CLIP-T, target" and not columns["clip-t_target"].proxy
    assert columns["clip-score_source"].label == "CLIPScore (×100), source"
    assert CLIP_MISSING not in tables["table12"].caption + tables["table6"].caption
    assert any(note.startswith("CLIP-T: cosine of CLIP ViT-B/32") for note in tables["table12"].notes)
    write_store_report(place, None, force=True)
    assert not json.loads((place / "report" / "failures.json").read_text())


def test_stochastic_edits_have_them_too(network, tmp_path):
    sets = ("stochastic-edits.seeds=2", "stochastic-edits.forward_steps=1", "stochastic-edits.examples=1")
    assert run(tmp_path / "s", "stochastic-edits", *sets, "stochastic-edits.clip=on") == 0
    result = result_of(tmp_path / "s")
    names = result["measure"].values.tolist()
    assert {"clip-t_target", "clip-t_source", "clip-score_target", "clip-score_source"} <= set(names)
    assert np.isfinite(result["value"].sel(measure="clip-t_target")).all()
    (claim,) = [c for c in json.loads(result.attrs["claims"]) if c["id"].startswith("show-the-target")]
    assert "CLIP-T, target" in claim["numbers"] and "CLIPScore (×100), target" not in claim["numbers"]


def test_table_7_prefers_the_score_and_shows_no_value_of_another_model_beside_it(network, tmp_path):
    sets = (
        "methods.rows=ddim,forward-1-exact,reverse-dpm-2",
        "methods.arc_samples=2",
        "num_inference_steps=50",
        "methods.clip=on",
    )
    assert run(tmp_path / "s", "methods", *sets) == 0
    result = result_of(tmp_path / "s")
    result = studies()["methods"].annotate(Store.open(tmp_path / "s"), result)
    tables = {table.id: table for table in methods_tables("Photo mixture", result, 0, [result])}
    columns = [column.name for column in tables["table7"].columns]
    assert columns[-3:] == ["edit/clip-score_source", "edit/clip-score_target", "seconds"]
    shown = {
        row: cells[-3:-1] for row, cells in zip(tables["table7"].rows, tables["table7"].cells, strict=True)
    }
    source = paper_value("7", "Ours (forward 2%)", "CLIP Text Alignment, Source (probable)")
    # The paper's are SDXL's: no cell of another model has one beside it.
    assert source.value == 34.32 and all(cell.paper is None for cells in shown.values() for cell in cells)
    for row, cells in shown.items():
        name = "noise" if row == "Gaussian noise" else None
        if name:
            expected = float(result["edit"].sel(edit_row=name, edit_measure="clip-score_source"))
            assert cells[0].value == pytest.approx(expected) and cells[0].paper is None
    accuracy = {column.name: column for column in tables["methods-edits"].columns}
    assert not accuracy["edit/clip-t_target"].proxy and accuracy["edit/posterior_target"].proxy


# ---------------------------------------------------------------- without the weights


@follows("Or leave CLIP out: --set ")
def test_clip_is_asked_where_it_is_wanted_and_refused_without_its_weights(tmp_path, monkeypatch, refused):
    monkeypatch.setenv("TABA_CACHE", str(tmp_path / "empty"))
    given = [part for one in (*SMALL, "edits.forward_steps=1") for part in ("--set", one)]
    command = ("run", "edits", "--executor", "local", "--store", tmp_path / "s", "--no-report", *given)
    assert "`taba fetch metrics`" in refused(2, *command, "--set", "edits.clip=on")
    assert not (tmp_path / "s").exists()
    assert taba(*command, "--set", "edits.clip=off") == 0


def test_without_it_nothing_is_asked_and_the_caption_says_how_to_get_it(network, tmp_path):
    context = Context("photo-mixture", "ddim", read_settings([*SMALL, "edits.forward_steps=1"]))
    asked = studies()["edits"].requests(context)
    assert not [name for name in asked if "clip" in name]  # though the weights are here
    assert any(isinstance(request.artifact, Edit) for request in asked.values())
    assert run(tmp_path / "s", "edits", "edits.forward_steps=1") == 0
    result = result_of(tmp_path / "s")
    tables = {table.id: table for table in tables_of("Photo mixture", result, 0, [result])}
    for name in ("table6", "table12"):
        assert tables[name].caption.endswith(CLIP_MISSING) and "`taba fetch metrics`" in CLIP_MISSING
    assert not [name for name in result["measure"].values if "clip" in str(name)]
