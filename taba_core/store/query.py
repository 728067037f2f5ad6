"""A store as one lazy xarray tree."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from taba_core.store.place import read_json
from taba_core.store.root import Store

if TYPE_CHECKING:
    import xarray as xr

STEPS_PER_BLOCK = 10


def open_store(path: str | os.PathLike[str], chunks: Mapping[str, int] | None = None) -> xr.DataTree:
    """Open a store: one node per artifact and per result, lazy (Dask), attributes = the whole spec.

    Values that were never written are NaN (`region`: 255, `class_id`: the smallest int32).

    Args:
      path: a directory, or a URL fsspec knows (s3://, gs://, https://, ...).
      chunks: Dask block sizes by dimension; default a shard's samples by 10 steps. (One block per stored
        chunk, what xarray does alone, is several times slower.)
    Raises:
      UsageError: there is no store. StoreError: it is of another version, or damaged.
    """
    import xarray as xr

    store = Store.open(path, mode="r")
    nodes: dict[str, xr.Dataset] = {}
    for group in store.artifacts():
        wanted = {
            "sample": group.artifact.root().samples_per_shard,
            "step": STEPS_PER_BLOCK,
            **(chunks or {}),
        }
        dataset = xr.open_zarr(group.place.zarr_store(), consolidated=False, chunks=None)
        nodes[group.name] = _lazy(dataset[list(group.variables)], wanted)
    for name in store.results():
        nodes[name] = xr.open_zarr((store.place / name).zarr_store(), consolidated=False, chunks={})
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=_root_attrs(store)), **nodes})


def _lazy(dataset: xr.Dataset, chunks: Mapping[str, int]) -> xr.Dataset:
    # Coordinates are small and used for selecting: they are read at once, the variables are not.
    blocks = {
        name: array.variable.chunk({dim: chunks[str(dim)] for dim in array.dims if dim in chunks})
        for name, array in dataset.data_vars.items()
    }
    return dataset.assign_coords({name: array.load() for name, array in dataset.coords.items()}).assign(
        blocks
    )


def _root_attrs(store: Store) -> dict[str, object]:
    return dict(read_json(store.place / "zarr.json")["attributes"])
