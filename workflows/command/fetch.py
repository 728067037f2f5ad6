"""`taba fetch`: weights and prompt lists into the cache. The only command that uses the network."""

from __future__ import annotations

import json
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from taba_core.cache import read_json_table, write_json_table
from taba_core.errors import UsageError, WorkError
from taba_core.models.cards import Card
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
from workflows.text import bytes_text, print_table

ROWS_SERVER = "https://datasets-server.huggingface.co"
_ROWS_AT_ONCE = 100  # the server's limit
_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt"}


def fetch_all(names: list[str]) -> None:
    """Fetch models and prompt lists by name, then say what lies where; without names only say it.

    Raises:
      UsageError: an unknown name, or a model without weights to fetch. WorkError: a download failed.
    """
    cards = [load_card(name) for name in names if name != RECAP_COCO]
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
    if locate(card) is None:
        if card.weights.source == "url":
            known = card.weights.sha256 or str(held.get("sha256", ""))
            download(card.weights.location, target, sha256=known, licence_page=card.weights.licence_page)
            commit = ""
        else:
            commit = _snapshot(card, target, str(held.get("commit", "")) or card.weights.revision, endpoint)
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


def _snapshot(card: Card, target: Path, revision: str, endpoint: str | None) -> str:
    """The needed files of a hub repository at one commit, moved into place when all are here; the commit."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled

    repository, partial = card.weights.location, target.with_name(target.name + ".partial")
    api = HfApi(endpoint=endpoint)
    try:
        commit = str(api.model_info(repository, revision=revision).sha)
        api.snapshot_download(
            repository,
            revision=commit,
            local_dir=partial,
            allow_patterns=list(card.weights.files) or None,
        )
    except OfflineModeIsEnabled:
        raise WorkError(
            f"{repository}: HF_HUB_OFFLINE is set; unset it on a machine with internet."
        ) from None
    except GatedRepoError:
        raise WorkError(_access(card, "a gated repository")) from None
    except HfHubHTTPError as error:
        code = error.response.status_code if error.response is not None else 0
        if code in (401, 403):
            raise WorkError(_access(card, f"HTTP {code}")) from None
        raise WorkError(
            f"{repository}@{revision}: the hub answered HTTP {code}; check location and revision of the card, or "
            "try again later. What has come is kept and continued."
        ) from None
    except Exception as error:  # the client's transport errors have no common base
        raise WorkError(
            f"{repository}: the hub cannot be reached ({str(error).splitlines()[0] if str(error) else error!r}). "
            "Run `taba fetch` on a machine with internet that shares $TABA_CACHE with this one; what has come "
            "is kept and continued."
        ) from error
    if not any(path.suffix in _WEIGHT_SUFFIXES for path in partial.rglob("*")):
        raise WorkError(
            f"{repository}@{commit}: no weights among {', '.join(card.weights.files) or 'its files'}."
        )
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    os.replace(partial, target)
    return commit


def _access(card: Card, why: str) -> str:
    page = card.weights.licence_page or f"https://huggingface.co/{card.weights.location}"
    return (
        f"{card.weights.location}: access refused ({why}); accept the licence at {page} and set HF_TOKEN to your "
        "access token, then fetch again."
    )


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
