"""`taba fetch`: weights and prompt lists into the cache. The only command that uses the network."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from taba_core.cache import read_json_table, write_json_table
from taba_core.errors import UsageError, WorkError
from taba_core.models.cards import Card, WeightsCard
from taba_core.models.catalog import list_cards, load_card
from taba_core.models.prompts import RECAP_COCO, RECAP_COCO_SOURCE, load_prompts, recap_coco_path
from taba_core.models.weights import (
    content_hash,
    locate,
    status,
    stored_at,
    weights_folder,
    why_unusable,
)
from workflows.command.download import download
from workflows.command.hub import snapshot
from workflows.command.measure_weights import fetch_file, files_of
from workflows.text import bytes_text, print_table

ROWS_SERVER = "https://datasets-server.huggingface.co"
_ROWS_AT_ONCE = 100  # the server's limit


def fetch_all(names: list[str]) -> None:
    """Fetch models, prompt lists and weights of measures by name, then say what lies where; without names only say it.

    Raises:
      UsageError: an unknown name, or a model without weights to fetch. WorkError: a download failed.
    """
    of_measures = {name: files for name in names if (files := files_of(name)) is not None}
    cards = [load_card(name) for name in names if name != RECAP_COCO and name not in of_measures]
    for card in cards:
        if not card.weights.fetched:
            trained = f"made by `taba run training --model {card.name}`"
            places = {"embedded": "embedded", "package": "in the package", "trained": trained}
            own = places.get(card.weights.source, f"at {card.weights.location}")
            raise UsageError(f"{card.name} has nothing to fetch: its weights are {own}.")
    for card in cards:
        path = fetch_weights(card)
        print(
            f"{card.name}: {path} ({bytes_text(_size(path))}, sha256 {content_hash(path)[:12]})", flush=True
        )
    if RECAP_COCO in names:
        path = fetch_prompts()
        print(f"{RECAP_COCO}: {path} ({len(load_prompts(RECAP_COCO).prompts)} prompts)", flush=True)
    for file in dict.fromkeys(file for files in of_measures.values() for file in files):
        path = fetch_file(file)
        digest = content_hash(path) if path.is_file() else file.identity()
        told = f"{bytes_text(_size(path))}, sha256 {digest[:12]}"
        print(f"{file.network}: {path} ({told})", flush=True)
    if not names:
        print_present()


def print_present() -> None:
    """Which weights and prompt lists are here."""
    cards = [card for card in list_cards() if not card.embedded and card.weights.source != "trained"]
    rows = [(card.name, status(card), str(stored_at(card))) for card in cards]
    prompts = recap_coco_path()
    rows.append(
        (RECAP_COCO, "present" if prompts.exists() else f"missing: taba fetch {RECAP_COCO}", str(prompts))
    )
    print_table(("name", "state", "place"), rows)


def fetch_weights(card: Card, *, endpoint: str | None = None) -> Path:
    """The weights of a card, downloaded unless they are here, and checked against the lock.

    The first fetch records size and SHA-256 (and a hub's commit) in `lock.json` beside the weights; every later
    one is compared with it.

    Raises:
      WorkError: a download failed, or the weights are others than those fetched first.
    """
    target, lock = stored_at(card), weights_folder() / "lock.json"
    held = read_json_table(lock).get(target.name, {})
    if card.weights.autoencoder:
        held = held | _fetch_parts(card, target, held, endpoint)
    elif locate(card) is None:
        if card.weights.source == "url":
            known = card.weights.sha256 or str(held.get("sha256", ""))
            download(card.weights.location, target, sha256=known, licence_page=card.weights.licence_page)
            commit = ""
        else:
            commit = snapshot(card.weights, target, str(held.get("commit", "")), endpoint)
        if commit:
            held = held | {"commit": commit}
    found = content_hash(target)
    if held.get("sha256", found) != found:
        raise WorkError(
            f"{target} has sha256 {found}, but {held['sha256']} was recorded when it was first fetched: the weights "
            f"changed. Delete it and fetch again, or delete its entry in {lock} to accept it."
        )
    if why := why_unusable(card, target):  # before it is recorded as what the weights are
        raise WorkError(f"{why} To fetch it again: delete {target}, then `taba fetch {card.name}`.")
    entry = held | {"location": card.weights.location, "sha256": found, "bytes": _size(target)}
    write_json_table(lock, read_json_table(lock) | {target.name: entry})
    return target


def _fetch_parts(card: Card, target: Path, held: dict[str, Any], endpoint: str | None) -> dict[str, str]:
    """A file and the autoencoder beside it, as far as they are not here; what the lock keeps of the autoencoder."""
    weights, folder = card.weights, target / "vae"
    file = target / Path(urllib.parse.urlsplit(weights.location).path).name
    if not file.exists():
        download(weights.location, file, sha256=weights.sha256, licence_page=weights.licence_page)
    if folder.exists():
        return {}
    wanted = ("config.json", "diffusion_pytorch_model.safetensors")
    repository = WeightsCard(source="hub", location=weights.autoencoder, files=wanted)
    return {"commit": snapshot(repository, folder, str(held.get("commit", "")), endpoint)}


def fetch_prompts(server: str = ROWS_SERVER) -> Path:
    """The paper's captions (column `recaption`), one JSON object a line, in the data set's order.

    Raises:
      WorkError: the server cannot be reached or its answer is incomplete.
    """
    path = recap_coco_path()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        with partial.open("w", encoding="utf-8") as file:
            for caption in _captions(server):
                file.write(json.dumps({"recaption": caption}, ensure_ascii=False) + "\n")
        os.replace(partial, path)
    return path


def _captions(server: str) -> Iterator[str]:
    start, total = 0, 1
    while start < total:
        page = _rows(server, start)
        total, rows = int(page["num_rows_total"]), page["rows"]
        if not rows:
            raise WorkError(f"{server}: {start} of {total} captions came; fetch again.")
        yield from (str(row["row"]["recaption"]) for row in rows)
        start += len(rows)


def _rows(server: str, start: int) -> dict[str, Any]:
    query = {
        "dataset": RECAP_COCO_SOURCE,
        "config": "default",
        "split": "train",
        "offset": start,
        "length": _ROWS_AT_ONCE,
    }
    url = f"{server}/rows?{urllib.parse.urlencode(query)}"
    token = os.environ.get("HF_TOKEN")
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            page: dict[str, Any] = json.load(response)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise WorkError(
            f"{url}: {error}. Fetch on a machine with internet, or write the column 'recaption' of "
            f"{RECAP_COCO_SOURCE} to {recap_coco_path()} yourself, one JSON object a line."
        ) from error
    return page


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_size for file in files)
