"""One upright picture, saved in every mode, orientation and depth that files can have."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 70, 90

# Stored row and column order of an upright picture for each EXIF orientation: what a camera held in that way writes.
STORED = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: p.swapaxes(0, 1)[::-1],
    7: lambda p: p.swapaxes(0, 1)[::-1, ::-1],
    8: lambda p: p.swapaxes(0, 1)[:, ::-1],
}


def colours() -> np.ndarray:
    """An asymmetric picture of smooth ramps with a corner mark, uint8 (70, 90, 3)."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    picture = np.stack([255 * x / (WIDTH - 1), 255 * y / (HEIGHT - 1), 128 + 0 * x], axis=-1)
    picture[:10, :20] = (230, 20, 60)
    return picture.round().astype(np.uint8)


def greys() -> np.ndarray:
    """The same as three equal channels."""
    grey = np.asarray(Image.fromarray(colours()).convert("L"))
    return np.repeat(grey[..., None], 3, axis=-1)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[274] = orientation
    return tags


def write_png(path: Path, values: np.ndarray, *, kind: int, depth: int, chunks: bytes = b"") -> None:
    """A PNG file of any depth that Pillow cannot write: values (H, W, channels) of `depth` bits, 8 or 16."""
    rows = values.astype(">u2" if depth == 16 else np.uint8)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, kind, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunks
        + chunk(b"IDAT", zlib.compress(raw, 1))
        + chunk(b"IEND", b"")
    )


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def orientation_chunk(orientation: int) -> bytes:
    return chunk(b"eXIf", exif(orientation).tobytes().removeprefix(b"Exif\0\0"))
