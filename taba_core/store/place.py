"""Where a store lies: a directory, or a prefix on object storage. Everything else in this package works on a `Place`.

A place names a file or a directory by its path or URL; nothing is opened until it is asked. Two kinds exist:
`LocalPlace` (fsync, rename: `local_place`) and `ObjectPlace` (whole-object PUTs, compared afterwards:
`object_place`). Both keep the same promise: a file is there complete and durable, or not at all.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from taba_core.errors import StoreError

Data = bytes | Iterable[Any]
"""Bytes, or pieces of them (anything with the buffer protocol); a piece is used before the next one is asked for."""


@dataclass(frozen=True)
class Written:
    """What a write put in place: bytes, and CRC-32 of all of them."""

    bytes: int
    crc: int


class Place(Protocol):
    """A file or directory of a store. Small, comparable, picklable: it is sent to workers."""

    @property
    def url(self) -> str:
        """Path or URL, from which `address.place_of` makes the same place again. Never holds credentials."""

    @property
    def name(self) -> str:
        """Last component."""

    @property
    def parent(self) -> Place:
        """The place this one is in."""

    def __truediv__(self, name: str) -> Place:
        """A place in this one."""

    def exists(self) -> bool:
        """Whether a file of this name is there."""

    def size(self) -> int | None:
        """Bytes of the file; None if there is none."""

    def modified(self) -> float | None:
        """When the file was last written, seconds since 1970 by the storage's clock; None if there is none."""

    def read_bytes(self) -> bytes:
        """The whole file. Raises FileNotFoundError, or StoreError where the storage refuses."""

    def crc32(self) -> int:
        """CRC-32 of the whole file."""

    def read_existing(self, names: Iterable[str]) -> dict[str, bytes]:
        """Content of those files `names` (relative paths) below that are there."""

    def sizes(self) -> dict[str, int]:
        """Bytes of every file directly in this directory, by name; one listing."""

    def children(self) -> list[str]:
        """Names of the directories directly in this one, sorted."""

    def walk(self) -> dict[str, int]:
        """Bytes of every file below, by relative path; one listing."""

    def make(self) -> None:
        """Make the directory, where the storage has such a thing."""

    def write_atomic(self, data: Data) -> Written:
        """Write the whole file, durable on return. Raises WorkError; nothing partial is left."""

    def replace_tree(self, files: Mapping[str, bytes], aside: Place) -> None:
        """Put a directory with exactly these files in place of what is there, so that no reader sees a mixture."""

    def append_lines(self, lines: Sequence[str]) -> None:
        """Append lines to this journal, all durable on return. One writer at a time."""

    def lines(self) -> Iterator[str]:
        """Lines of this journal, in the order they were appended; none if there is no journal."""

    def compact(self) -> None:
        """Let the journal take the fewest files. By its writer only."""

    def create_exclusive(self, data: bytes) -> bool:
        """Write the file unless there is one; False if there is. Of several who try, one succeeds."""

    def exchange(self, old: bytes, new: bytes) -> bool:
        """Replace the file if it holds exactly `old`; False if not. Of several who try, one succeeds.

        `new` is what no other writer would write: it may be compared to tell who won.
        """

    def touch(self, content: bytes) -> None:
        """Let the file count as written now, if it holds exactly this; nothing happens if not."""

    def confirm(self) -> None:
        """Make a file durable that somebody else wrote and may not have synced."""

    def remove(self) -> None:
        """Remove the file; nothing happens if there is none."""

    def remove_tree(self) -> None:
        """Remove everything below, and the directory."""

    def interrupted(self) -> dict[str, int]:
        """What killed writers left directly in this directory: name to bytes."""

    def remove_interrupted(self, name: str) -> None:
        """Remove one of `interrupted`."""

    def check_kind(self, *, writing: bool) -> None:
        """Refuse, as a store, what can never be one. Raises UsageError."""

    def check_writable(self) -> None:
        """Refuse an existing store that cannot be written, before any work. Raises StoreError."""

    def zarr_store(self) -> Any:
        """What zarr and xarray open to read it: a path, or a zarr store."""


def pieces_of(data: Data) -> Iterable[Any]:
    """Data as pieces."""
    return (data,) if isinstance(data, bytes | bytearray | memoryview) else data


def written(data: bytes) -> Written:
    """What writing these bytes must put in place."""
    return Written(len(data), zlib.crc32(data))


def read_json(file: Place | Path) -> dict[str, Any]:
    """Read a JSON object from a place or a local path.

    Raises:
      StoreError: the file is not readable as JSON.
      FileNotFoundError: there is no such file.
    """
    return parse_json(file.read_bytes(), file)


def parse_json(data: bytes, where: object) -> dict[str, Any]:
    """Parse a JSON object read from `where`.

    Raises:
      StoreError: it is not one.
    """
    try:
        value = json.loads(data.decode())
    except ValueError as error:
        raise StoreError(
            f"{where} is damaged ({error}). Remove its directory; a run makes it again."
        ) from None
    if not isinstance(value, dict):
        raise StoreError(f"{where} is damaged (no JSON object). Remove its directory; a run makes it again.")
    return value


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """A JSON object as the store writes it."""
    return (json.dumps(value, indent=2) + "\n").encode()
