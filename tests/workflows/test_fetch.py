"""Fetching: whole files or none, resumed where they broke off, and one clear message where it cannot be."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import pytest
from fetch_server import COMMIT, CONTENT, HUB, SHA, Server, hub_card, own_cache, serving, url_card

from taba_core.cache import read_json_table, write_json_table
from taba_core.errors import UsageError, WorkError
from taba_core.models.cards import WeightsCard
from taba_core.models.catalog import load_card
from taba_core.models.prompts import load_prompts
from taba_core.models.weights import locate, require_weights, stored_at
from workflows.command import download as downloads
from workflows.command.download import download
from workflows.command.fetch import fetch_all, fetch_prompts, fetch_weights

follows = pytest.mark.follows


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    return own_cache(tmp_path, monkeypatch)


def test_a_file_is_fetched_once_and_locked(server, cache):
    path = fetch_weights(url_card(server))
    assert path.read_bytes() == CONTENT and path == locate(url_card(server))
    entry = read_json_table(cache / "weights" / "lock.json")["weights.pt"]
    assert entry == {"location": f"{server.url}/weights.pt", "sha256": SHA, "bytes": len(CONTENT)}
    assert fetch_weights(url_card(server)) == path
    assert len(server.requests) == 1
    assert sorted(p.name for p in path.parent.iterdir()) == ["lock.json", "weights.pt"]


def test_a_broken_connection_is_taken_up_where_it_ended(server):
    server.breaks = [30_000, 20_000]
    assert fetch_weights(url_card(server)).read_bytes() == CONTENT
    assert [r for _, r in server.requests] == [None, "bytes=30000-", "bytes=50000-"]


@follows(" bytes are here. ", "Run the same command again; it continues.")
def test_an_interrupted_command_continues_the_next_time(server, tmp_path):
    target = tmp_path / "weights.pt"
    server.breaks = [10_000] * downloads.ATTEMPTS
    with pytest.raises(WorkError, match=r"40000 of 102400 bytes are here\. Run the same command again"):
        download(f"{server.url}/weights.pt", target)
    assert not target.exists()
    server.requests.clear()
    assert download(f"{server.url}/weights.pt", target) == SHA
    assert target.read_bytes() == CONTENT
    assert [r for _, r in server.requests] == ["bytes=40000-"]


def test_a_file_that_was_replaced_meanwhile_is_begun_again(server, tmp_path):
    target = tmp_path / "weights.pt"
    server.breaks = [10_000] * downloads.ATTEMPTS
    with pytest.raises(WorkError):
        download(f"{server.url}/weights.pt", target)
    server.files["/weights.pt"], server.etag = b"new" * 20_000, '"two"'
    download(f"{server.url}/weights.pt", target)
    assert target.read_bytes() == b"new" * 20_000


def test_a_whole_partial_file_needs_no_byte_and_a_too_long_one_is_begun_again(server, tmp_path):
    target, partial = tmp_path / "weights.pt", tmp_path / "weights.pt.partial"
    for held in (CONTENT, CONTENT + b"more"):
        partial.write_bytes(held)
        assert download(f"{server.url}/weights.pt", target) == SHA
        assert target.read_bytes() == CONTENT and not partial.exists()


def test_another_hash_than_the_known_one_is_refused_and_nothing_is_kept(server, tmp_path):
    target = tmp_path / "weights.pt"
    with pytest.raises(WorkError, match=rf"not the expected one \(sha256 {SHA}, expected {'0' * 64}\)"):
        download(f"{server.url}/weights.pt", target, sha256="0" * 64)
    assert not list(tmp_path.glob("weights.pt*"))


@follows("it was deleted. Fetch again; if it stays so, the file was replaced at its source.")
@follows("changed. Delete it and fetch again, or delete its entry in ")
def test_a_file_other_than_the_one_fetched_first_is_refused_and_fetched_again_or_accepted(server):
    path = fetch_weights(url_card(server))
    path.unlink()
    server.files["/weights.pt"] = CONTENT[:-1] + b"?"
    with pytest.raises(WorkError, match=rf"expected {SHA}"):
        fetch_weights(url_card(server))
    server.files["/weights.pt"] = CONTENT
    path = fetch_weights(url_card(server))
    path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(WorkError, match=r"the weights changed\. Delete it and fetch again") as refused:
        fetch_weights(url_card(server))
    changed = path.read_bytes()
    path.unlink()
    assert fetch_weights(url_card(server)).read_bytes() == CONTENT
    path.write_bytes(changed)
    lock = Path(re.findall(r"delete its entry in (\S+) to accept", str(refused.value))[0])
    write_json_table(lock, {})
    assert fetch_weights(url_card(server)).read_bytes() == changed


@pytest.mark.parametrize(
    ("code", "message"),
    [
        pytest.param(
            403,
            r"HTTP 403\); accept the licence at https://page and download the file as its site allows",
            marks=follows("download the file as its site allows, then use --weights."),
        ),
        (401, r"HTTP 401\); accept the licence at https://page and download"),
        pytest.param(
            404,
            r"not found \(HTTP 404\); the file has moved",
            marks=follows("the file has moved. Give its new place in a card, or use --weights."),
        ),
        pytest.param(
            503,
            r"the server answered HTTP 503; try again later",
            marks=follows("; try again later."),
        ),
    ],
)
def test_refusals_of_a_server_say_the_way_out(server, code, message, tmp_path):
    server.status["/weights.pt"] = code
    with pytest.raises(WorkError, match=message):
        fetch_weights(url_card(server, licence_page="https://page"))
    assert locate(url_card(server)) is None
    (tmp_path / "by-hand.pt").write_bytes(CONTENT)
    assert require_weights(url_card(server), tmp_path / "by-hand.pt") == tmp_path / "by-hand.pt"
    server.files["/new/weights.pt"] = CONTENT
    card = url_card(server)
    moved = card.weights.model_copy(update={"location": f"{server.url}/new/weights.pt"})
    assert fetch_weights(card.model_copy(update={"weights": moved})).read_bytes() == CONTENT
    del server.status["/weights.pt"]
    assert fetch_weights(card).read_bytes() == CONTENT


@follows("set HF_TOKEN to your access token, then fetch again.")
def test_the_token_goes_to_the_hub_and_to_nobody_else(server, monkeypatch):
    server.tokens["/weights.pt"] = "mine"
    monkeypatch.setenv("HF_TOKEN", "mine")
    with pytest.raises(WorkError, match="as its site allows, then use --weights"):
        fetch_weights(url_card(server))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(WorkError, match=r"HTTP 401\); set HF_TOKEN to your access token, then fetch again"):
        fetch_weights(url_card(server))
    monkeypatch.setenv("HF_TOKEN", "mine")
    assert fetch_weights(url_card(server)).read_bytes() == CONTENT


@follows("Run `taba fetch` on a machine with internet (a login node) that ")
def test_without_a_network_the_message_says_where_to_fetch(server, tmp_path):
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(WorkError, match=r"cannot be reached .*Run `taba fetch` on a machine with internet"):
        download(f"{url}/weights.pt", tmp_path / "w.pt")
    with Server() as login_node:  # which sees the same folder
        threading.Thread(target=login_node.serve_forever, args=(0.02,), daemon=True).start()
        fetched = fetch_weights(url_card(login_node))
        login_node.shutdown()
    assert require_weights(url_card(server)) == fetched


def test_a_hub_snapshot_has_the_needed_files_of_one_commit(server, cache):
    server.hub = HUB | {"README.md": b"words"}
    card = hub_card(server, files=("model_index.json", "unet/*", "vqvae/*"))
    path = fetch_weights(card, endpoint=server.url)
    found = {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    assert found == {name: content for name, content in server.hub.items() if name != "README.md"}
    assert read_json_table(cache / "weights" / "lock.json")["own--model"]["commit"] == COMMIT
    assert path == stored_at(card) and not path.with_name("own--model.partial").exists()


def test_a_file_and_its_autoencoder_come_from_two_places_into_one_folder(server, cache):
    weights = WeightsCard(source="url", location=f"{server.url}/weights.pt?key=1", autoencoder="own/vae")
    card = load_card("sit-xl").model_copy(update={"weights": weights})
    wanted = ("config.json", "diffusion_pytorch_model.safetensors")
    server.hub = dict.fromkeys((*wanted, "README.md"), b"{}") | {wanted[1]: HUB["unet/model.safetensors"]}
    server.status["/api/models/own/vae/revision/main"] = 503
    with pytest.raises(WorkError, match="HTTP 503"):
        fetch_weights(card, endpoint=server.url)
    server.status.clear()  # what has come is kept, and the rest is fetched
    path = fetch_weights(card, endpoint=server.url)
    assert path == cache / "weights" / "sit-xl" == locate(card)
    found = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}
    assert found == {"weights.pt", *(f"vae/{name}" for name in wanted)}
    assert [where for where, _ in server.requests].count("/weights.pt") == 1
    assert read_json_table(cache / "weights" / "lock.json")["sit-xl"]["commit"] == COMMIT
    assert fetch_weights(card, endpoint=server.url) == path


@follows(" To fetch it again: delete ", ", then `taba fetch ")
def test_what_a_server_sent_in_place_of_weights_is_neither_used_nor_recorded(server, cache):
    server.files["/weights.pt"] = b"<!DOCTYPE html><html>Sign in</html>"
    card = url_card(server)
    for _ in range(2):  # the file is there the second time: the way out must be said again
        with pytest.raises(WorkError) as error:
            fetch_weights(card)
        assert str(error.value) == (
            f"{stored_at(card)} is a web page, which was saved under this name, not a PyTorch file. Download the file "
            f"itself, signed in where its site asks for it. To fetch it again: delete {stored_at(card)}, then "
            "`taba fetch adm-64`."
        )
    stored_at(card).unlink()
    server.files["/weights.pt"] = CONTENT
    assert fetch_weights(card).read_bytes() == CONTENT


def test_a_snapshot_without_weights_is_not_put_in_place(server):
    server.hub = {"model_index.json": b"{}"}
    with pytest.raises(WorkError, match=rf"own/model@{COMMIT}: no weights among"):
        fetch_weights(hub_card(server), endpoint=server.url)
    assert locate(hub_card(server)) is None


@follows("access token, then fetch again.")
def test_a_gated_repository_says_which_page_to_accept(server, monkeypatch):
    card = hub_card(server, location="own/gated")
    server.tokens["/api/models/own/gated/revision/main"] = "mine"
    with pytest.raises(WorkError) as error:
        fetch_weights(card, endpoint=server.url)
    assert str(error.value) == (
        "own/gated: access refused (a gated repository); accept the licence at https://huggingface.co/own/gated and "
        "set HF_TOKEN to your access token, then fetch again."
    )
    server.hub = HUB
    monkeypatch.setenv("HF_TOKEN", "mine")
    assert locate(card) is None and fetch_weights(card, endpoint=server.url) == locate(card)


@follows(": HF_HUB_OFFLINE is set; unset it on a machine with internet.")
def test_a_hub_that_may_not_be_asked_is_asked_without_the_variable(server, monkeypatch):
    import huggingface_hub.constants

    server.hub = HUB
    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # as the variable at the start
        with pytest.raises(WorkError, match="own/model: HF_HUB_OFFLINE is set"):
            fetch_weights(hub_card(server), endpoint=server.url)
    assert fetch_weights(hub_card(server), endpoint=server.url) == locate(hub_card(server))


@follows("; check location and revision of the card, or ")
@follows("Run `taba fetch` on a machine with internet that shares $TABA_CACHE with this one; what has come ")
def test_a_hub_that_fails_or_is_not_reached_is_asked_again(server):
    server.hub = HUB
    card = hub_card(server, revision="mine")
    with pytest.raises(WorkError, match="own/model: the hub cannot be reached"):
        fetch_weights(card, endpoint="http://127.0.0.1:9")
    server.status["/api/models/own/model/revision/mine"] = 404
    with pytest.raises(
        WorkError, match="own/model@mine: the hub answered HTTP 404; check location and revision"
    ):
        fetch_weights(card, endpoint=server.url)
    assert locate(card) is None
    corrected = hub_card(server)
    assert fetch_weights(corrected, endpoint=server.url) == locate(corrected)


def test_prompts_come_page_by_page_in_order(server):
    server.rows = [f"caption {i} é\nsecond line" for i in range(230)]
    path = fetch_prompts(server.url)
    assert load_prompts("recap-coco").prompts == tuple(server.rows)
    server.rows = []
    assert fetch_prompts(server.url) == path  # it is here: nothing is asked
    assert sum(p == "/rows" for p, _ in server.requests) == 3


@follows(
    " captions came; fetch again.", ". Fetch on a machine with internet, or write the column 'recaption' of "
)
def test_an_incomplete_prompt_list_is_not_kept_and_is_fetched_again_or_written_by_hand(server, cache):
    server.rows = ["a"] * 150
    server.status["/rows"] = 500
    with pytest.raises(WorkError, match="or write the column 'recaption' of"):
        fetch_prompts(server.url)
    assert not (cache / "prompts" / "recap-coco-30k.jsonl").exists()
    del server.status["/rows"]
    server.promised = 300
    with pytest.raises(WorkError, match="150 of 300 captions came; fetch again"):
        fetch_prompts(server.url)
    server.promised = None
    path = fetch_prompts(server.url)
    path.unlink()
    path.write_text("".join(json.dumps({"recaption": text}) + "\n" for text in server.rows))
    assert load_prompts("recap-coco").prompts == tuple(server.rows)


def test_fetch_without_names_says_what_is_here_and_embedded_models_have_nothing(capsys):
    fetch_all([])
    out = capsys.readouterr().out
    assert "adm-64" in out and "missing: 0.5 GB, taba fetch adm-64" in out and "recap-coco" in out
    assert "photo-adm" in out and "photo-tiny" not in out  # whose weights have no place of their own
    with pytest.raises(
        UsageError, match="photo-tiny has nothing to fetch: its weights are made by `taba run training"
    ):
        fetch_all(["photo-tiny"])
    with pytest.raises(UsageError, match="gaussian has nothing to fetch: its weights are embedded"):
        fetch_all(["gaussian"])
    with pytest.raises(UsageError, match="unknown model 'adm64': did you mean adm-64"):
        fetch_all(["adm64"])
