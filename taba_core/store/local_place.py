"""A store in a directory, local or shared: written beside, synced, renamed into place."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from taba_core.errors import StoreError, UsageError
from taba_core.store import journal
from taba_core.store.claim import exchange_by_claim
from taba_core.store.files import (
    PARTIAL_SUFFIX,
    append_lines,
    crc32_of_file,
    explained,
    sync_directory,
    sync_tree,
    write_pieces,
)
from taba_core.store.place import Data, Place, Written, pieces_of


@dataclass(frozen=True)
class LocalPlace:
    """A file or directory by its path; the methods are described in `Place`."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def __fspath__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> LocalPlace:
        return LocalPlace(self.path / name)

    @property
    def url(self) -> str:
        """The path as text."""
        return str(self.path)

    @property
    def name(self) -> str:
        """Last component."""
        return self.path.name

    @property
    def parent(self) -> LocalPlace:
        """The directory it is in."""
        return LocalPlace(self.path.parent)

    def exists(self) -> bool:
        """Whether it is there."""
        return self.path.exists()

    def size(self) -> int | None:
        """Bytes of the file; None if there is none."""
        try:
            return self.path.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def modified(self) -> float | None:
        """Modification time of the file; None if there is none."""
        try:
            return self.path.stat().st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read_bytes(self) -> bytes:
        """The whole file."""
        return self.path.read_bytes()

    def crc32(self) -> int:
        """CRC-32 of the whole file, read in blocks."""
        return crc32_of_file(self.path)

    def read_existing(self, names: Iterable[str]) -> dict[str, bytes]:
        """Content of those files that are there."""
        return {name: (self.path / name).read_bytes() for name in names if (self.path / name).exists()}

    def sizes(self) -> dict[str, int]:
        """Bytes of every file in the directory."""
        if not self.path.is_dir():
            return {}
        with os.scandir(self.path) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if not entry.is_dir()}

    def children(self) -> list[str]:
        """Names of the directories in this one."""
        if not self.path.is_dir():
            return []
        with os.scandir(self.path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())

    def walk(self) -> dict[str, int]:
        """Bytes of every file below, by path relative to here."""
        found = {}
        for folder, _, names in os.walk(self.path):
            for name in names:
                file = Path(folder) / name
                found[file.relative_to(self.path).as_posix()] = file.stat().st_size
        return found

    def make(self) -> None:
        """Make the directory and those above it."""
        with explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    def write_atomic(self, data: Data) -> Written:
        """Write beside, sync, rename, sync the directory; see `files.write_pieces`."""
        return Written(*write_pieces(self.path, pieces_of(data)))

    def replace_tree(self, files: Mapping[str, bytes], aside: Place) -> None:
        """Write the files to a directory in `aside`, sync it and rename it: a reader sees the old or the new."""
        folder = local_path(aside)
        left_behind = folder.glob(f"{self.name}.*{PARTIAL_SUFFIX}")
        scratch = folder / f"{self.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}"
        with explained(self.path):
            for left in left_behind:  # of a writer that was killed
                shutil.rmtree(left, ignore_errors=True)
            try:
                for name, data in files.items():
                    target = scratch / "new" / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(data)
                sync_tree(scratch / "new")
                if self.path.exists():
                    self.path.rename(scratch / "old")
                (scratch / "new").rename(self.path)
                sync_directory(self.path.parent)
            finally:
                if (scratch / "old").exists() and not self.path.exists():
                    (scratch / "old").rename(self.path)
                shutil.rmtree(scratch, ignore_errors=True)

    def append_lines(self, lines: Sequence[str]) -> None:
        """Append to the file and sync it once."""
        if os.path.isdir(f"{self.path}{journal.FOLDER}"):  # copied from object storage
            (self._parts / journal.part_name()).write_atomic(journal.encoded(lines))
        else:
            append_lines(self.path, lines)

    def lines(self) -> Iterator[str]:
        """Lines of the file, one in memory at a time, then of objects if the store was copied from such storage."""
        if self.path.exists():
            with self.path.open(errors="replace") as file:
                yield from (line.rstrip("\n") for line in file)
        yield from journal.lines(self._parts.sizes, self._parts.read_existing)

    @property
    def _parts(self) -> LocalPlace:
        return self.parent / (self.name + journal.FOLDER)

    def compact(self) -> None:
        """Nothing to do: a journal is one file."""

    def create_exclusive(self, data: bytes) -> bool:
        """O_EXCL, written and synced; a reader may see the file empty for a moment."""
        with explained(self.path):
            try:
                handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                return False
            try:
                with open(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            except BaseException:
                self.path.unlink(missing_ok=True)  # a full disk must not leave an empty claim
                raise
            sync_directory(self.path.parent)
        return True

    def exchange(self, old: bytes, new: bytes) -> bool:
        """By a claim: file systems have no such operation, and locks that not all of them keep."""
        return exchange_by_claim(self, old, new)

    def touch(self, content: bytes) -> None:
        """Set the time of modification, which also a full disk allows."""
        with explained(self.path), suppress(FileNotFoundError, NotADirectoryError):
            if self.path.read_bytes() == content:
                os.utime(self.path)

    def confirm(self) -> None:
        """Sync the file and its directory."""
        with explained(self.path):
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
            sync_directory(self.path.parent)

    def remove(self) -> None:
        """Remove the file, if it is there."""
        with explained(self.path):
            self.path.unlink(missing_ok=True)

    def remove_tree(self) -> None:
        """Remove the directory and everything below, if it is there."""
        if self.path.exists():
            with explained(self.path):
                shutil.rmtree(self.path)
                sync_directory(self.path.parent)

    def interrupted(self) -> dict[str, int]:
        """`.partial` files and directories, with the bytes below them."""
        if not self.path.is_dir():
            return {}
        found = sorted(self.path.glob(f"*{PARTIAL_SUFFIX}"))
        return {p.name: sum(LocalPlace(p).walk().values()) if p.is_dir() else p.stat().st_size for p in found}

    def remove_interrupted(self, name: str) -> None:
        """Remove a `.partial`."""
        left = self / name
        if left.path.is_dir():
            left.remove_tree()
        else:
            left.remove()

    def check_kind(self, *, writing: bool) -> None:
        """Refuse a file."""
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"--store {self} is a file; a store is a directory. Give another path.")

    def check_writable(self) -> None:
        """Refuse a directory this user may not write."""
        if not os.access(self.path, os.W_OK):
            raise StoreError(f"store {self} is not writable: fix its permissions or use another --store.")

    def zarr_store(self) -> str:
        """The path."""
        return str(self.path)


def local_path(place: Place, what: str = "this") -> Path:
    """The path of a place in a local directory.

    Raises:
      UsageError: it is not in one.
    """
    if isinstance(place, LocalPlace):
        return place.path
    raise UsageError(f"{place.url} is not a directory of this machine, and {what} needs one.")
