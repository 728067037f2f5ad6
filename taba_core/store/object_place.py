"""A store on object storage or a web server, through fsspec: `s3://`, `gs://`, `https://`, `memory://` and others.

A PUT of a whole object is atomic and durable when it is answered. What it put in place is compared with what was
sent: size, and the MD5 the server reports where it reports one, else the bytes read back. Credentials and
endpoints come from the storage's usual variables and files (AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ENDPOINT_URL, ...),
never from the URL.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from taba_core.errors import StoreError, TabaError, UsageError, WorkError
from taba_core.store import journal, uploads
from taba_core.store.place import Data, Place, Written, pieces_of, written

ROOT_MARK = "zarr.json"  # a tree without it does not exist: removed first, written last
_READ_ONLY = ("http", "https")
_PART_BYTES = 50 * 2**20  # of a multipart upload by fsspec's S3 and GCS clients
_OPTIONS = {"use_listings_cache": False}  # others write too: a listing must be of now


def object_place(url: str) -> ObjectPlace:
    """The place of a URL.

    Raises:
      UsageError: credentials or options in it, an unknown kind, or packages that are not installed.
    """
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query:
        raise UsageError(
            f"--store {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}: a store's URL holds no "
            "credentials or options; set the storage's usual variables (AWS_ACCESS_KEY_ID, AWS_PROFILE, ...)."
        )
    if not (parts.netloc or parts.path.strip("/")):
        raise UsageError(f"--store {url}: the URL names no place; give {parts.scheme}://BUCKET/PREFIX.")
    place = ObjectPlace(url.rstrip("/"))
    with _installed(url, parts.scheme):
        _check_needs_no_arguments(url, parts.scheme)
        place.filesystem()
    return place


@contextmanager
def _installed(url: str, scheme: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise UsageError(
            f"--store {url}: {scheme}:// needs packages that are not installed ({error}). "
            "Install them: pip install 'taba[remote]'."
        ) from None
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(
            f"--store {url}: {error}. Use a directory, s3://, gs://, https:// or another URL fsspec knows."
        ) from None


def _check_needs_no_arguments(url: str, scheme: str) -> None:
    """Refuse (UsageError) protocols such as ftp://, whose host is an argument that no URL of a store carries."""
    import fsspec

    parameters = list(inspect.signature(fsspec.get_filesystem_class(scheme).__init__).parameters.values())[1:]
    if any(p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty for p in parameters):
        raise UsageError(
            f"--store {url}: a store cannot be on {scheme}://. Use a directory, s3://, gs:// or https://."
        )


@dataclass(frozen=True)
class ObjectPlace:
    """An object or a prefix by its URL; the methods are described in `Place`."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> ObjectPlace:
        return ObjectPlace(f"{self.url}/{name}")

    def filesystem(self) -> Any:
        """The fsspec file system; fsspec keeps one per process."""
        import fsspec

        return fsspec.filesystem(self.url.partition("://")[0], **_OPTIONS)

    @property
    def name(self) -> str:
        """Last component."""
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> ObjectPlace:
        """The prefix it is in."""
        return ObjectPlace(self.url.rpartition("/")[0])

    def exists(self) -> bool:
        """Whether there is such an object."""
        return self.size() is not None

    def size(self) -> int | None:
        """Bytes of the object; None if there is none."""
        with self._explained("read"), suppress(FileNotFoundError):
            info = self.filesystem().info(self.url)
            return None if info["type"] == "directory" else int(info["size"] or 0)
        return None

    def modified(self) -> float | None:
        """Seconds, by the storage's clock, at which the object was written; None without an object or a kept time."""
        # fsspec's way of saying that a protocol (http, for one) keeps no time of writing.
        without_time = NotImplementedError
        with self._explained("read"), suppress(FileNotFoundError, without_time):
            return float(self.filesystem().modified(self.url).timestamp())
        return None

    def read_bytes(self) -> bytes:
        """The whole object."""
        with self._explained("read"):
            return bytes(self.filesystem().cat_file(self.url))

    def crc32(self) -> int:
        """CRC-32 of the whole object, which is read once."""
        return zlib.crc32(self.read_bytes())

    def read_existing(self, names: Iterable[str]) -> dict[str, bytes]:
        """Content of those objects that are there, fetched at once."""
        fs = self.filesystem()
        wanted = {fs._strip_protocol((self / name).url): name for name in names}
        if not wanted:
            return {}
        with self._explained("read"):
            found = fs.cat(list(wanted), on_error="return")
            for value in found.values():
                if isinstance(value, Exception) and not isinstance(value, FileNotFoundError):
                    raise value
        return {wanted[p]: bytes(v) for p, v in found.items() if not isinstance(v, Exception)}

    def sizes(self) -> dict[str, int]:
        """Bytes of every object directly below this prefix."""
        return self._sized({e["name"]: e["size"] for e in self._entries() if e["type"] == "file"})

    def children(self) -> list[str]:
        """Names of the prefixes directly below this one."""
        return sorted({_last(e["name"]) for e in self._entries() if e["type"] == "directory"})

    def walk(self) -> dict[str, int]:
        """Bytes of every object below."""
        with self._explained("list"), suppress(FileNotFoundError):
            found = self.filesystem().find(self.url, detail=True)
            return self._sized({path: info["size"] for path, info in found.items()})
        return {}

    def make(self) -> None:
        """Nothing to do: prefixes exist with their objects."""

    def write_atomic(self, data: Data) -> Written:
        """PUT the whole object, then compare what the storage holds."""
        whole = data if isinstance(data, bytes) else b"".join(bytes(piece) for piece in pieces_of(data))
        sent = written(whole)
        with self._explained("write"):
            self.filesystem().pipe_file(self.url, whole)
            self._compare(whole, sent)
        return sent

    def replace_tree(self, files: Mapping[str, bytes], aside: Place) -> None:
        """Between the old tree and the new one there is none: its mark is removed first and written last."""
        (self / ROOT_MARK).remove()
        for name, data in files.items():
            if name != ROOT_MARK:
                (self / name).write_atomic(data)
        for name in self.walk().keys() - files.keys():
            (self / name).remove()
        (self / ROOT_MARK).write_atomic(files[ROOT_MARK])

    def append_line(self, line: str) -> None:
        """One object per line; see `journal`."""
        (self._parts / journal.part_name()).write_atomic((line + "\n").encode())

    def lines(self) -> Iterator[str]:
        """The file of that name, if the store was copied from a directory, then the objects."""
        for data in self.parent.read_existing([self.name]).values():
            yield from data.decode(errors="replace").splitlines()
        yield from journal.lines(self._parts.sizes, self._parts.read_existing)

    def compact(self) -> None:
        """Write all objects' lines into one, then remove those it replaces."""
        parts = self._parts
        held = [name for name in parts.sizes() if name.endswith((".line", ".all"))]
        if len(held) > 1:
            whole = "".join(f"{line}\n" for line in journal.lines(parts.sizes, parts.read_existing))
            (parts / journal.whole_name(held)).write_atomic(whole.encode())
            for name in held:
                (parts / name).remove()

    @property
    def _parts(self) -> ObjectPlace:
        return self.parent / (self.name + journal.FOLDER)

    def create_exclusive(self, data: bytes) -> bool:
        """A conditional PUT (If-None-Match), then read back: storage that ignores the condition keeps the last."""
        with self._explained("write"):
            try:
                if self.exists():
                    return False
                self.filesystem().pipe_file(self.url, data, mode="create")
            except FileExistsError:
                return False
        return self.read_bytes() == data

    def confirm(self) -> None:
        """Nothing to do: an object that is there is durable."""

    def remove(self) -> None:
        """Remove the object, if it is there."""
        with self._explained("remove"), suppress(FileNotFoundError):
            self.filesystem().rm_file(self.url)

    def remove_tree(self) -> None:
        """Remove every object below, the mark first."""
        (self / ROOT_MARK).remove()
        for name in self.walk():
            (self / name).remove()

    def interrupted(self) -> dict[str, int]:
        """Multipart uploads directly below this prefix that were never completed (S3; invisible, but billed)."""
        with self._explained("list"):
            return uploads.unfinished(self.filesystem(), self.url)

    def remove_interrupted(self, name: str) -> None:
        """Abort an upload."""
        with self._explained("remove"):
            uploads.abort(self.filesystem(), self.url, name)

    def check_kind(self, *, writing: bool) -> None:
        """Refuse to write to web servers."""
        if writing and self.url.partition("://")[0] in _READ_ONLY:
            raise UsageError(
                f"--store {self.url}: a store on a web server can be read, not written. Write to a directory or "
                "to s3://BUCKET/PREFIX."
            )

    def check_writable(self) -> None:
        """Nothing is known before the first write, which says what is wrong."""

    def zarr_store(self) -> Any:
        """A zarr store that reads through fsspec."""
        from zarr.storage import FsspecStore

        return FsspecStore.from_url(self.url, storage_options=_OPTIONS, read_only=True)

    def _compare(self, whole: bytes, sent: Written) -> None:
        info = self.filesystem().info(self.url)
        if info["size"] != sent.bytes:
            raise WorkError(f"{self.url} holds {info['size']} bytes, not {sent.bytes}; run again.")
        if str(info.get("ETag", "")).strip('"') in _etags(whole):
            return
        if (found := self.crc32()) != sent.crc:
            raise WorkError(f"{self.url} holds other bytes than were sent ({found:08x}, {sent.crc:08x}).")

    def _entries(self) -> list[dict[str, Any]]:
        with self._explained("list"), suppress(FileNotFoundError, NotADirectoryError):
            fs = self.filesystem()
            here = fs._strip_protocol(self.url).rstrip("/")
            found = fs.ls(self.url, detail=True)
            return [e for e in found if e["name"].rstrip("/") != here]
        return []

    def _sized(self, sizes: Mapping[str, int | None]) -> dict[str, int]:
        """Sizes by path relative to here; web servers list names only, so they are asked for each."""
        unknown = [path for path, size in sizes.items() if size is None]
        with self._explained("read"):
            asked = dict(zip(unknown, self.filesystem().sizes(unknown), strict=True)) if unknown else {}
        here = self.filesystem()._strip_protocol(self.url).rstrip("/") + "/"
        return {path.removeprefix(here): int(asked.get(path, size) or 0) for path, size in sizes.items()}

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        """Errors of the storage as one message; whether a file exists stays the caller's to handle."""
        try:
            yield
        except (TabaError, FileExistsError):
            raise
        except FileNotFoundError as error:
            if doing in ("read", "list", "remove"):
                raise
            raise WorkError(
                f"cannot {doing} {self.url}: there is no such bucket ({error}). Make it, or check --store."
            ) from error
        except Exception as error:  # clients of object storage share no base class
            kind = WorkError if doing == "write" else StoreError
            raise kind(
                f"cannot {doing} {self.url}: {type(error).__name__}: {_one_line(error)}. Check the address, the "
                "credentials and the endpoint in the environment, then run the same command again: it continues."
            ) from error


def _etags(data: bytes) -> set[str]:
    """MD5 as S3 reports it for one PUT, and for a multipart upload in parts of 50 MiB."""
    parts = [_md5(data[i : i + _PART_BYTES]) for i in range(0, len(data), _PART_BYTES)] or [_md5(b"")]
    whole = parts[0] if len(parts) == 1 else _md5(data)
    return {whole.hex(), f"{_md5(b''.join(parts)).hex()}-{len(parts)}"}


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _one_line(error: Exception) -> str:
    """First line of an error's text without a signed query."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
    return re.sub(r"\?\S*", "", text).rstrip(".")
