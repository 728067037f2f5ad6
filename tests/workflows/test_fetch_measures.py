"""`taba fetch metrics`: weights of extractors and distances come where the measures look for them, and are checked."""

from __future__ import annotations

import io
import json
import re
import zipfile
from dataclasses import replace

import pytest
import torch
from fetch_server import COMMIT, CONTENT, SHA, own_cache, serving
from safetensors.torch import save

from taba_core.cache import read_json_table
from taba_core.errors import UsageError, WorkError
from taba_core.metrics import inception
from taba_core.metrics.distances import dino_structure, dreamsim
from taba_core.metrics.distances.lpips import ALEXNET
from taba_core.metrics.distances.lpips_vgg import VGG16
from taba_core.metrics.extractors import clip, dino, dinov2_registers
from workflows.__main__ import main
from workflows.command import measure_weights
from workflows.command.fetch import fetch_all
from workflows.command.measure_weights import fetch_file, files_of

CONFIG = json.dumps({"model_type": "vit", "hidden_size": 384}).encode()
HUB = {"config.json": CONFIG, "model.safetensors": save({"w": torch.ones(3)}), "README.md": b"words"}


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    return own_cache(tmp_path, monkeypatch)


def test_metrics_are_the_files_of_all_measures_and_a_measure_has_its_own():
    of_dreamsim = (dreamsim.DINO, dreamsim.ENSEMBLE)
    wanted = {ALEXNET, VGG16, *of_dreamsim, inception.WEIGHTS, dino_structure.WEIGHTS}
    wanted |= {clip.WEIGHTS, dino.WEIGHTS, dinov2_registers.WEIGHTS}
    assert set(files_of("metrics")) == wanted and len(files_of("metrics")) == len(wanted)
    assert files_of("lpips") == (ALEXNET,) and files_of("clip-vit-b-32") == (clip.WEIGHTS,)
    assert files_of("lpips-vgg") == (VGG16,) and files_of("dreamsim") == of_dreamsim
    assert files_of("adm-64") is None
    for name in ("pca-64", "crop-classifier", "ssim"):
        with pytest.raises(UsageError, match=f"{name} has nothing to fetch"):
            files_of(name)


def test_a_folder_of_the_hub_is_fetched_checked_locked_and_fetched_again_when_it_changed(server, cache):
    assert "run `taba fetch metrics`" in dino.WEIGHTS.why_not() and dino.WEIGHTS.identity() == ""
    server.hub = HUB
    path = fetch_file(dino.WEIGHTS, endpoint=server.url)
    assert path == dino.WEIGHTS.path() and dino.WEIGHTS.why_not() is None
    assert {file.name for file in path.iterdir()} == {"config.json", "model.safetensors"}
    lock = read_json_table(cache / "weights" / "lock.json")[path.name]
    assert lock["commit"] == COMMIT and lock["sha256"] == dino.WEIGHTS.identity()
    asked = len(server.requests)
    assert fetch_file(dino.WEIGHTS, endpoint=server.url) == path and len(server.requests) == asked
    (path / "model.safetensors").write_bytes(save({"w": torch.zeros(3)}))
    with pytest.raises(WorkError, match="is not what was fetched first"):
        fetch_file(dino.WEIGHTS, endpoint=server.url)
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
    assert fetch_file(dino.WEIGHTS, endpoint=server.url) == path and dino.WEIGHTS.why_not() is None


def test_another_network_than_asked_is_refused_by_what_it_is(server):
    server.hub = HUB | {"config.json": json.dumps({"model_type": "vit", "hidden_size": 768}).encode()}
    with pytest.raises(
        WorkError, match=r"holds a network vit of width 768 and not DINO ViT-S/16 \(vit, 384\)"
    ):
        fetch_file(dino.WEIGHTS, endpoint=server.url)


def test_a_folder_without_its_tokenizer_or_with_a_broken_configuration_is_refused(server):
    server.hub = HUB | {"config.json": json.dumps({"model_type": "clip", "projection_dim": 512}).encode()}
    with pytest.raises(
        WorkError, match=r"lacks vocab\.json, merges\.txt; delete it and run `taba fetch metrics`"
    ):
        fetch_file(clip.WEIGHTS, endpoint=server.url)
    place = dino.WEIGHTS.path()
    place.mkdir(parents=True)
    (place / "model.safetensors").write_bytes(HUB["model.safetensors"])
    (place / "config.json").write_text("{")
    said = dino.WEIGHTS.why_not()
    assert (
        said
        == f"{place}/config.json cannot be read (JSONDecodeError); delete {place} and run `taba fetch metrics`."
    )
    (place / "config.json").write_bytes(CONFIG)
    assert dino.WEIGHTS.why_not() is None


def test_files_of_torchs_hub_lie_where_torch_keeps_them_and_another_file_is_named(
    server, capsys, monkeypatch
):
    right = replace(ALEXNET, url=f"{server.url}/weights.pt", sha256=SHA[:8])
    monkeypatch.setattr(measure_weights, "files_of", lambda name: (right,))
    monkeypatch.setattr(
        "workflows.command.fetch.files_of", lambda name: (right,) if name == "lpips" else None
    )
    fetch_all(["lpips"])
    assert right.path().read_bytes() == CONTENT
    assert re.search(rf"AlexNet: {right.path()} \(.*sha256 {SHA[:12]}\)", capsys.readouterr().out)
    other = replace(right, name="other.pth", sha256="00000000")
    with pytest.raises(WorkError, match=r"other\.pth is not torchvision's AlexNet"):
        fetch_file(other)


# ---------------------------------------------------------------- zip files

INSIDE = {name: name.encode() for name in (*dreamsim.ENSEMBLE.files, dreamsim.ENSEMBLE.one_of[1])}


def zipped(files):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return held.getvalue()


@pytest.fixture
def release(server, monkeypatch):
    """DreamSim's release on a server of this machine, and DINO's file."""
    server.files["/release.zip"] = zipped(INSIDE | {"more.pth": b"not needed", "../outside": b"nor this"})
    ensemble = replace(dreamsim.ENSEMBLE, url=f"{server.url}/release.zip")
    files = (replace(dreamsim.DINO, url=f"{server.url}/weights.pt"), ensemble)
    monkeypatch.setattr(dreamsim.DreamSim, "files", files)
    return ensemble


def test_a_zip_file_is_unpacked_recorded_and_gone(server, release, cache, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fetch", "dreamsim"])
    assert not stop.value.code
    folder = cache / "weights" / "dreamsim-ensemble"
    here = {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()
    }
    assert here == INSIDE  # what is needed, nothing else
    assert {file.name for file in folder.parent.iterdir()} == {"dreamsim-ensemble", "lock.json"}
    lock = read_json_table(cache / "weights" / "lock.json")["dreamsim-ensemble"]
    assert lock == {"location": release.url, "sha256": release.identity()}
    told = capsys.readouterr().out
    assert f"DreamSim: {folder} (" in told and f"sha256 {release.identity()[:12]})" in told
    assert "DINO ViT-B/16: " in told
    asked = len(server.requests)
    assert fetch_file(release) == folder and len(server.requests) == asked
    # Another content is refused until it is deleted, and the same one comes again.
    (folder / "ensemble_lora" / "adapter_config.json").write_bytes(b"{}")
    with pytest.raises(WorkError, match="is not what was fetched first"):
        fetch_file(release)


def test_a_zip_file_that_came_whole_is_not_asked_for_again(server, release, cache):
    folder = release.path()
    folder.parent.mkdir(parents=True)
    folder.with_name("dreamsim-ensemble.zip").write_bytes(zipped(INSIDE))
    (folder.with_name("dreamsim-ensemble.partial") / "ensemble_lora").mkdir(
        parents=True
    )  # an unpacking that was cut
    assert fetch_file(release) == folder and release.why_not() is None and server.requests == []


@pytest.mark.follows("'s zip file (")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>moved</html>", "File is not a zip file"),
        (zipped({"clip_vitb16_pretrain.pth.tar": b""}), r"it lacks open_clip_vitb16_pretrain\.pth\.tar, "),
        (
            zipped({name: INSIDE[name] for name in dreamsim.ENSEMBLE.files}),
            r"it lacks ensemble_lora/adapter_model\.safetensors or ensemble_lora/adapter_model\.bin\)",
        ),
    ],
)
def test_another_file_than_the_release_is_deleted_and_the_right_one_comes_when_fetched_again(
    server, release, content, said
):
    right, server.files["/release.zip"] = server.files["/release.zip"], content
    with pytest.raises(WorkError, match=rf"release\.zip: what came is not DreamSim's zip file \({said}"):
        fetch_file(release)
    assert not release.path().exists() and not list(release.path().parent.glob("*.zip*"))
    server.files["/release.zip"] = right
    assert fetch_file(release) == release.path() and release.why_not() is None
