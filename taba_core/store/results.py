"""Results of studies: small xarray datasets, each a group of the store, replaced as a whole."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taba_core.errors import StoreError, UsageError
from taba_core.spec import SCHEMA_VERSION
from taba_core.store.files import (
    LEDGER_DIRECTORY,
    PARTIAL_SUFFIX,
    explained,
    read_json,
    sync_directory,
    sync_tree,
)

if TYPE_CHECKING:
    import xarray as xr

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_RESERVED = ("report",)


def write_result(store: Path, name: str, dataset: xr.Dataset, attrs: Mapping[str, Any]) -> None:
    """Write a dataset as group `name` with attributes `attrs` and kind "result".

    It is written to a directory aside, synced and renamed, so a reader sees the old result or the new one.

    Raises:
      UsageError: a name that is no group name, or is that of an artifact. WorkError: the file system refused.
    """
    target = store / name
    _check_name(target)
    marks = {
        "kind": "result",
        "schema_version": SCHEMA_VERSION,
        "variables": [str(n) for n in dataset.data_vars],
    }
    marked = dataset.assign_attrs({**attrs, **marks})
    folder = store / LEDGER_DIRECTORY
    aside = folder / f"{name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}"
    with explained(target):
        for left in folder.glob(f"{name}.*{PARTIAL_SUFFIX}"):  # of a writer that was killed
            shutil.rmtree(left, ignore_errors=True)
        try:
            aside.mkdir(parents=True)
            _to_zarr(marked, aside / "new")
            sync_tree(aside / "new")
            if target.exists():
                target.rename(aside / "old")
            (aside / "new").rename(target)
            sync_directory(store)
        finally:
            if (aside / "old").exists() and not target.exists():
                (aside / "old").rename(target)
            shutil.rmtree(aside, ignore_errors=True)


def read_result(store: Path, name: str) -> xr.Dataset | None:
    """A result, loaded into memory, or None.

    Raises:
      StoreError: the group of that name is no result, or its files are damaged.
    """
    path = store / name
    if not (path / "zarr.json").exists():
        return None
    kind = read_json(path / "zarr.json").get("attributes", {}).get("kind")
    if kind != "result":
        raise StoreError(f"{path} is no result but '{kind}'; results() lists the names of results.")
    import xarray as xr

    try:
        with xr.open_zarr(str(path), consolidated=False, chunks=None) as dataset:
            text = _text_as(dataset.load(), "T", str)
    except (
        RuntimeError,
        ValueError,
        KeyError,
        OSError,
    ) as error:  # what codecs and readers raise for damaged files
        raise StoreError(
            f"result {path} is damaged ({str(error).splitlines()[0]}). Run its study again: it is analysed anew."
        ) from error
    # A directory has no order of its own; tables and figures follow the order the study gave.
    return text[text.attrs.pop("variables")]


def _to_zarr(dataset: xr.Dataset, path: Path) -> None:
    # Fixed-length text has no Zarr v3 specification; text of any length has one.
    stored = _text_as(dataset.drop_encoding(), "U", object)
    stored.to_zarr(str(path), mode="w-", zarr_format=3, consolidated=False)


def _text_as(dataset: xr.Dataset, kind: str, dtype: Any) -> xr.Dataset:
    text = {
        name: array.astype(object).astype(dtype)
        for name, array in dataset.variables.items()
        if array.dtype.kind == kind
    }
    coords = {name: array for name, array in text.items() if name in dataset.coords}
    return dataset.assign({n: a for n, a in text.items() if n not in coords}).assign_coords(coords)


def _check_name(target: Path) -> None:
    if not _NAME.fullmatch(target.name) or target.name in _RESERVED:
        raise UsageError(
            f"result name '{target.name}': lower-case letters, digits, '.', '_', '-' (not 'report')."
        )
    meta = target / "zarr.json"
    if meta.exists() and read_json(meta).get("attributes", {}).get("kind") != "result":
        raise UsageError(
            f"result name '{target.name}' is that of an artifact in the store; give it another name."
        )
