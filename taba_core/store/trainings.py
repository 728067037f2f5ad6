"""Training runs in a store: a group of small arrays, and beside them the networks at their steps as files.

    <recipe>-training-<key>/zarr.json                        attributes: the spec; arrays when the run is complete
    <recipe>-training-<key>/checkpoints/<label>/...          what the loader of the network's family reads
    <recipe>-training-<key>/checkpoints/<label>.json         its facts and the checksum of every file: it is complete
    <recipe>-training-<key>/checkpoints/state.pt             from which a killed run goes on; gone when it is complete
    <recipe>-training-<key>/checkpoints/progress.json        how far the run is

A network is complete when its facts are there: they are written last. Trainings need a store in a directory.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taba_core.artifacts.training import Training
from taba_core.errors import StoreError, UsageError
from taba_core.store import template
from taba_core.store.files import PARTIAL_SUFFIX, crc32_of_file, explained, sync_tree
from taba_core.store.integrity import Defect
from taba_core.store.local_place import LocalPlace, local_path
from taba_core.store.place import json_bytes, parse_json, read_json
from taba_core.store.root import Store
from taba_core.store.shards import META

if TYPE_CHECKING:
    import xarray as xr

_FILES = "files_crc32"
_FOLDER = "checkpoints"


@dataclass(frozen=True)
class TrainingFolder:
    """One training run in a store on disk.

    Attributes:
      root: directory of the store.
      spec: the run.
    """

    root: Path
    spec: Training

    @property
    def path(self) -> Path:
        """Directory of the run's group."""
        return self.root / self.spec.name

    @property
    def checkpoints(self) -> Path:
        """Directory of the networks and of the run's state."""
        return self.path / _FOLDER

    @property
    def state(self) -> Path:
        """File from which a killed run goes on."""
        return self.checkpoints / "state.pt"

    @property
    def progress(self) -> Path:
        """File that says how far the run is, JSON."""
        return self.checkpoints / "progress.json"

    def check(self) -> None:
        """Raise StoreError where the group of that name was made by another spec."""
        place = LocalPlace(self.path)
        if not (place / META).exists():
            return
        found = read_json(place / META).get("attributes", {}).get("spec")
        if found is None or Training.model_validate(found).key != self.spec.key:
            raise StoreError(
                f"group {place} holds another training than its name says. Remove its directory."
            )

    def prepare(self) -> None:
        """Make the group. Driver only.

        Raises:
          StoreError: as `check`.
        """
        self.check()
        place = LocalPlace(self.path)
        if not (place / META).exists():
            place.make()
            template.write_group(place, self.spec.attrs())
        template.mark_as_no_data(place / _FOLDER)

    def read_progress(self) -> dict[str, Any] | None:
        """How far the run is, as its first rank said last; None where it has said nothing yet."""
        try:
            return parse_json(self.progress.read_bytes(), LocalPlace(self.progress))
        except FileNotFoundError:
            return None

    def folder(self, step: int) -> Path:
        """Directory of the network at a step."""
        return self.checkpoints / self.spec.label(step)

    def facts(self, step: int) -> dict[str, Any] | None:
        """What is known of the network at a step; None where it is not complete."""
        place = LocalPlace(self.checkpoints / f"{self.spec.label(step)}.json")
        return parse_json(place.read_bytes(), place) if place.exists() else None

    def keep(self, step: int, write: Callable[[Path], None], facts: Mapping[str, Any]) -> None:
        """Keep the network at a step, whole or not at all.

        Args:
          write: writes its files into a directory that is given to it, under the directory's own name.
          facts: what its facts say beside the checksums, JSON.
        Raises:
          WorkError: the file system refused.
        """
        target = self.folder(step)
        aside = target.with_name(f"{target.name}{PARTIAL_SUFFIX}")
        with explained(target):
            shutil.rmtree(aside, ignore_errors=True)
            shutil.rmtree(target, ignore_errors=True)  # of a process that was killed before the facts
            aside.mkdir(parents=True)
            write(aside / target.name)
            sync_tree(aside)
            (aside / target.name).rename(target)
            aside.rmdir()
        files = {name: crc32_of_file(target / name) for name in sorted(_files(target))}
        text = json_bytes({**facts, "step": step, _FILES: files})
        LocalPlace(target.with_name(f"{target.name}.json")).write_atomic(text)

    @property
    def complete(self) -> bool:
        """Whether every network is there, and the arrays."""
        meta = LocalPlace(self.path) / META
        return meta.exists() and "arrays" in read_json(meta).get("attributes", {})

    def arrays(self) -> xr.Dataset:
        """The arrays of a complete run, in memory: loss over the steps, held-out errors of every network."""
        import xarray as xr

        with xr.open_zarr(LocalPlace(self.path).zarr_store(), consolidated=False, chunks=None) as dataset:
            return dataset[dataset.attrs["arrays"]].load()

    def finish(self, arrays: xr.Dataset) -> None:
        """Write the arrays of a run whose networks are all there, and let go of its state. Driver only."""
        from taba_core.store.results import encoded

        names = [str(name) for name in arrays.data_vars]
        files = encoded(arrays.assign_attrs({**self.spec.attrs(), "arrays": names}))
        meta = files.pop(META)
        for name, data in files.items():
            place = LocalPlace(self.path / name)
            place.parent.make()
            place.write_atomic(data)
        text = parse_json(meta, LocalPlace(self.path) / META)
        text["attributes"][_FILES] = {name: zlib.crc32(data) for name, data in files.items()}
        (LocalPlace(self.path) / META).write_atomic(
            json_bytes(text)
        )  # last: it says that the run is complete
        for left in (self.state, self.progress):
            left.unlink(missing_ok=True)

    def problems(self) -> Iterator[Defect]:
        """Files of networks and arrays that are missing or changed."""
        for step in self.spec.checkpoints:
            facts = self.facts(step)
            if facts is not None:
                yield from self._changed(self.folder(step), facts[_FILES], self.spec.label(step))
        if self.complete:
            recorded = read_json(LocalPlace(self.path) / META)["attributes"].get(_FILES, {})
            yield from self._changed(self.path, recorded, "arrays")

    def forget(self, what: str) -> None:
        """Make a damaged network, or the arrays, missing: the next run makes them again."""
        place = LocalPlace(self.path)
        if what == "arrays":
            template.write_group(place, self.spec.attrs())
            return
        (self.checkpoints / f"{what}.json").unlink(missing_ok=True)
        template.write_group(place, self.spec.attrs())

    def _changed(self, folder: Path, recorded: Mapping[str, int], what: str) -> Iterator[Defect]:
        for name, crc in recorded.items():
            path = folder / name
            if not path.is_file():
                yield Defect(self.spec.name, "missing", what, None, LocalPlace(path), f"{name} is missing")
            elif (found := crc32_of_file(path)) != crc:
                text = f"{name} has CRC-32 {found:08x}, not {crc:08x}"
                yield Defect(self.spec.name, "checksum", what, None, LocalPlace(path), text)


def _files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.relative_to(folder).as_posix()


def training_folder(store: Store, spec: Training) -> TrainingFolder:
    """Where a training run lies in a store.

    Raises:
      UsageError: the store is on object storage.
    """
    try:
        return TrainingFolder(local_path(store.place), spec)
    except UsageError:
        raise UsageError(
            f"store {store.url}: networks are trained into a directory that all nodes see. Give --store a directory; "
            "the store may be copied to object storage afterwards."
        ) from None


def trainings(store: Store) -> list[TrainingFolder]:
    """All training runs of a store, by name; none of a store on object storage."""
    if not isinstance(store.place, LocalPlace):
        return []
    root = local_path(store.place)
    held = store.place.read_existing(f"{name}/{META}" for name in store.place.children())
    found = []
    for file, data in sorted(held.items()):
        attrs = parse_json(data, store.place / file).get("attributes", {})
        if attrs.get("kind") == Training.kind:
            found.append(TrainingFolder(root, Training.model_validate(attrs["spec"])))
    return found
