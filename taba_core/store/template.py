"""The template of an artifact: its group, coordinates and empty arrays, made or checked before any work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taba_core.errors import StoreError, UsageError
from taba_core.schema import Layout, num_steps, variable_of, variables_of
from taba_core.spec import SCHEMA_VERSION, Artifact, from_attrs
from taba_core.store.files import LEDGER_DIRECTORY, explained, read_json, sync_tree, write_json
from taba_core.store.group import ArtifactGroup
from taba_core.store.shards import ShardedArray

COORDINATE_ATTRS: dict[str, dict[str, Any]] = {
    "sample": {"long_name": "sample id", "units": "1"},
    "step": {"long_name": "noise level, ascending; T is the noise", "units": "1"},
    "timestep": {"long_name": "training timestep of the level", "units": "1"},
    "alpha_bar": {"long_name": "cumulative signal power of the level", "units": "1"},
}


def write_group(path: Path, attrs: Mapping[str, Any]) -> None:
    """Write the metadata of a Zarr v3 group (`path` is its zarr.json)."""
    write_json(path, {"zarr_format": 3, "node_type": "group", "attributes": dict(attrs)})


def ensure_group(group: ArtifactGroup, coords: Mapping[str, NDArray[Any]]) -> None:
    """Make the group and its coordinates where missing, and check what exists.

    Raises:
      StoreError: made by another spec, or other coordinates. WorkError: the file system refused.
    """
    meta = group.path / "zarr.json"
    names = set(coords)
    if meta.exists():
        check_spec(group)
        held = read_json(meta)["attributes"]
        names |= set(str(held.get("coordinates", "")).split())
    else:
        held = None
        with explained(group.path):
            group.path.mkdir(exist_ok=True)
            (group.store / LEDGER_DIRECTORY).mkdir(exist_ok=True)
    attrs = group_attrs(group.artifact, names)
    if held is None or held.get("coordinates") != attrs.get("coordinates"):
        write_group(meta, (held or attrs) | {k: v for k, v in attrs.items() if k == "coordinates"})
    for name, values in coords.items():
        _ensure_coordinate(group, name, values)


def group_attrs(artifact: Artifact, coords: Iterable[str]) -> dict[str, Any]:
    """Attributes of a group: version, kind, key, whole spec, and the spec's fields once more on top.

    Fields of the sources follow the artifact's own, so `attrs["seed"]` is there for every kind; where
    both have a field of one name, the artifact's own is on top and the source's is in `spec`.
    """
    attrs = artifact.attrs() | {"model": artifact.root().model.name}
    level: dict[str, Any] | None = attrs["spec"]
    while level is not None:
        for name, value in level.items():
            if name not in ("model", "source") and (name not in attrs):
                attrs[name] = value
        level = level.get("source")
    if artifact.sources():
        attrs["source"] = artifact.sources()[0].name
    extra = sorted(set(coords) - {"sample", "step"})
    if extra:
        attrs["coordinates"] = " ".join(extra)  # so that xarray reads them as coordinates
    return attrs


def artifact_of(directory: Path, attrs: dict[str, Any]) -> Artifact:
    """The artifact a group's attributes describe.

    Raises:
      StoreError: attributes this version cannot read.
    """
    try:
        return from_attrs(attrs)
    except (KeyError, ValueError) as error:
        raise StoreError(
            f"group {directory} has a spec this taba cannot read: {error} "
            "Use the taba that made it, or remove the group."
        ) from None


def check_spec(group: ArtifactGroup) -> None:
    """Check that the group on disk was made by the artifact's own spec.

    Raises:
      StoreError: by another one, or by another schema version.
    """
    attrs = read_json(group.path / "zarr.json").get("attributes", {})
    found, wanted = attrs.get("schema_version"), SCHEMA_VERSION
    if found != wanted:
        raise StoreError(
            f"group {group.path} has schema version {found}, this taba reads version {wanted}. "
            "Use the taba that made it, or remove the group."
        )
    made = artifact_of(group.path, attrs)
    # Compared by what can change a value: where weights lay when it was made may differ.
    if made.kind != group.artifact.kind or made.canonical() != group.artifact.canonical():
        raise StoreError(
            f"group {group.path} was made by another spec ({made.name}); its values are not those of "
            "this artifact. Remove the group or use another --store."
        )


def ensure_array(group: ArtifactGroup, name: str, wanted: Layout) -> None:
    """Make a variable's array if missing, and check its shape, shards and type if it exists.

    Raises:
      StoreError: they differ. WorkError: the file system refused.
    """
    array = ShardedArray(group.path / name, variable_of(group.artifact.kind, name), wanted)
    if not (array.path / "zarr.json").exists():
        with explained(array.path):
            array.create()
            sync_tree(array.path)
        return
    found = group.array(name).layout
    if found != wanted:
        raise StoreError(
            f"{array.path} holds {found.dtype} {found.shape} in shards of {found.shard}, but {wanted.dtype} "
            f"{wanted.shape} in shards of {wanted.shard} is asked. Remove the group or use another --store."
        )


def coordinates(artifact: Artifact, coords: Mapping[str, NDArray[Any]] | None) -> dict[str, NDArray[Any]]:
    """All coordinates of an artifact: sample ids, steps 1..T, and those the caller gives per step.

    Raises:
      UsageError: an unknown coordinate, or one that is not (T,).
    """
    values: dict[str, NDArray[Any]] = {"sample": np.arange(artifact.root().num_samples, dtype=np.int64)}
    steps = num_steps(artifact)
    if coords or any(v.per_step for v in variables_of(artifact.kind).values()):
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


def _ensure_coordinate(group: ArtifactGroup, name: str, values: NDArray[Any]) -> None:
    import zarr

    path = group.path / name
    if (path / "zarr.json").exists() and any(path.glob("c.*")):
        try:
            stored = zarr.open_array(str(path), mode="r")[...]
        except (RuntimeError, ValueError, OSError):
            stored = None  # damaged: written again below, its values follow from the spec
        if stored is not None and not np.array_equal(stored, values):
            raise StoreError(
                f"coordinate {path} differs from the values of this run: the artifact was made by another "
                "version of the model or its schedule. Remove the group or use another --store."
            )
        if stored is not None:
            return
    with explained(path):
        zarr.create_array(
            str(path),
            data=values,
            chunks=values.shape,
            compressors=None,
            chunk_key_encoding={"name": "default", "separator": "."},
            dimension_names=["sample" if name == "sample" else "step"],
            attributes=COORDINATE_ATTRS[name],
            config={"write_empty_chunks": True},
            overwrite=True,
        )
        sync_tree(path)
