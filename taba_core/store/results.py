"""Results of studies: small xarray datasets, each a group of the store, replaced as a whole."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from taba_core.artifacts.base import SCHEMA_VERSION
from taba_core.errors import StoreError, UsageError
from taba_core.store.files import LEDGER_DIRECTORY, explained
from taba_core.store.place import Place, json_bytes, parse_json, read_json
from taba_core.store.shards import META

if TYPE_CHECKING:
    import xarray as xr

FILES_CRC = "files_crc32"  # attribute: CRC-32 of every other file of the result, by path
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_RESERVED = ("report",)
_DAMAGED = (RuntimeError, ValueError, KeyError, OSError)  # what codecs and readers raise for damaged files


def write_result(store: Place, name: str, dataset: xr.Dataset, attrs: Mapping[str, Any]) -> None:
    """Write a dataset as group `name` with attributes `attrs` and kind "result".

    It is replaced as a whole (`Place.replace_tree`), with the checksums of its files among its attributes.

    Raises:
      UsageError: a name that is no group name, or is that of an artifact. WorkError: the storage refused.
    """
    target = store / name
    _check_name(target)
    marks = {
        "kind": "result",
        "schema_version": SCHEMA_VERSION,
        "variables": [str(n) for n in dataset.data_vars],
    }
    with explained(target):
        files = encoded(dataset.assign_attrs({**attrs, **marks}))
    meta = parse_json(files[META], target / META)
    meta["attributes"][FILES_CRC] = {name: zlib.crc32(data) for name, data in files.items() if name != META}
    (store / LEDGER_DIRECTORY).make()
    target.replace_tree({**files, META: json_bytes(meta)}, aside=store / LEDGER_DIRECTORY)


def read_result(store: Place, name: str) -> xr.Dataset | None:
    """A result, loaded into memory, or None.

    Raises:
      StoreError: the group of that name is no result, or its files are damaged.
    """
    place = store / name
    if not (place / META).exists():
        return None
    kind = read_json(place / META).get("attributes", {}).get("kind")
    if kind != "result":
        raise StoreError(f"{place} is no result but '{kind}'; results() lists the names of results.")
    import xarray as xr

    try:
        with xr.open_zarr(place.zarr_store(), consolidated=False, chunks=None) as dataset:
            text = _text_as(dataset.load(), "T", str)
    except _DAMAGED as error:
        raise StoreError(
            f"result {place} is damaged ({str(error).splitlines()[0]}). Run its study again: it is analysed anew."
        ) from error
    text.attrs.pop(FILES_CRC, None)
    # A directory has no order of its own; tables and figures follow the order the study gave.
    return text[text.attrs.pop("variables")]


def is_whole(store: Place, name: str) -> bool:
    """Whether a result is there and its files are as they were written, by their checksums; nothing is decoded."""
    place = store / name
    try:
        attrs = read_json(place / META).get("attributes", {})
    except (FileNotFoundError, StoreError):
        return False
    recorded = attrs.get(FILES_CRC)
    if (
        attrs.get("kind") != "result" or recorded is None
    ):  # a version that kept no checksums: what can be read is whole
        try:
            return read_result(store, name) is not None
        except StoreError:
            return False
    held = place.read_existing(recorded)
    return all(file in held and zlib.crc32(held[file]) == crc for file, crc in recorded.items())


def damage_of(store: Place, name: str) -> list[tuple[Place, str]]:
    """Files of a result that are missing, changed or not of taba's making, each with what is wrong."""
    place = store / name
    recorded = read_json(place / META).get("attributes", {}).get(FILES_CRC)
    if recorded is None:  # of a version that kept no checksums: what can be read is taken as it is
        try:
            read_result(store, name)
        except StoreError as error:
            return [(place, str(error))]
        return []
    held = place.read_existing(recorded)
    found: list[tuple[Place, str]] = []
    for file, crc in recorded.items():
        if file not in held:
            found.append((place / file, f"{file} is missing"))
        elif zlib.crc32(held[file]) != crc:
            found.append((place / file, f"{file} has CRC-32 {zlib.crc32(held[file]):08x}, not {crc:08x}"))
    unknown = place.walk().keys() - recorded.keys() - {META}
    return found + [(place / file, f"{file} is not of taba's making") for file in sorted(unknown)]


def encoded(dataset: xr.Dataset) -> dict[str, bytes]:
    """The files of a dataset as a Zarr v3 group, by path."""
    from zarr.storage import MemoryStore

    held: dict[str, Any] = {}
    # Fixed-length text has no Zarr v3 specification; text of any length has one.
    stored = _text_as(dataset.drop_encoding(), "U", object)
    stored.to_zarr(MemoryStore(store_dict=held), mode="w-", zarr_format=3, consolidated=False)
    return {key: held[key].to_bytes() for key in sorted(held)}


def _text_as(dataset: xr.Dataset, kind: str, dtype: Any) -> xr.Dataset:
    text = {
        name: array.astype(object).astype(dtype)
        for name, array in dataset.variables.items()
        if array.dtype.kind == kind
    }
    coords = {name: array for name, array in text.items() if name in dataset.coords}
    return dataset.assign({n: a for n, a in text.items() if n not in coords}).assign_coords(coords)


def _check_name(target: Place) -> None:
    if not _NAME.fullmatch(target.name) or target.name in _RESERVED:
        raise UsageError(
            f"result name '{target.name}': lower-case letters, digits, '.', '_', '-' (not 'report')."
        )
    meta = target / META
    if meta.exists() and read_json(meta).get("attributes", {}).get("kind") != "result":
        raise UsageError(
            f"result name '{target.name}' is that of an artifact in the store; give it another name."
        )
