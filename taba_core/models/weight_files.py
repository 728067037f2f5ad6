"""Weight files examined by their headers, before they are loaded: whole, of the right kind, not quantised. No torch."""

from __future__ import annotations

import io
import json
import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any

from taba_core.errors import UsageError
from taba_core.models.file_kinds import kind_of

_FLOATS = {"F64", "F32", "F16", "BF16"}
_BUFFERS = {"I64", "I32", "BOOL"}  # positions, counters and masks that are saved beside the weights
_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "BOOL": 8}
_LARGEST_HEADER = 100_000_000  # the format's own limit
# What a file of tensors names: how tensors are rebuilt, their types, and plain containers.
_HARMLESS = re.compile(
    r"torch(\.(_utils|_tensor|serialization|storage|nn\.parameter|_C)\b.*|\.\w+)"
    r"|collections\.(OrderedDict|defaultdict|Counter)|_codecs\.encode|builtins\.(set|bytearray|complex)"
    r"|__builtin__\.(set|bytearray|complex)|numpy(\.\w+)*"
)
_STATE_DICT = "Give a plain state dict, as torch.save(model.state_dict(), path) writes it"
_QUANTISED = re.compile(r"torch\.(CharStorage|QInt8Storage|QUInt8Storage|QInt32Storage|float8_\w+)")


def check_weight_file(path: Path, expected: str | None = None) -> None:
    """Refuse what is no complete file of floating-point weights, as far as its header tells.

    Args:
      path: the file.
      expected: "safetensors" or "torch", what the reader of this file can read; None takes it from the suffix.
    Raises:
      UsageError: the message names the file, says what it is, and what to do.
    """
    expected = expected or ("safetensors" if path.suffix == ".safetensors" else "torch")
    kind = kind_of(path)
    wanted = {"safetensors": "a safetensors file", "torch": "a PyTorch file"}[expected]
    if kind.format == "other":
        raise UsageError(f"{path} is {kind.text}, not {wanted}. {kind.remedy}.")
    if (kind.format == "safetensors") != (expected == "safetensors"):
        raise UsageError(f"{path} is {kind.text}, not {wanted}. {_other_format(path, kind.format)}")
    if expected == "safetensors":
        safetensors_header(path)
    else:
        _check_torch(path, legacy=kind.format == "torch-legacy")


def safetensors_header(path: Path) -> dict[str, Any]:
    """Types, shapes and places of the tensors of a safetensors file, by name (8 bytes of length, then JSON).

    Raises:
      UsageError: no such file, a file that is incomplete or damaged, or quantised weights.
    """
    if kind_of(path).format != "safetensors":
        check_weight_file(path, "safetensors")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, _LARGEST_HEADER):
            raise _incomplete(path, f"its header has {length} bytes, and the file {size}")
        text = file.read(length)
    try:
        header = json.loads(text)
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
        types = {name: str(entry["dtype"]) for name, entry in tensors.items()}
        sizes = {name: _bytes_of(entry) for name, entry in tensors.items()}
        spans = {name: e["data_offsets"][1] - e["data_offsets"][0] for name, e in tensors.items()}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise _incomplete(path, "its header is damaged") from None
    for name, kind in types.items():
        if kind not in _FLOATS | _BUFFERS:
            raise _quantised(path, f"'{name}' is of type {kind}")
        if sizes[name] != spans[name]:
            raise _incomplete(path, f"the header contradicts itself about '{name}'")
    if 8 + length + end != size:
        raise _incomplete(path, f"it should have {8 + length + end} bytes and has {size}")
    return tensors


def refuse_code(path: Path, name: str) -> UsageError:
    """The error for a pickle that names something to be called, which weights never need."""
    return UsageError(
        f"weights '{path}' hold more than tensors ('{name}'), and loading that could run code; it was not "
        f"loaded. {_STATE_DICT}."
    )


def check_checksums(path: Path) -> None:
    """Compare the checksums that a PyTorch file holds of its parts; PyTorch itself does not. Reads the whole file.

    Raises:
      UsageError: a part is not what was written.
    """
    if kind_of(path).format != "torch-zip":
        return  # the old format holds none
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, EOFError):
        raise _incomplete(path, "its list of parts is damaged") from None
    if damaged is not None:
        raise _incomplete(path, f"the part '{damaged}' has another checksum than when it was written")


def _check_torch(path: Path, *, legacy: bool) -> None:
    if legacy:
        with path.open("rb") as file:
            for _ in range(5):  # magic number, protocol, machine, the objects, the names of their storages
                _check_pickle(path, file)
        return
    try:
        with zipfile.ZipFile(path) as archive:
            parts = {name.rpartition("/")[2]: name for name in archive.namelist()}
            content = archive.read(parts["data.pkl"]) if "data.pkl" in parts else b""
    except (zipfile.BadZipFile, OSError, ValueError, EOFError):
        raise _incomplete(path, "the list of its parts, which is at the end, is missing or damaged") from None
    if "constants.pkl" in parts:
        raise UsageError(f"{path} is a TorchScript program, not a file of weights. {_STATE_DICT}.")
    if not content:
        raise UsageError(f"{path} is a zip archive, not a PyTorch file. Unpack it, and give what is inside.")
    _check_pickle(path, io.BytesIO(content))


def _check_pickle(path: Path, file: Any) -> None:
    """Look through one pickle without running it."""
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name in ("SHORT_BINUNICODE", "BINUNICODE", "UNICODE", "BINUNICODE8"):
                strings.append(str(argument))
            name = ""
            if opcode.name in ("GLOBAL", "INST"):
                name = str(argument).replace(" ", ".")
            elif opcode.name == "STACK_GLOBAL":
                name = ".".join(strings[-2:])
            if name and not _HARMLESS.fullmatch(name):
                raise refuse_code(path, name)
            if _QUANTISED.fullmatch(name):
                raise _quantised(path, f"it holds a {name}")
    except UsageError:
        raise
    except Exception:  # the reader of pickles raises whatever foreign bytes lead it to
        raise _incomplete(path, "the description of its tensors breaks off or is damaged") from None


def _bytes_of(entry: dict[str, Any]) -> int:
    count = 1
    for side in entry["shape"]:
        count *= int(side)
    return count * _BITS.get(str(entry["dtype"]), 0) // 8


def _incomplete(path: Path, why: str) -> UsageError:
    return UsageError(f"{path} is incomplete or damaged: {why}. Download the file again.")


def _quantised(path: Path, why: str) -> UsageError:
    return UsageError(
        f"{path} holds quantised weights: {why}, and the numbers of floating-point weights are needed "
        f"({', '.join(sorted(_FLOATS))}). Download the file that is not quantised."
    )


def _other_format(path: Path, found: str) -> str:
    """The way out for a file of the other format than its name says; transformers names the two kinds differently."""
    name = path.name.removesuffix(path.suffix)
    if found != "safetensors":
        stem = re.sub(r"^model\b", "pytorch_model", name)
        return f"Rename it to {stem}.bin, or download the file again."
    if path.suffix == ".bin":
        stem = re.sub(r"^pytorch_model\b", "model", name)
        return f"Rename it to {stem}.safetensors, or download the file again."
    return (
        'Convert it: python -c "import torch, safetensors.torch; '
        f"torch.save(safetensors.torch.load_file('{path}'), '{path.with_name(name + '-converted.pt')}')\"."
    )
