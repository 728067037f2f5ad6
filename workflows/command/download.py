"""One file from a URL, resumable and whole: an interrupted download continues, a wrong file is refused."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from taba_core.errors import WorkError
from taba_core.models.weights import file_sha256

ATTEMPTS = 4  # a broken connection is taken up again this often before the command gives up
_BLOCK = 1 << 20
_TIMEOUT = 60.0


def download(url: str, target: Path, *, sha256: str = "", licence_page: str = "") -> str:
    """Fetch a file; `<target>.partial` holds what has come, and is continued (HTTP Range) if it exists.

    Args:
      sha256: what the file must be; "" accepts the first one.
      licence_page: where access is granted, for messages.
    Returns:
      SHA-256 of the file.
    Raises:
      WorkError: no network, refused, not found, interrupted for good, or another file than expected.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            total = _continue(url, partial)
        except urllib.error.HTTPError as error:
            raise WorkError(_refusal(url, error.code, licence_page)) from None
        except (OSError, http.client.HTTPException) as error:
            if attempt == ATTEMPTS:
                raise WorkError(_no_network(url, error, partial)) from error
            continue
        if total is None or partial.stat().st_size >= total:
            break
    return _accept(url, partial, target, total, sha256)


def _continue(url: str, partial: Path) -> int | None:
    """Append what is missing; the size of the whole file, None if the server does not say."""
    start = partial.stat().st_size if partial.exists() else 0
    stamp = partial.with_name(partial.name + ".etag")
    request = urllib.request.Request(url, headers={"User-Agent": "taba"})
    if _is_on_hub(url) and (token := os.environ.get("HF_TOKEN")):
        # Not to the storage that the hub sends us on to: its addresses carry their own signature.
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    if start:
        request.add_header("Range", f"bytes={start}-")
        if stamp.exists():
            request.add_header("If-Range", stamp.read_text())  # another file by now: sent from its beginning
    try:
        response: Any = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # Nothing lies behind the end: the file is whole, or it is not the one that was begun.
        total = _total(error.headers.get("Content-Range"))
        if total == start:
            return total
        partial.unlink()
        return _continue(url, partial)
    with response:
        resumed = response.status == 206
        if resumed:
            total = _total(response.headers.get("Content-Range"))
        else:
            length = response.headers.get("Content-Length")
            total = int(length) if length else None
        if etag := response.headers.get("ETag"):
            stamp.write_text(etag)
        with partial.open("ab" if resumed else "wb") as file:
            while block := response.read(_BLOCK):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
    return total


def _accept(url: str, partial: Path, target: Path, total: int | None, sha256: str) -> str:
    size = partial.stat().st_size
    if total is not None and size < total:
        raise WorkError(
            f"{url}: the connection ended {ATTEMPTS} times, {size} of {total} bytes are here. "
            "Run the same command again; it continues."
        )
    found = file_sha256(partial)
    partial.with_name(partial.name + ".etag").unlink(missing_ok=True)
    if (total is not None and size != total) or (sha256 and found != sha256):
        partial.unlink()
        wrong = f"{size} bytes instead of {total}" if total not in (None, size) else f"sha256 {found}"
        raise WorkError(
            f"{url}: the file is not the expected one ({wrong}{f', expected {sha256}' if sha256 else ''}); "
            "it was deleted. Fetch again; if it stays so, the file was replaced at its source."
        )
    os.replace(partial, target)
    return found


def _total(content_range: str | None) -> int | None:
    """`bytes 5-9/10` or `bytes */10` -> 10."""
    text = (content_range or "").rpartition("/")[2]
    return int(text) if text.isdigit() else None


def _refusal(url: str, code: int, licence_page: str) -> str:
    if code in (401, 403):
        page = f"accept the licence at {licence_page} and " if licence_page else ""
        if _is_on_hub(url):
            return f"{url}: access refused (HTTP {code}); {page}set HF_TOKEN to your access token, then fetch again."
        return f"{url}: access refused (HTTP {code}); {page}download the file as its site allows, then use --weights."
    if code == 404:
        return f"{url}: not found (HTTP 404); the file has moved. Give its new place in a card, or use --weights."
    return f"{url}: the server answered HTTP {code}; try again later."


def _is_on_hub(url: str) -> bool:
    """Whether a URL is one of the hub, which takes the user's access token; nobody else gets it."""
    hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    here, there = urllib.parse.urlsplit(url), urllib.parse.urlsplit(hub)
    return (here.scheme, here.netloc) == (there.scheme, there.netloc)


def _no_network(url: str, error: Exception, partial: Path) -> str:
    have = f" {partial.stat().st_size} bytes are kept and will be continued." if partial.exists() else ""
    reason = getattr(error, "reason", None) or error
    return (
        f"{url}: cannot be reached ({reason}). Run `taba fetch` on a machine with internet (a login node) that "
        f"shares $TABA_CACHE with this one.{have}"
    )
