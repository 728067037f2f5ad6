"""Everything wrong with a whole store: artifacts, and on a deep check coordinates, results and unknown files too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taba_core.artifacts.layout import Extent
from taba_core.store import results, template
from taba_core.store.files import LEDGER_DIRECTORY
from taba_core.store.group import ArtifactGroup
from taba_core.store.integrity import Defect
from taba_core.store.place import Place
from taba_core.store.root import Store
from taba_core.store.shards import META
from taba_core.store.trainings import trainings

_NO_DATA = (LEDGER_DIRECTORY, "report")


@dataclass(frozen=True)
class Audit:
    """What was found: problems, and how much was looked at (bytes: read completely if deep, else listed)."""

    problems: tuple[Defect, ...]
    artifacts: int
    results: int
    bytes: int


def audit(store: Store, *, deep: bool = False, forget: bool = False) -> Audit:
    """Check a store.

    Args:
      deep: read every shard, coordinate, result and trained network, and compare checksums and values with what
        they must be.
      forget: make damaged shards and results missing, so that the next run computes them; it writes damaged
        coordinates again by itself.
    """
    groups, names = store.artifacts(), store.results()
    problems = [problem for group in groups for problem in group.verify(deep=deep, forget=forget)]
    runs = trainings(store)
    if deep:
        for group in groups:
            problems += _of_coordinates(group)
            problems += _unknown(group.place, group.name, {*group.artifact.variables(), *_coordinates()})
        for name in names:
            found = [
                Defect(name, "result", "", None, file, text)
                for file, text in results.damage_of(store.place, name)
            ]
            problems += found
            if found and forget:
                (store.place / name).remove_tree()
        for run in runs:
            changed = list(run.problems())
            problems += changed
            if forget:
                for what in {problem.variable for problem in changed}:
                    run.forget(what)
        held = {*(g.name for g in groups), *(run.spec.name for run in runs), *names}
        problems += _unknown(store.place, "", {*held, *_NO_DATA})
    places = [group.place for group in groups] + ([store.place / name for name in names] if deep else [])
    size = sum(sum(place.walk().values()) for place in places)
    return Audit(tuple(problems), len(groups), len(names), size)


def _coordinates() -> set[str]:
    return set(template.COORDINATE_ATTRS)


def _of_coordinates(group: ArtifactGroup) -> Iterator[Defect]:
    for name in sorted(_coordinates() & set(group.place.children())):
        place = group.place / name
        values = template.read_coordinate(place)
        wrong = (
            "cannot be read, or its checksum differs"
            if values is None
            else _wrong(group.extent, group.artifact.num_steps, name, values)
        )
        if wrong:
            yield Defect(
                group.name, "coordinate", name, None, place, f"{wrong}; the next run writes it again"
            )


def _wrong(extent: Extent, steps: int, name: str, values: NDArray[Any]) -> str | None:
    """What is wrong with the values of a coordinate: ids and steps are known, levels are within bounds."""
    if name == "sample":
        return None if np.array_equal(values, np.arange(extent.num_samples)) else "is not 0, 1, 2, ..."
    if values.shape != (steps,):
        return f"has shape {values.shape}, not ({steps},)"
    if name == "step":
        return None if np.array_equal(values, np.arange(1, steps + 1)) else "is not 1, 2, 3, ..."
    if not np.isfinite(values).all():
        return "has values that are not finite"
    if name == "alpha_bar" and not ((values >= 0) & (values <= 1)).all():
        return "has values outside [0, 1]"
    return None


def _unknown(place: Place, artifact: str, known: set[str]) -> Iterator[Defect]:
    left = place.interrupted()
    for name in sorted({*place.children()} - known - set(left)):
        yield Defect(
            artifact, "unknown file", name, None, place / name, "a folder that is not of taba's making"
        )
    for name in left:
        yield Defect(artifact, "orphan", name, None, place / name, "is left of an interrupted write")
    for name in sorted({*place.sizes()} - {META} - set(left)):
        yield Defect(artifact, "unknown file", name, None, place / name, "is not of taba's making")
