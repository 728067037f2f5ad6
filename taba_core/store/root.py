"""The store as a whole: its root group, its artifacts, the results of studies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from taba_core.artifacts.base import SCHEMA_VERSION, Artifact, kinds
from taba_core.artifacts.layout import Extent, layout
from taba_core.artifacts.training import Training
from taba_core.errors import StoreError, UsageError
from taba_core.store import template
from taba_core.store.address import is_remote, place_of
from taba_core.store.files import LEDGER_DIRECTORY, PARTIAL_SUFFIX
from taba_core.store.group import ArtifactGroup
from taba_core.store.local_place import local_path
from taba_core.store.place import Place, parse_json, read_json
from taba_core.store.shards import META
from taba_core.version import __version__

if TYPE_CHECKING:
    import xarray as xr

FORMAT = "taba"


@dataclass(frozen=True)
class Store:
    """A directory or a prefix on object storage that is a Zarr v3 group: one group per artifact and per result."""

    place: Place
    mode: Literal["r", "a"]

    @property
    def url(self) -> str:
        """Path or URL: what another process opens."""
        return self.place.url

    @property
    def path(self) -> Path:
        """Directory of the store.

        Raises:
          UsageError: the store is remote.
        """
        return local_path(self.place)

    @classmethod
    def open(cls, path: str | os.PathLike[str], mode: Literal["r", "a"] = "r") -> Store:
        """Open a store; mode "a" makes it if there is none.

        Args:
          path: a directory, or a URL: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX.
        Raises:
          UsageError: a file, no store there ("r"), a directory that belongs to something else, a URL that cannot
          be used. StoreError: a store of another schema version. WorkError: not writable ("a").
        """
        root = place_of(path)
        root.check_kind(writing=mode == "a")
        if (root / META).exists():
            _check_root(root)
        elif mode == "r":
            raise UsageError(
                f"no store at {root}: there is no zarr.json. Check --store, or run a study to make it."
            )
        else:
            _create_root(root)
        if mode == "a":
            root.check_writable()
            template.mark_as_no_data(root / LEDGER_DIRECTORY)
        return cls(root, mode)

    @staticmethod
    def is_there(path: str | os.PathLike[str]) -> bool:
        """Whether `open` for reading has anything to open: a file, a directory that is not empty, or a remote root."""
        place = place_of(path)
        if is_remote(path) or not place.exists():
            return (place / META).exists()
        directory = local_path(place)
        return not directory.is_dir() or any(directory.iterdir())

    def ensure(
        self,
        artifact: Artifact,
        variables: Sequence[str],
        extent: Extent,
        sample_shape: Sequence[int],
        coords: Mapping[str, NDArray[Any]] | None = None,
        *,
        decoded_shape: Sequence[int] | None = None,
        first_shards: Mapping[str, int] = MappingProxyType({}),
        samples_asked: int | None = None,
    ) -> ArtifactGroup:
        """Make the artifact's group and arrays where missing, and check those that exist. Driver only.

        Args:
          variables: names of the artifact's kind; later calls may add others.
          extent: samples there must be room for; a group that has more keeps them. Shards are those of the group.
          sample_shape: (C, H, W) of a state.
          coords: per-step coordinates, each (T,), levels 1..T ascending: `timestep`, `alpha_bar`.
          decoded_shape: (3, height, width), needed for `decoded` only.
          first_shards: how many shards are asked of variables of which not all are; the rest reads as NaN.
          samples_asked: how many first samples studies ask, which `open_store` shows; None = all of `extent`.
        Raises:
          UsageError: read-only store, unknown variable or coordinate, wrong shapes.
          StoreError: the group there was made by another spec, or its arrays differ in shape or type.
          WorkError: the file system refused.
        """
        if self.mode == "r":
            raise UsageError(f"store {self.place} is open for reading only; open it with mode 'a'.")
        held = self.find(artifact)
        if held is not None and held.extent.num_samples > extent.num_samples:
            extent = Extent(held.extent.num_samples, extent.samples_per_shard)
        layouts = {name: layout(artifact, name, extent, sample_shape, decoded_shape) for name in variables}
        template.ensure_group(
            ArtifactGroup(self.place, artifact),
            extent,
            template.coordinates(artifact, extent, coords),
            samples_asked,
        )
        group = ArtifactGroup(self.place, artifact)
        for name, wanted in layouts.items():
            samples = wanted.samples(first_shards[name] - 1)[1] if name in first_shards else None
            template.ensure_array(group, name, wanted, samples)
        return group

    def open_artifact(self, artifact: Artifact) -> ArtifactGroup:
        """The group of an artifact that is in the store.

        Raises:
          UsageError: it is not. StoreError: the group of that name was made by another spec.
        """
        group = self.find(artifact)
        if group is None:
            known = ", ".join(g.name for g in self.artifacts()) or "none"
            raise UsageError(f"no artifact '{artifact.name}' in store {self.place}. It holds: {known}.")
        return group

    def find(self, artifact: Artifact) -> ArtifactGroup | None:
        """The group of an artifact, or None if it is not in the store.

        Raises:
          StoreError: the group of that name was made by another spec.
        """
        group = ArtifactGroup(self.place, artifact)
        if not (group.place / META).exists():
            return None
        template.check_spec(group)
        return group

    def artifacts(self) -> list[ArtifactGroup]:
        """All artifacts in the store, by name.

        Raises:
          StoreError: a group that cannot be understood.
        """
        groups, known = [], kinds()
        for place, attrs in self._groups():
            if attrs.get("kind") in known:
                group = ArtifactGroup(self.place, template.artifact_of(place, attrs))
                if group.place != place:
                    raise StoreError(
                        f"group {place} holds the artifact '{group.name}': it was renamed; undo that."
                    )
                groups.append(group)
        return groups

    def write_result(self, name: str, dataset: xr.Dataset, attrs: Mapping[str, Any]) -> None:
        """Store a study's dataset as group `name`, replacing an earlier one; see `store.results`."""
        from taba_core.store.results import write_result

        if self.mode == "r":
            raise UsageError(f"store {self.place} is open for reading only; open it with mode 'a'.")
        write_result(self.place, name, dataset, attrs)

    def read_result(self, name: str) -> xr.Dataset | None:
        """The dataset of a result, in memory; None if there is none of that name."""
        from taba_core.store.results import read_result

        return read_result(self.place, name)

    def has_result(self, name: str) -> bool:
        """Whether a result of that name is there and whole; one that is damaged is to be made again."""
        from taba_core.store.results import is_whole

        return is_whole(self.place, name)

    def results(self) -> list[str]:
        """Names of all results in the store."""
        return list(self.result_attrs())

    def result_attrs(self) -> dict[str, dict[str, Any]]:
        """Attributes of every result, by name: its study, version, settings and artifacts."""
        return {place.name: attrs for place, attrs in self._groups() if attrs.get("kind") == "result"}

    def _groups(self) -> list[tuple[Place, dict[str, Any]]]:
        held = self.place.read_existing(f"{name}/{META}" for name in self.place.children())
        places = [(self.place / meta.rpartition("/")[0], data) for meta, data in sorted(held.items())]
        return [(place, parse_json(data, place / META).get("attributes", {})) for place, data in places]


def _check_root(root: Place) -> None:
    try:
        attrs = read_json(root / META).get("attributes", {})
    except StoreError:
        raise StoreError(
            f"{root / META} is damaged. Remove this file alone; a run makes it again, and keeps what the store holds."
        ) from None
    if attrs.get("format") != FORMAT:
        raise UsageError(f"{root} is a Zarr hierarchy but no taba store; give --store another path.")
    version = attrs.get("schema_version")
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"store {root} has schema version {version}, this taba reads version {SCHEMA_VERSION}. "
            "Use the taba that made it, or give --store a new path."
        )


def _create_root(root: Place) -> None:
    # What an interrupted creation or a lost root leaves is ours; anything else is not.
    ours = {LEDGER_DIRECTORY, "report"}
    names = [name for name in (*root.children(), *root.sizes()) if name not in ours]
    groups = _groups_of_taba(root, names)
    foreign = [name for name in names if name not in groups and not name.endswith(PARTIAL_SUFFIX)]
    if foreign:
        raise UsageError(
            f"{root} is not empty and no taba store (it holds '{sorted(foreign)[0]}'); "
            "give --store a new or empty directory."
        )
    root.make()
    attrs = {"format": FORMAT, "schema_version": SCHEMA_VERSION, "created_by": f"taba {__version__}"}
    template.write_group(root, attrs)


def _groups_of_taba(root: Place, names: Sequence[str]) -> set[str]:
    """Those of the names that are groups of artifacts or of results."""
    known = {*kinds(), Training.kind, "result"}
    held = root.read_existing(f"{name}/{META}" for name in names)
    found = set()
    for file, data in held.items():
        with contextlib.suppress(StoreError):  # damaged metadata say nothing
            attrs = parse_json(data, root / file).get("attributes", {})
            found |= {file.rpartition("/")[0]} if attrs.get("kind") in known else set()
    return found
