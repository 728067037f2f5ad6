"""The template of an artifact: its group, coordinates and empty arrays, made or checked before any work."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taba_core.artifacts.base import SCHEMA_VERSION, Artifact, from_attrs
from taba_core.artifacts.layout import Extent, Layout
from taba_core.errors import StoreError, UsageError
from taba_core.store.files import LEDGER_DIRECTORY
from taba_core.store.group import ArtifactGroup
from taba_core.store.place import Place, json_bytes, read_json
from taba_core.store.shards import META, SAMPLES_ASKED, ShardedArray

FILE_CRC = "file_crc32"  # attribute: CRC-32 of files that have no receipt
_ONE_CHUNK = "c.0"  # the file of a coordinate's values, which is not compressed

COORDINATE_ATTRS: dict[str, dict[str, Any]] = {
    "sample": {"long_name": "sample id", "units": "1"},
    "step": {"long_name": "noise level, ascending; T is the noise", "units": "1"},
    "timestep": {"long_name": "training timestep of the level", "units": "1"},
    "alpha_bar": {"long_name": "cumulative signal power of the level", "units": "1"},
}


def write_group(place: Place, attrs: Mapping[str, Any]) -> None:
    """Write the metadata of a Zarr v3 group."""
    meta = {"zarr_format": 3, "node_type": "group", "attributes": dict(attrs)}
    (place / META).write_atomic(json_bytes(meta))


def mark_as_no_data(place: Place) -> None:
    """Let Zarr readers pass a folder of the store that holds no data (ledger, report) without a warning.

    They warn about every folder that is no node, and look into those that are groups. An array is a node they do
    not look into: so the folder says that it is one, a scalar without a value.
    """
    meta = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": []}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 0,
        "codecs": [{"name": "bytes"}],
        "attributes": {"long_name": f"no data: the folder of the store's {place.name.strip('_')}"},
    }
    place.make()
    if not (place / META).exists():
        (place / META).write_atomic(json_bytes(meta))


def ensure_group(
    group: ArtifactGroup, extent: Extent, coords: Mapping[str, NDArray[Any]], samples_asked: int | None = None
) -> None:
    """Make the group and its coordinates where missing, check what exists, and let it grow to the extent.

    Args:
      samples_asked: how many first samples studies ask; None = all there is room for. The largest number stays.
    Raises:
      StoreError: made by another spec, or other coordinates. WorkError: the file system refused.
    """
    meta = group.place / META
    names = set(coords)
    if meta.exists():
        check_spec(group)
        held = read_json(meta)["attributes"]
        names |= set(str(held.get("coordinates", "")).split())
    else:
        held = None
        group.place.make()
        (group.store / LEDGER_DIRECTORY).make()
    attrs = group_attrs(group.artifact, extent, names)
    asked = extent.num_samples if samples_asked is None else samples_asked
    attrs[SAMPLES_ASKED] = max(asked, int((held or {}).get(SAMPLES_ASKED, 0)))
    changing = ("coordinates", "num_samples", SAMPLES_ASKED)
    if held is not None and held.get("num_samples") != extent.num_samples:
        _grow(group, extent)  # before the group says so: what dies in between is done again
    if held is None or any(held.get(name) != attrs.get(name) for name in changing):
        write_group(group.place, (held or attrs) | {k: v for k, v in attrs.items() if k in changing})
    for name, values in coords.items():
        _ensure_coordinate(group, name, values)


def group_attrs(artifact: Artifact, extent: Extent, coords: Iterable[str]) -> dict[str, Any]:
    """Attributes of a group: version, kind, key, whole spec, and the spec's fields once more on top.

    The number of samples and of samples in a shard are there too; they are of the group, not of the spec.
    Fields of the sources follow the artifact's own, so `attrs["seed"]` is there for every kind; where
    both have a field of one name, the artifact's own is on top and the source's is in `spec`.
    """
    attrs = artifact.attrs() | {
        "model": artifact.samples.model.name,
        "num_samples": extent.num_samples,
        "samples_per_shard": extent.samples_per_shard,
    }
    level: dict[str, Any] | None = attrs["spec"]
    while level is not None:
        for name, value in level.items():
            if name not in ("model", "source", "network") and (name not in attrs):
                attrs[name] = value
        level = level.get("source")
    if artifact.predictor != artifact.samples.model:
        attrs["network"] = artifact.predictor.name
    if artifact.sources():
        attrs["source"] = artifact.sources()[0].name
    extra = sorted(set(coords) - {"sample", "step"})
    if extra:
        attrs["coordinates"] = " ".join(extra)  # so that xarray reads them as coordinates
    return attrs


def artifact_of(place: Place, attrs: dict[str, Any]) -> Artifact:
    """The artifact a group's attributes describe.

    Raises:
      StoreError: attributes this version cannot read.
    """
    try:
        return from_attrs(attrs)
    except (KeyError, ValueError) as error:
        raise StoreError(
            f"group {place} has a spec this taba cannot read: {error} "
            "Use the taba that made it, or remove the group."
        ) from None


def check_spec(group: ArtifactGroup) -> None:
    """Check that the group on disk was made by the artifact's own spec.

    Raises:
      StoreError: by another one, or by another schema version.
    """
    attrs = read_json(group.place / META).get("attributes", {})
    found, wanted = attrs.get("schema_version"), SCHEMA_VERSION
    if found != wanted:
        raise StoreError(
            f"group {group.place} has schema version {found}, this taba reads version {wanted}. "
            "Use the taba that made it, or remove the group."
        )
    made = artifact_of(group.place, attrs)
    # Compared by what can change a value: where weights lay when it was made may differ.
    if made.kind != group.artifact.kind or made.canonical() != group.artifact.canonical():
        raise StoreError(
            f"group {group.place} was made by another spec ({made.name}); its values are not those of "
            "this artifact. Remove the group or use another --store."
        )


def ensure_array(group: ArtifactGroup, name: str, wanted: Layout, samples: int | None = None) -> None:
    """Make a variable's array if missing, and check its shape, shards and type if it exists.

    Args:
      samples: how many first samples are asked; None = all. An array of which more were asked stays so.
    Raises:
      StoreError: they differ. WorkError: the file system refused.
    """
    array = ShardedArray(group.place / name, group.artifact.variable(name), wanted, samples)
    if not (array.place / META).exists():
        array.place.make()
        array.create()
        return
    held = group.array(name)
    found = held.layout
    if found != wanted:
        raise StoreError(
            f"{array.place} holds {found.dtype} {found.shape} in shards of {found.shard}, but {wanted.dtype} "
            f"{wanted.shape} in shards of {wanted.shard} is asked. Remove the group or use another --store."
        )
    held.ask(samples)


def coordinates(
    artifact: Artifact, extent: Extent, coords: Mapping[str, NDArray[Any]] | None
) -> dict[str, NDArray[Any]]:
    """All coordinates of an artifact: sample ids, steps 1..T, and those the caller gives per step.

    Raises:
      UsageError: an unknown coordinate, or one that is not (T,).
    """
    values: dict[str, NDArray[Any]] = {"sample": np.arange(extent.num_samples, dtype=np.int64)}
    steps = artifact.num_steps
    if coords or any(v.per_step for v in artifact.variables().values()):
        values["step"] = np.arange(1, steps + 1, dtype=np.int64)
    for name, given in (coords or {}).items():
        array = np.asarray(given)
        if name in ("sample", "step") or name not in COORDINATE_ATTRS:
            raise UsageError(f"coordinate '{name}': those that can be given are timestep and alpha_bar.")
        if array.shape != (steps,):
            raise UsageError(
                f"coordinate '{name}' has shape {array.shape}, but there are {steps} steps: ({steps},)."
            )
        values[name] = array
    return values


def read_coordinate(place: Place) -> NDArray[Any] | None:
    """A stored coordinate; None if it is missing or damaged. (Zarr reads a missing chunk as zeros.)"""
    import zarr

    try:
        recorded = read_json(place / META).get("attributes", {}).get(FILE_CRC)
        chunk = next((name for name in place.sizes() if name.startswith("c.")), None)
        if chunk is None or (recorded is not None and (place / chunk).crc32() != recorded):
            return None
        return np.asarray(zarr.open_array(place.zarr_store(), mode="r")[...])
    except (RuntimeError, ValueError, KeyError, OSError):  # what codecs and readers raise for damaged files
        return None


def _grow(group: ArtifactGroup, extent: Extent) -> None:
    """Give every array and the sample ids of a group room for more samples; what is stored stays as it is.

    Raises:
      StoreError: the group has shards of another size, or more samples than that.
    """
    held = group.extent
    if held.samples_per_shard != extent.samples_per_shard or held.num_samples > extent.num_samples:
        raise StoreError(
            f"group {group.place} holds {held.num_samples} samples in shards of {held.samples_per_shard}; it cannot "
            f"become {extent.num_samples} in shards of {extent.samples_per_shard}. Use another --store."
        )
    for name in group.variables:
        group.array(name).grow(extent.num_samples)
    _write_coordinate(group.place / "sample", "sample", np.arange(extent.num_samples, dtype=np.int64))


def _ensure_coordinate(group: ArtifactGroup, name: str, values: NDArray[Any]) -> None:
    place = group.place / name
    if _holds(place, values):
        return
    stored = read_coordinate(place) if (place / META).exists() else None
    if stored is None:  # missing or damaged: its values follow from the spec
        _write_coordinate(place, name, values)
    elif not np.array_equal(stored, values):
        raise StoreError(
            f"coordinate {place} differs from the values of this run: the artifact was made by another "
            "version of the model or its schedule. Remove the group or use another --store."
        )


def _holds(place: Place, values: NDArray[Any]) -> bool:
    """Whether a coordinate is stored as `_write_coordinate` writes these values, without decoding it."""
    try:
        recorded = read_json(place / META).get("attributes", {}).get(FILE_CRC)
        return recorded == zlib.crc32(_stored_bytes(values)) == (place / _ONE_CHUNK).crc32()
    except (OSError, StoreError):
        return False


def _stored_bytes(values: NDArray[Any]) -> bytes:
    return values.astype(values.dtype.newbyteorder("<")).tobytes()


def _write_coordinate(place: Place, name: str, values: NDArray[Any]) -> None:
    import zarr
    from zarr.storage import MemoryStore

    held: dict[str, Any] = {}
    crc = zlib.crc32(_stored_bytes(values))
    zarr.create_array(
        MemoryStore(store_dict=held),
        data=values,
        chunks=values.shape,
        compressors=None,
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=["sample" if name == "sample" else "step"],
        attributes={**COORDINATE_ATTRS[name], FILE_CRC: crc},
        config={"write_empty_chunks": True},
    )
    place.make()
    for key in sorted(held, key=META.__eq__):  # the metadata last: with it the coordinate is there
        (place / key).write_atomic(held[key].to_bytes())
