"""A server of weights and prompts on this machine, with the failures that real ones have; cards that point to it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import pickle
import threading
import urllib.parse
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from safetensors.torch import save

from taba_core.models.cards import WeightsCard
from taba_core.models.catalog import load_card


def weight_file(first: int, size: int = 102_400) -> bytes:
    """What torch.save writes of one tensor, as far as a header tells; of exactly that size."""

    def written(numbers: bytes) -> bytes:
        held = io.BytesIO()
        with zipfile.ZipFile(held, "w") as archive:
            archive.writestr("w/data.pkl", pickle.dumps({}, protocol=2))
            archive.writestr("w/data/0", numbers)
        return held.getvalue()

    numbers = bytes((first + i) % 256 for i in range(size))
    return written(numbers[: size - len(written(b""))])


CONTENT = weight_file(0)
SHA = hashlib.sha256(CONTENT).hexdigest()
HUB = {
    "model_index.json": b"{}",
    **{f"{part}/config.json": b'{"a": 1}' for part in ("unet", "vqvae")},
    **{f"{part}/model.safetensors": save({"w": torch.ones(3)}) for part in ("unet", "vqvae")},
}
COMMIT = "c0ffee" * 6 + "c0ff"


class Server(ThreadingHTTPServer):
    """Files with Range support, a hub's interface, and the rows interface of a data set; faults on demand."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/weights.pt": CONTENT}
        self.breaks: list[int] = []  # the next answers end after so many bytes
        self.status: dict[str, int] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.etag = '"one"'
        self.hub: dict[str, bytes] = {}
        self.rows: list[str] = []
        self.promised: int | None = None  # rows it says there are, if others than it has
        self.tokens: dict[str, str] = {}  # paths that are answered only to who shows this

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server that answers while the block runs."""
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def own_cache(folder: Path, monkeypatch) -> Path:
    """The cache of a test, below its folder; no setting of the machine's reaches what is fetched."""
    monkeypatch.setenv("TABA_CACHE", str(folder / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
    proxies = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_ENDPOINT", *proxies):
        monkeypatch.delenv(name, raising=False)
    return folder / "cache"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        url = urllib.parse.urlsplit(self.path)
        self.server.requests.append((url.path, self.headers.get("Range")))
        token = self.server.tokens.get(url.path)
        if token and self.headers.get("Authorization") != f"Bearer {token}":
            self.reply(401, b"{}", {"X-Error-Code": "GatedRepo"} if "gated" in url.path else {})
        elif code := self.server.status.get(url.path):
            self.reply(code, b"{}", {"X-Error-Code": "GatedRepo"} if "gated" in url.path else {})
        elif url.path.startswith("/api/models/"):
            siblings = [{"rfilename": name} for name in self.server.hub]
            tree = [
                {"type": "file", "path": n, "size": len(c), "oid": "0" * 40}
                for n, c in self.server.hub.items()
            ]
            found = tree if "/tree/" in url.path else {"id": "own/model", "sha": COMMIT, "siblings": siblings}
            self.reply(200, json.dumps(found).encode(), {"Content-Type": "application/json"})
        elif "/resolve/" in url.path:
            content = self.server.hub[url.path.split(f"{COMMIT}/")[1]]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            self.reply(
                200, content if body else b"", {"ETag": etag, "X-Repo-Commit": COMMIT}, length=len(content)
            )
        elif url.path == "/rows":
            start = int(urllib.parse.parse_qs(url.query)["offset"][0])
            page = [{"row": {"recaption": c}} for c in self.server.rows[start : start + 100]]
            self.reply(
                200,
                json.dumps(
                    {"rows": page, "num_rows_total": self.server.promised or len(self.server.rows)}
                ).encode(),
            )
        elif url.path in self.server.files:
            self.send_file(self.server.files[url.path])
        else:
            self.reply(404, b"")

    def send_file(self, content):
        start, same = 0, self.headers.get("If-Range") in (None, self.server.etag)
        if (wanted := self.headers.get("Range")) and same:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start >= len(content):
            return self.reply(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        headers = {"ETag": self.server.etag}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = self.server.breaks.pop(0) if self.server.breaks else None
        rest = content[start:]
        self.reply(206 if start else 200, rest[:cut], headers, length=len(rest))

    def reply(self, code, content, headers=None, length=None):
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        self.close_connection = True


def url_card(server, **weights):
    base = load_card("adm-64")
    return base.model_copy(
        update={"weights": WeightsCard(source="url", location=f"{server.url}/weights.pt", **weights)}
    )


def hub_card(server, location="own/model", **weights):
    return load_card("ldm").model_copy(
        update={"weights": WeightsCard(source="hub", location=location, **weights)}
    )
