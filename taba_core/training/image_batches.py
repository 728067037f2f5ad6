"""Batches of the downsampled ImageNet as arrays that are mapped from files, never held in memory whole.

A batch is published as an .npz file or as a pickle, and several of them as a zip archive of either; each holds `data`,
uint8 (n, 3 S S), and `labels`, 1 to 1000 (`mean` is not read). An .npz whose `data` is stored without compression is
mapped where it lies. Any other batch is converted once into an .npy file in the cache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from taba_core.cache import one_process_at_a_time
from taba_core.errors import UsageError, WorkError
from taba_core.training.checkpoint import write_whole
from taba_core.training.plain_pickle import load_plain

_LOCAL_HEADER = 30  # bytes of a zip archive's local header before the name
_READ_HEADER: dict[tuple[int, int], Callable[..., Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class ImageBatch(NamedTuple):
    """Images uint8 (n, 3, S, S), mapped from a file, and their classes int64 (n,) from 0."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class BatchFile:
    """Where a batch lies: a file, or a member of a zip archive."""

    path: Path
    member: str = ""

    @property
    def is_npz(self) -> bool:
        """Whether it is an .npz file; else it is a pickle."""
        return (self.member or self.path.name).endswith(".npz")

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Its bytes."""
        if not self.member:
            with self.path.open("rb") as file:
                yield file
            return
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
            yield file


class UnusableBatch(Exception):
    """Why a batch cannot be read, as a phrase."""


def find_batches(folder: Path, stems: list[str], archives: tuple[str, ...]) -> dict[str, BatchFile]:
    """Where batches lie, by name: files in a folder or one folder below it, else members of zip archives in it.

    Args:
      stems: names of batches; a file is STEM.npz or STEM.
      archives: names of zip archives, without `.zip`.
    Raises:
      UnusableBatch: a zip archive that is none, or incomplete.
    """
    found: dict[str, BatchFile] = {}
    names = {name: stem for stem in stems for name in (stem, f"{stem}.npz")}
    below = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    for place in (folder, *below):
        for name, stem in reversed(names.items()):  # an .npz file before a pickle
            if stem not in found and (place / name).is_file():
                found[stem] = BatchFile(place / name)
    for archive in (folder / f"{name}.zip" for name in archives):
        if archive.is_file() and any(stem not in found for stem in stems):
            for member in _members(archive):
                stem = names.get(Path(member).name, "")
                if stem and stem not in found:
                    found[stem] = BatchFile(archive, member)
    return found


def read_batch(file: BatchFile, side: int, cache: Path, say: Callable[[str], None]) -> ImageBatch:
    """A batch, its pixels mapped.

    Args:
      side: S, pixels of a side.
      cache: folder of converted batches.
      say: where a line about a conversion goes.
    Raises:
      UnusableBatch: a damaged file, or one of something else. UsageError: no room for the conversion.
      WorkError: the converted file cannot be written.
    """
    try:
        direct = _stored_in_place(file) if file.is_npz and not file.member else None
        if direct is None:
            pixels, labels = _converted(file, cache, say)
        else:
            pixels, labels = direct
    except UsageError:  # a ValueError as well
        raise
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError, KeyError, OSError, struct.error) as error:
        raise UnusableBatch(f"it is damaged or something else ({type(error).__name__}: {error})") from None
    return _checked(pixels, labels, side)


def _members(archive: Path) -> list[str]:
    try:
        with zipfile.ZipFile(archive) as opened:
            return opened.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise UnusableBatch(f"{archive.name} is no whole zip archive ({error})") from None


def _stored_in_place(file: BatchFile) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """(data, labels) of an .npz file, the data mapped; None if they are compressed."""
    with zipfile.ZipFile(file.path) as archive:
        entry = archive.getinfo("data.npy")
        if entry.compress_type != zipfile.ZIP_STORED:
            return None
        with archive.open("labels.npy") as stream:
            labels = np.lib.format.read_array(stream, allow_pickle=False)
    with file.path.open("rb") as raw:
        raw.seek(entry.header_offset)
        header = raw.read(_LOCAL_HEADER)
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        raw.seek(entry.header_offset + _LOCAL_HEADER + name_length + extra_length)
        version = np.lib.format.read_magic(raw)
        shape, fortran, dtype = _READ_HEADER[version](raw)
        if fortran or dtype.hasobject:
            return None
        return np.memmap(file.path, dtype, "r", raw.tell(), shape), labels


def _converted(file: BatchFile, cache: Path, say: Callable[[str], None]) -> tuple[NDArray[Any], NDArray[Any]]:
    """(data, labels) of files in the cache, the data mapped, which are written first if they are not there."""
    stem = cache / f"{Path(file.member or file.path.name).stem}-{_stamp(file)}"
    data, labels = stem.with_name(f"{stem.name}-data.npy"), stem.with_name(f"{stem.name}-labels.npy")
    with one_process_at_a_time(data):
        if not data.is_file():
            found = _whole(file)
            _room_for(found[0], cache)
            say(
                f"converting {file.member or file.path.name} once ({found[0].nbytes / 1e9:.2f} GB) into {cache}, from "
                "where its images are read without being held in memory"
            )
            _write(labels, found[1])
            _write(data, found[0])
    return np.load(data, mmap_mode="r", allow_pickle=False), np.load(labels, allow_pickle=False)


def _whole(file: BatchFile) -> tuple[NDArray[Any], NDArray[Any]]:
    with file.open() as stream:
        if not file.is_npz:
            held = load_plain(stream)
            return np.asarray(held["data"]), np.asarray(held["labels"])
        with np.load(stream, allow_pickle=False) as npz:
            return npz["data"], npz["labels"]


def _stamp(file: BatchFile) -> str:
    """16 hex digits that change with the file's place, size and time of change."""
    stat = file.path.stat()
    text = f"{file.path.resolve()}/{file.member}/{stat.st_size}/{stat.st_mtime_ns}"
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).hexdigest()


def _room_for(array: NDArray[Any], cache: Path) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache).free
    except OSError as error:
        raise WorkError(
            f"{cache} cannot be written ({error.strerror}). Set TABA_CACHE to a folder that can be."
        ) from None
    if free < array.nbytes:
        raise UsageError(
            f"{cache} has room for {free / 1e9:.2f} GB, and a batch takes {array.nbytes / 1e9:.2f} GB as it is read. "
            "Set TABA_CACHE to a folder with more room, or save the batches with numpy.savez, which does not compress."
        )


def _write(path: Path, array: NDArray[Any]) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            np.save(stream, array, allow_pickle=False)
            stream.flush()
            os.fsync(stream.fileno())

    write_whole(path, write)


def _checked(pixels: NDArray[Any], labels: NDArray[Any], side: int) -> ImageBatch:
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3 * side**2:
        raise UnusableBatch(
            f"its 'data' is {pixels.dtype} {pixels.shape}, and images of {side}x{side} pixels are uint8 "
            f"(n, {3 * side**2})"
        )
    if labels.shape != (len(pixels),) or not np.issubdtype(labels.dtype, np.integer):
        raise UnusableBatch(f"its 'labels' are {labels.dtype} {labels.shape}, and its images {len(pixels):,}")
    if len(labels) and not 1 <= labels.min() <= labels.max() <= 1000:
        raise UnusableBatch(
            f"its labels run from {labels.min()} to {labels.max()}, and classes from 1 to 1000"
        )
    return ImageBatch(pixels.reshape(-1, 3, side, side), labels.astype(np.int64) - 1)
