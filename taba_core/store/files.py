"""Durable, atomic writes to local files, and what to do about the ways an operating system refuses them."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from taba_core.errors import WorkError

LEDGER_DIRECTORY = "_ledger"
PROMPTS_DIRECTORY = "prompts"  # of the ledger: encoded prompts, MODEL-HASH.npz
PARTIAL_SUFFIX = ".partial"
_CRC_BLOCK = 16 * 1024 * 1024
_WRITEBACK_BLOCK = 8 * 1024 * 1024

_WAYS_OUT = {
    errno.ENOSPC: "Free space or use another --store",
    errno.EDQUOT: "Free some of your quota or use another --store",
    errno.EFBIG: "Raise the file size limit (ulimit -f) or use another --store with fewer samples_per_shard",
    errno.EROFS: "Use a --store on a writable file system",
    errno.EACCES: "Fix the permissions or use another --store",
    errno.EPERM: "Fix the permissions or use another --store",
}


def write_pieces(path: Path, pieces: Iterable[Any]) -> tuple[int, int]:
    """Write a whole file so that it exists complete and on disk, or not at all, even after a power cut.

    The bytes go to a `.partial` beside it, are synced, renamed, and the directory is synced. The sync comes
    before the rename: a renamed file that was never synced can be empty after a node crash, and an empty
    shard reads as NaN without any error. The disk is set to work while the rest is still being made.

    Args:
      pieces: buffers, in order; each is used before the next one is taken, so they may share memory.
    Returns:
      Bytes written, and their CRC-32.
    Raises:
      WorkError: the operating system refused, or kept another number of bytes; no partial file is left.
    """
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
    with explained(path):
        try:
            with partial.open("xb", buffering=0) as file:
                size, crc = _write_all(file, pieces)
                os.fsync(file.fileno())
                found = os.fstat(file.fileno()).st_size
            if found != size:
                raise WorkError(f"{path} got {found} of {size} bytes; run the same command again.")
            partial.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
    return size, crc


def _write_all(file: io.FileIO, pieces: Iterable[Any]) -> tuple[int, int]:
    size = crc = handed_over = 0
    for piece in pieces:
        crc = zlib.crc32(piece, crc)
        rest = memoryview(piece).cast("B")
        while rest:  # an unbuffered write may take less than it is given
            taken = file.write(rest)
            rest, size = rest[taken:], size + (taken or 0)
        if size - handed_over >= _WRITEBACK_BLOCK:
            _start_writeback(file.fileno(), handed_over, size - handed_over)
            handed_over = size
    return size, crc


def _start_writeback(handle: int, start: int, count: int) -> None:
    """Ask the kernel to begin writing what it buffers: Linux does so on this advice, others may ignore it."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(handle, start, count, os.POSIX_FADV_DONTNEED)


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Append lines and sync them once. A line cut short by a crash is closed first, so it damages no other."""
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        created = not path.exists()
        with path.open("ab+") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write("".join(f"{line}\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())
        if created:
            sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make a directory's entries durable (a renamed or new file is not, until its directory is synced)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(path: Path) -> None:
    """Sync every file and directory below a path."""
    for folder, _, names in os.walk(path):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                os.fsync(file.fileno())
        sync_directory(Path(folder))


def crc32_of_file(path: Path) -> int:
    """CRC-32 of a whole file, read in blocks."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(_CRC_BLOCK):
            crc = zlib.crc32(block, crc)
    return crc


@contextlib.contextmanager
def explained(path: object) -> Iterator[None]:
    """Turn an OSError of the block into a WorkError that says what failed, where, and the way out."""
    try:
        yield
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0, "unknown")
        reason = os.strerror(error.errno) if error.errno else str(error)
        way_out = _WAYS_OUT.get(error.errno or 0, "See to the file system")
        raise WorkError(
            f"cannot write {path}: {reason} ({code}). Nothing partial was kept. "
            f"{way_out}, then run the same command again: it continues from here."
        ) from error
