"""A store on object storage: `s3://`, `gs://`, `az://`, and `memory://` within one process; see `object_client`.

A PUT of a whole object is atomic and durable when it is answered; an upload in parts, which a killed writer could
leave behind unfinished, is never used. What the PUT put in place is compared with what was sent: by the MD5 that the
storage reports where it reports one, else by the bytes read back.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from taba_core.errors import WorkError
from taba_core.store import journal
from taba_core.store.object_client import bucket_of, check_url, explained
from taba_core.store.place import Data, Place, Written, pieces_of, written

ROOT_MARK = "zarr.json"  # a tree without it does not exist: removed first, written last
_FETCHES_AT_ONCE = 16
_MOST_BYTES = 5 * 2**30  # of one PUT to S3


def object_place(url: str) -> ObjectPlace:
    """The place of a URL.

    Raises:
      UsageError: credentials or options in it, an unknown kind, packages that are not installed, or settings with
        which the client of the storage cannot be made.
    """
    check_url(url)
    place = ObjectPlace(url.rstrip("/"))
    bucket_of(place.url)
    return place


@dataclass(frozen=True)
class ObjectPlace:
    """An object or a prefix by its URL; the methods are described in `Place`."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> ObjectPlace:
        return ObjectPlace(f"{self.url}/{name}")

    @property
    def _client(self) -> Any:
        return bucket_of(self.url)

    @property
    def _key(self) -> str:
        return "/".join(self.url.split("/", 3)[3:])

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
        found = self._head()
        return None if found is None else int(found["size"])

    def modified(self) -> float | None:
        """Seconds, by the storage's clock, at which the object was written; None if there is none."""
        found = self._head()
        return None if found is None else float(found["last_modified"].timestamp())

    def _head(self) -> Any:
        import obstore

        with explained("read", self.url), suppress(FileNotFoundError):
            return obstore.head(self._client, self._key)
        return None

    def read_bytes(self) -> bytes:
        """The whole object."""
        return self._read()[0]

    def _read(self) -> tuple[bytes, dict[str, Any]]:
        """The whole object, and the version that a conditional PUT names."""
        import obstore

        with explained("read", self.url):
            found = obstore.get(self._client, self._key)
            version = {name: found.meta[name] for name in ("e_tag", "version") if found.meta[name]}
            return bytes(found.bytes()), version

    def crc32(self) -> int:
        """CRC-32 of the whole object, which is read once."""
        return zlib.crc32(self.read_bytes())

    def read_existing(self, names: Iterable[str]) -> dict[str, bytes]:
        """Content of those objects that are there, fetched several at once."""

        def fetch(name: str) -> tuple[str, bytes | None]:
            with suppress(FileNotFoundError):
                return name, (self / name).read_bytes()
            return name, None

        with ThreadPoolExecutor(_FETCHES_AT_ONCE) as pool:
            return {name: data for name, data in pool.map(fetch, names) if data is not None}

    def sizes(self) -> dict[str, int]:
        """Bytes of every object directly below this prefix."""
        return {_last(entry["path"]): int(entry["size"]) for entry in self._entries()["objects"]}

    def children(self) -> list[str]:
        """Names of the prefixes directly below this one."""
        return sorted(_last(path) for path in self._entries()["common_prefixes"])

    def _entries(self) -> Any:
        import obstore

        with explained("list", self.url):
            return obstore.list_with_delimiter(self._client, self._key)

    def walk(self) -> dict[str, int]:
        """Bytes of every object below."""
        import obstore

        with explained("list", self.url):
            found = [entry for page in obstore.list(self._client, self._key) for entry in page]
        return {entry["path"].removeprefix(f"{self._key}/"): int(entry["size"]) for entry in found}

    def make(self) -> None:
        """Nothing to do: prefixes exist with their objects."""

    def write_atomic(self, data: Data) -> Written:
        """PUT the whole object, then compare what the storage holds."""
        whole = data if isinstance(data, bytes) else b"".join(bytes(piece) for piece in pieces_of(data))
        if len(whole) > _MOST_BYTES:
            raise WorkError(
                f"{self.url} would be {len(whole)} bytes, and object storage takes at most {_MOST_BYTES} in one piece: "
                "use another --store with fewer samples_per_shard."
            )
        sent = written(whole)
        self._compare(whole, sent, self._put(whole))
        return sent

    def _put(self, data: bytes, **condition: Any) -> Any:
        """One PUT; what the storage says of it."""
        import obstore

        with explained("write", self.url):
            return obstore.put(self._client, self._key, data, use_multipart=False, **condition)

    def replace_tree(self, files: Mapping[str, bytes], aside: Place) -> None:
        """Between the old tree and the new one there is none: its mark is removed first and written last."""
        (self / ROOT_MARK).remove()
        for name, data in files.items():
            if name != ROOT_MARK:
                (self / name).write_atomic(data)
        for name in self.walk().keys() - files.keys():
            (self / name).remove()
        (self / ROOT_MARK).write_atomic(files[ROOT_MARK])

    def append_lines(self, lines: Sequence[str]) -> None:
        """One object for all of them; see `journal`."""
        (self._parts / journal.part_name()).write_atomic(journal.encoded(lines))

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
        from obstore.exceptions import AlreadyExistsError

        if self.exists():
            return False
        with suppress(AlreadyExistsError):  # also when a first attempt succeeded whose answer was lost
            self._put(data, mode="create")
        with suppress(FileNotFoundError):  # the one who was first has removed it already
            return self.read_bytes() == data
        return False

    def exchange(self, old: bytes, new: bytes) -> bool:
        """A conditional PUT (If-Match) on the version that was read, then read back."""
        from obstore.exceptions import PreconditionError

        try:
            held, version = self._read()
            if held != old:
                return False
            with suppress(PreconditionError):
                self._put(new, mode=version)
            return self.read_bytes() == new
        except FileNotFoundError:
            return False

    def touch(self, content: bytes) -> None:
        """Write the same bytes again, on the condition that nobody has replaced them."""
        self.exchange(content, content)

    def confirm(self) -> None:
        """Nothing to do: an object that is there is durable."""

    def remove(self) -> None:
        """Remove the object, if it is there."""
        import obstore

        with explained("remove", self.url), suppress(FileNotFoundError):
            obstore.delete(self._client, self._key)

    def remove_tree(self) -> None:
        """Remove every object below, the mark first."""
        (self / ROOT_MARK).remove()
        for name in self.walk():
            (self / name).remove()

    def interrupted(self) -> dict[str, int]:
        """Nothing: a PUT that was killed leaves no trace."""
        return {}

    def remove_interrupted(self, name: str) -> None:
        """Nothing to remove."""

    def check_kind(self, *, writing: bool) -> None:
        """Every kind can be read and written."""

    def check_writable(self) -> None:
        """Nothing is known before the first write, which says what is wrong."""

    def zarr_store(self) -> Any:
        """A read-only zarr store, at this prefix."""
        from zarr.storage import ObjectStore, StorePath

        return StorePath(ObjectStore(self._client, read_only=True), self._key)

    def _compare(self, whole: bytes, sent: Written, answer: Any) -> None:
        if str(answer["e_tag"] or "").strip('"') == hashlib.md5(whole, usedforsecurity=False).hexdigest():
            return
        if (size := self.size()) != sent.bytes:
            raise WorkError(f"{self.url} holds {size} bytes, not {sent.bytes}; run again.")
        if (found := self.crc32()) != sent.crc:
            raise WorkError(f"{self.url} holds other bytes than were sent ({found:08x}, {sent.crc:08x}).")


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
