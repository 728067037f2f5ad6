"""What a file really is, by its first bytes: under a weight file's name often lies something else. No torch."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from taba_core.errors import UsageError

Format = Literal["safetensors", "torch-zip", "torch-legacy", "other"]

_LFS_POINTER = re.compile(rb"version https://git-lfs[^\n]*\n(?:.*\n)*?size (\d+)")
_TORCH_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # torch's magic number, pickled
TEXT = "a text file"
UNKNOWN = "of no kind that is known here, or incomplete"
_AGAIN = "Download the file again"
_OTHER_FORMAT = "Convert it, or download the file in PyTorch's or the safetensors format"
_UNPACK = "Unpack it, and give what is inside"
# First bytes -> what the file is, and the way out.
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as TensorFlow and Keras save weights", _OTHER_FORMAT),
    (b"GGUF", "a GGUF file, which holds quantised weights", _OTHER_FORMAT),
    (b"\x93NUMPY", "a NumPy array", _OTHER_FORMAT),
    (b"\x89PNG", "a PNG picture", _AGAIN),
    (b"\xff\xd8\xff", "a JPEG picture", _AGAIN),
    (b"GIF8", "a GIF picture", _AGAIN),
    (b"%PDF", "a PDF document", _AGAIN),
    (b"PAR1", "a Parquet table", _AGAIN),
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"\xfd7zXZ", "an xz archive", _UNPACK),
    (b"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", _UNPACK),
)
_HEAD = 4096


@dataclass(frozen=True)
class FileKind:
    """What a file is.

    Attributes:
      format: a format that weights are kept in, or "other".
      text: the kind in words, with its article.
      remedy: what to do where weights were expected, a sentence without its full stop.
    """

    format: Format
    text: str
    remedy: str = _AGAIN


def kind_of(path: Path) -> FileKind:
    """The kind of a file, from its beginning.

    Raises:
      UsageError: there is no file that can be read: nothing, a folder, a broken link, no permission.
    """
    head = read_head(path)
    if not head:
        return FileKind("other", "an empty file")
    if pointer := _LFS_POINTER.match(head):
        size = int(pointer[1])
        return FileKind(
            "other",
            f"a Git LFS pointer: {path.stat().st_size} bytes that stand for a file of {size / 1e6:.4g} MB",
            "Run `git lfs pull` in the repository it was cloned with, or download the file itself",
        )
    if len(head) > 8 and int.from_bytes(head[:8], "little") < 1 << 40 and head[8:9] == b"{":
        return FileKind("safetensors", "a safetensors file")
    if head.startswith(_TORCH_LEGACY):
        return FileKind("torch-legacy", "a PyTorch file of the old format")
    if head.startswith(b"PK\x03\x04"):
        return FileKind("torch-zip", "a PyTorch file")
    for magic, text, remedy in _MAGIC:
        if head.startswith(magic):
            return FileKind("other", text, remedy)
    if head[257:262] == b"ustar":
        return FileKind("other", "a tar archive", _UNPACK)
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return FileKind("other", "a Python pickle that PyTorch did not write, or an incomplete one")
    return _text_or_unknown(head)


def _text_or_unknown(head: bytes) -> FileKind:
    if not head.strip(b"\0"):
        return FileKind("other", "a file that begins with zeros only, as an interrupted download leaves it")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if re.match(rb"<(!doctype|html|head|body)", text, re.IGNORECASE):
        remedy = "Download the file itself, signed in where its site asks for it"
        return FileKind("other", "a web page, which was saved under this name", remedy)
    if text.startswith(b"<?xml"):
        return FileKind("other", "an XML document, perhaps the error message of a server")
    if text[:1] in (b"{", b"["):
        return FileKind("other", "JSON text, perhaps the error message of a server")
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        return FileKind("other", TEXT)
    return FileKind("other", UNKNOWN)


def read_head(path: Path, count: int = _HEAD) -> bytes:
    """The first bytes of a file.

    Raises:
      UsageError: there is no file that can be read; the message says why and what to do.
    """
    if path.is_symlink() and not path.exists():
        raise UsageError(
            f"{path} is a link to {os.readlink(path)}, where nothing is. Put the file there, or replace the link by it."
        )
    if path.is_dir():
        raise UsageError(f"{path} is a folder, and a file is needed there. Give the file itself.")
    try:
        with path.open("rb") as file:
            return file.read(count)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file. {_AGAIN}, or correct the path.") from None
    except PermissionError:
        raise UsageError(
            f"{path} cannot be read: permission denied. Give yourself permission (chmod u+r), or use a copy."
        ) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}. Check the disk, or use a copy.") from None
