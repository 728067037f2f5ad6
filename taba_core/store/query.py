"""A store as one lazy xarray tree, and its nodes by what they are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from taba_core.errors import UsageError
from taba_core.store.place import read_json
from taba_core.store.root import Store
from taba_core.store.shards import SAMPLES_ASKED
from taba_core.store.trainings import trainings

if TYPE_CHECKING:
    import xarray as xr

STEPS_PER_BLOCK = 10


def open_store(
    path: str | os.PathLike[str], chunks: Mapping[str, int] | None = None, *, whole_shards: bool = False
) -> xr.DataTree:
    """Open a store: one node per artifact, training and result, lazy (Dask), attributes = the whole spec.

    A node has the samples that studies asked for (its attribute `samples_asked`: the largest n so far), so its
    statistics are those of the report. Values that were never written are NaN (`region`: 255, `class_id`: the
    smallest int32).

    Args:
      path: a directory, or a URL: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX.
      chunks: Dask block sizes by dimension; default a shard's samples by 10 steps. (One block per stored
        chunk, what xarray does alone, is several times slower.)
      whole_shards: show all samples that the shards hold; a study whose n ends inside a shard computes the whole one.
    Raises:
      UsageError: there is no store. StoreError: it is of another version, or damaged.

    >>> tree = taba_core.open_store("runs/demo")
    >>> tree.attrs["format"]
    'taba'
    """
    import xarray as xr

    store = Store.open(path, mode="r")
    nodes: dict[str, xr.Dataset] = {}
    for group in store.artifacts():
        wanted = {
            "sample": group.extent.samples_per_shard,
            "step": STEPS_PER_BLOCK,
            **(chunks or {}),
        }
        dataset = xr.open_zarr(group.place.zarr_store(), consolidated=False, chunks=None)
        if not whole_shards and "sample" in dataset.dims:
            dataset = dataset.isel(sample=slice(dataset.attrs.get(SAMPLES_ASKED)))
        nodes[group.name] = _lazy(dataset[list(group.variables)], wanted)
    for run in trainings(store):
        if run.complete:
            nodes[run.spec.name] = run.arrays()
    for name in store.results():
        nodes[name] = xr.open_zarr((store.place / name).zarr_store(), consolidated=False, chunks={})
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=_root_attrs(store)), **nodes})


def find(tree: xr.DataTree, **attrs: Any) -> xr.Dataset:
    """The one dataset of a tree whose attributes are these, such as `kind="inversion", forward_steps=0`.

    Raises:
      UsageError: none, or several; the message names them, and what tells them apart.

    >>> inversion = taba_core.find(taba_core.open_store("runs/demo"), kind="inversion", forward_steps=0)
    >>> inversion.latent.dims
    ('sample', 'channel', 'y', 'x')
    """
    nodes = {name: node for name, node in tree.children.items()}
    found = {n: node for n, node in nodes.items() if all(node.attrs.get(k) == v for k, v in attrs.items())}
    asked = ", ".join(f"{name}={value!r}" for name, value in attrs.items())
    if not found:
        raise UsageError(
            f"no dataset with {asked} in the store. It holds: {', '.join(sorted(nodes)) or 'none'}."
        )
    if len(found) > 1:
        keys = {str(k) for node in found.values() for k in node.attrs} - {"spec", *attrs}
        differ = [k for k in sorted(keys) if len({repr(node.attrs.get(k)) for node in found.values()}) > 1]
        raise UsageError(
            f"{len(found)} datasets with {asked}: {', '.join(sorted(found))}. Say one of: {', '.join(differ)}."
        )
    return next(iter(found.values())).to_dataset()


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
