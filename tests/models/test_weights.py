"""Weights: where they are, what they are, and what is said when they are not here."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import save_file

from taba_core.errors import UsageError, WorkError
from taba_core.models import weights
from taba_core.models.base import card_of, load_model, load_spec, model_spec, planned_spec
from taba_core.models.catalog import list_cards, load_card
from taba_core.models.families import FAMILIES, load_network
from taba_core.models.profile import profile_named
from taba_core.models.weights import (
    content_hash,
    locate,
    network_fingerprint,
    require_weights,
    status,
    stored_at,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TABA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def directory(tmp_path):
    folder = tmp_path / "checkpoint"
    for part in ("unet", "vqvae"):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text("{}")
        save_file({"w": np.ones(2, np.float32)}, folder / part / "model.safetensors")
    codec = '{"_class_name": "VQModel", "latent_channels": 3, "block_out_channels": [8, 16, 16]}'
    (folder / "vqvae" / "config.json").write_text(codec)
    return folder


def test_every_network_card_has_a_family_that_can_be_loaded_and_a_place():
    for card in list_cards():
        if not card.embedded:
            assert card.family in FAMILIES
            if card.weights.source == "trained":
                assert status(card) == f"not trained yet: taba run training --model {card.name}"
            elif card.weights.fetched:
                assert stored_at(card).parent == weights.weights_folder()
                assert card.weights.bytes > 4e6
            else:
                assert stored_at(card).is_relative_to(weights.BOX)
                assert status(card) == "in the package"


def test_the_place_of_a_file_follows_its_whole_url(cache):
    assert stored_at(load_card("adm-32")) == (
        cache / "weights" / "diffusion--march-2021--cifar10_uncond_50M_500K.pt"
    )
    assert stored_at(load_card("ldm")) == cache / "weights" / "CompVis--ldm-celebahq-256"


def test_status_says_present_or_what_to_do(cache):
    card = load_card("if")
    assert status(load_card("gaussian")) == "none needed"
    assert status(card) == "missing: 18.1 GB, taba fetch if, licence to accept"
    stored_at(card).mkdir(parents=True)
    assert locate(card) == stored_at(card)
    unet = stored_at(card) / "unet"
    assert status(card).startswith(f"damaged: {unet} is missing. Download the whole model again; ")
    adm = load_card("adm-64")
    with zipfile.ZipFile(stored_at(adm), "w") as archive:
        archive.writestr("w/data.pkl", pickle.dumps({}, protocol=2))
    assert status(adm) == "present"


def test_missing_weights_say_how_to_get_them(tmp_path):
    with pytest.raises(UsageError) as error:
        load_model("adm-64")
    assert str(error.value) == (
        f"weights of ADM-64 are not here ({stored_at(load_card('adm-64'))}): `taba fetch adm-64` on a machine with "
        "internet, or --weights PATH."
    )
    with pytest.raises(
        UsageError, match=r"weights='.*none\.pt': no such file or directory\. Give a file of ADM-64"
    ):
        require_weights(load_card("adm-64"), tmp_path / "none.pt")


def test_weights_that_are_trained_say_so_wherever_they_are_asked_for(tmp_path):
    card = load_card("photo-tiny")
    assert (card.weights.source, card.weights.location, card.weights.fetched) == ("trained", "", False)
    assert status(card) == "not trained yet: taba run training --model photo-tiny"
    assert locate(card) is None
    with pytest.raises(UsageError) as error:
        load_model("photo-tiny")
    assert str(error.value) == (
        "weights of Photo tiny are not here (not trained yet): `taba run training --model photo-tiny` makes them, or "
        "give --weights PATH."
    )
    with pytest.raises(
        UsageError, match=r"have no place of their own: not trained yet: taba run training --model ph"
    ):
        stored_at(card)
    with pytest.raises(UsageError, match="not trained yet"):
        model_spec("photo-tiny")
    # It can be planned, and its weights given.
    planned = planned_spec("photo-tiny")
    assert (planned.name, planned.fingerprint, planned.card) == ("photo-tiny", "", None)
    given = safetensors_of("photo-tiny", tmp_path / "mine.safetensors")
    assert len(model_spec("photo-tiny", weights=given).fingerprint) == 24
    assert load_model("photo-tiny", weights=given).eps(torch.zeros(1, 3, 16, 16), 5.0, {}).shape == (
        1,
        3,
        16,
        16,
    )


def safetensors_of(recipe, path):
    """The weights of an untrained network, as a training writes them."""
    from taba_core.training.export import WEIGHTS, save_network, unpack
    from taba_core.training.networks import build_network
    from taba_core.training.recipe import recipe_named

    save_network(path, build_network(recipe_named(recipe), 0), recipe_named(recipe), {"data": "photographs"})
    return unpack(path, path.with_suffix("")).with_name(WEIGHTS)


def test_a_file_is_its_sha256_and_is_read_once(tmp_path, monkeypatch):
    file = tmp_path / "w.pt"
    file.write_bytes(b"abc")
    assert content_hash(file) == hashlib.sha256(b"abc").hexdigest()
    monkeypatch.setattr(weights, "file_sha256", lambda _: pytest.fail("read again"))
    assert content_hash(file) == hashlib.sha256(b"abc").hexdigest()


def test_a_changed_file_is_read_again(tmp_path):
    file = tmp_path / "w.pt"
    file.write_bytes(b"abc")
    content_hash(file)
    file.write_bytes(b"abcd")
    assert content_hash(file) == hashlib.sha256(b"abcd").hexdigest()


def test_a_damaged_memory_of_hashes_only_costs_time(tmp_path, cache):
    file = tmp_path / "w.pt"
    file.write_bytes(b"abc")
    cache.mkdir()
    for damaged in ("{", "[1]", f'{{"{file}": 7}}'):
        (cache / "fingerprints.json").write_text(damaged)
        assert content_hash(file) == hashlib.sha256(b"abc").hexdigest()


def test_a_directory_is_its_names_and_contents_and_nothing_else(directory, tmp_path):
    before = content_hash(directory)
    assert content_hash(shutil.copytree(directory, tmp_path / "moved")) == before
    (directory / "README.md").write_text("other words")
    (directory / ".cache").mkdir()
    (directory / ".cache" / "x.json").write_text("{}")
    assert content_hash(directory) == before
    (directory / "unet" / "model.safetensors").rename(directory / "unet" / "other.safetensors")
    assert content_hash(directory) != before


def test_a_directory_without_weights_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no weights here"):
        content_hash(tmp_path / "empty")


@pytest.mark.parametrize(
    ("field", "value", "changes"),
    [
        ("prediction", "v", True),
        ("timestep_scale", 0.5, True),
        ("scaling_factor", 2.0, True),
        ("title", "Other", False),
        ("num_parameters", 7, False),
    ],
)
def test_the_fingerprint_follows_the_cards_numbers_not_its_words(directory, field, value, changes):
    card = load_card("ldm")
    other = card.model_copy(update={field: value})
    assert (network_fingerprint(other, directory) != network_fingerprint(card, directory)) == changes


def test_a_spec_of_a_network_holds_profile_fingerprint_and_place(directory):
    spec = model_spec("ldm", {"profile": "fast"}, directory)
    # What `fast` computes has changed once, so its key has another name than in the first stores.
    assert spec.options == {"profile": "fast/2", "compile": False} and spec.location == str(directory)
    assert model_spec("ldm", spec.options, directory) == spec
    assert [
        model_spec("ldm", {"profile": p}, directory).options["profile"] for p in ("exact", "reference")
    ] == [
        "exact",
        "reference",
    ]
    assert len(spec.fingerprint) == 24 and spec.card is None
    # Without weights the model can be planned: same options, no fingerprint.
    assert planned_spec("ldm", {"profile": "fast"}).model_dump() == spec.model_dump() | {
        "fingerprint": "",
        "location": "",
    }


def test_weights_that_changed_or_left_since_the_plan_are_refused(directory):
    spec = model_spec("ldm", weights=directory)
    (directory / "unet" / "config.json").write_text('{"changed": 1}')
    with pytest.raises(WorkError, match="the files changed since"):
        load_spec(spec)
    shutil.rmtree(directory)
    with pytest.raises(UsageError, match="no such file or directory"):
        load_spec(spec)


def write(path, **fields):
    path.write_text(yaml.safe_dump(fields))
    return str(path)


def test_a_card_of_ones_own_is_three_lines(tmp_path):
    with zipfile.ZipFile(tmp_path / "ema.pt", "w") as archive:
        archive.writestr("w/data.pkl", pickle.dumps({}, protocol=2))
    path = write(tmp_path / "My Model.yaml", extends="adm-64", weights="ema.pt", grid={"style": "guided"})
    card = load_card(path)
    base = load_card("adm-64")
    assert (card.name, card.weights.location) == ("my-model", str(tmp_path / "ema.pt"))
    assert (card.schedule, card.grid, card.network) == (base.schedule, base.grid, base.network)
    # A worker needs no card file: the spec carries the card, and its key does not.
    spec = model_spec(path)
    assert card_of(spec) == card
    assert "adm" not in spec.canonical()


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        (
            "a",
            {"extends": "adm-46", "weights": "w.pt"},
            r"unknown model to extend 'adm-46': did you mean adm-64",
        ),
        ("a", {"extends": "gaussian"}, r"unknown model to extend 'gaussian'"),
        (
            "a",
            {"extends": "ldm", "predicts": "v"},
            r"card .*a\.yaml: predicts: extra inputs are not permitted",
        ),
        (
            "a",
            {"extends": "ldm", "prediction": "w"},
            r"card .*a\.yaml: prediction: input should be 'epsilon'",
        ),
        ("a", {"title": "A"}, r"card .*a\.yaml: family: field required"),
        ("ldm", {"extends": "ldm"}, r"'ldm' is the name of a built-in model, .* --model ldm --weights PATH"),
    ],
)
def test_cards_that_cannot_be_name_file_and_field(tmp_path, name, fields, message):
    with pytest.raises(UsageError, match=message):
        load_card(write(tmp_path / f"{name}.yaml", **fields))


def test_a_card_that_is_no_yaml_or_not_there_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("a: [")
    with pytest.raises(UsageError, match=r"card .*a\.yaml is no YAML"):
        load_card(str(tmp_path / "a.yaml"))
    with pytest.raises(UsageError, match=r"no such card file or diffusers directory"):
        load_card(str(tmp_path / "b.yaml"))
    with pytest.raises(UsageError, match=r"unknown model 'b': .*Known models: "):
        load_card("b")


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize(
    "name", ["sd-v1-5.ckpt", "model.safetensors", "My Model.SAFETENSORS", "ema.pt", "w.pth"]
)
def test_a_single_file_of_weights_is_no_model_and_the_message_says_what_to_do(
    name, there, tmp_path, monkeypatch
):
    import diffusers

    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    if there:
        path.write_bytes(b"anything")
    pickle_way = (
        "if it is a file of the ADM family, use --model adm-64 --weights FILE, or a YAML card of your own; "
        if path.suffix.lower() != ".safetensors"
        else ""
    )
    for given in (name, str(path)):
        with pytest.raises(UsageError) as error:
            load_card(given)
        assert str(error.value) == (
            f"model '{path}' is a single file of weights{'' if there else ' (and there is no such file)'}, and --model "
            f"takes a model's name, a YAML card, or a diffusers directory: {pickle_way}if it is a whole Stable "
            'Diffusion checkpoint, convert it once, on a machine with internet: python -c "from diffusers import '
            f"StableDiffusionPipeline as P; P.from_single_file('{path}').save_pretrained('{path.with_suffix('')}')\" "
            "(StableDiffusionXLPipeline for SDXL, StableDiffusion3Pipeline and FluxPipeline for SD 3 and FLUX.1), then "
            f"use --model {path.with_suffix('')}."
        )
    for kind in (diffusers.StableDiffusionPipeline, diffusers.StableDiffusionXLPipeline):
        assert callable(kind.from_single_file)


def test_the_name_of_a_hubs_repository_says_how_to_fetch_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as error:
        load_card("google/ddpm-celebahq-256")
    assert str(error.value) == (
        "model 'google/ddpm-celebahq-256': no such card file or diffusers directory "
        f"({tmp_path}/google/ddpm-celebahq-256). If it is the name of a model on the Hugging Face hub: `hf download "
        "google/ddpm-celebahq-256 --local-dir ddpm-celebahq-256` on a machine with internet, then --model "
        "./ddpm-celebahq-256."
    )
    with pytest.raises(
        UsageError, match=r"built-in model ldm: use --model ldm \(its weights come by `taba fetch ldm`"
    ):
        load_card("CompVis/ldm-celebahq-256")


def test_a_path_that_leads_nowhere_names_what_is_near(tmp_path):
    (tmp_path / "my-model").mkdir()
    with pytest.raises(UsageError) as error:
        load_card(str(tmp_path / "my-modle"))
    path = tmp_path / "my-modle"
    assert str(error.value) == (
        f"model '{path}': no such card file or diffusers directory ({path}). Did you mean {tmp_path / 'my-model'}?"
    )


def test_a_family_that_does_not_exist_is_refused():
    card = load_card("ldm").model_copy(update={"family": "unett"})
    with pytest.raises(UsageError, match=r"unknown network family 'unett': did you mean unet\?"):
        load_network(card, None, device="cpu", profile=profile_named("exact"))
