"""The bytes of one shard file, exactly as zarr-python's sharding codec lays them out, made piece by piece.

Inner chunks one after the other (steps ascending), each followed by its crc32c; then the index: offset and
length of every chunk as little-endian uint64, and its crc32c. zarr-python builds the same bytes in several
copies; here each value is copied once, in pieces that stay in the processor's cache between the two checksums
and the write.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taba_core.artifacts.layout import CHUNK_CRC_BYTES, Layout
from taba_core.artifacts.variable import Variable

_PIECE_BYTES = 512 * 1024


def shard_pieces(block: NDArray[Any], layout: Layout, variable: Variable) -> Iterator[NDArray[np.uint8]]:
    """The bytes of a shard in order; a piece is overwritten when the next one is taken.

    Args:
      block: values of the shard, (samples, ...); fewer samples than a shard has room for are padded with the
        variable's fill value.
    """
    import google_crc32c

    dtype = np.dtype(layout.dtype).newbyteorder("<")
    chunks = math.prod(s // c for s, c in zip(layout.shard, layout.chunk, strict=True))
    chunk_bytes = math.prod(layout.chunk) * dtype.itemsize + CHUNK_CRC_BYTES
    rows = max(1, _PIECE_BYTES // max(1, math.prod(layout.chunk[1:]) * dtype.itemsize))
    room = np.empty((min(rows, layout.shard[0]), *layout.chunk[1:]), dtype)
    for chunk in range(chunks):
        # Only `step`, the second axis, is cut into chunks, one step each.
        values = block[:, chunk : chunk + 1] if chunks > 1 else block
        crc = 0
        for start in range(0, layout.shard[0], rows):
            piece = _filled(room, values[start : start + rows], layout.shard[0] - start, variable)
            crc = google_crc32c.extend(crc, piece)
            yield piece
        yield _little_endian([crc], "<u4")
    index = _little_endian([(i * chunk_bytes, chunk_bytes) for i in range(chunks)], "<u8")
    yield index
    yield _little_endian([google_crc32c.value(index)], "<u4")


def _filled(room: NDArray[Any], values: NDArray[Any], left: int, variable: Variable) -> NDArray[np.uint8]:
    """Values copied into `room` as bytes; rows the block does not have get the fill value."""
    piece = room[: min(len(room), left)]
    np.copyto(piece[: len(values)], values, casting="equiv")
    if len(values) < len(piece):
        piece[len(values) :] = np.nan if variable.fill == "NaN" else variable.fill
    return piece.reshape(-1).view(np.uint8)


def _little_endian(values: Any, dtype: str) -> NDArray[np.uint8]:
    return np.array(values, dtype).reshape(-1).view(np.uint8)
