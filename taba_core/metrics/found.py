"""Measures that are found by being there: the modules of a package, and the classes that they define."""

from __future__ import annotations

from typing import TypeVar

from taba_core.errors import unknown_name
from taba_core.found import import_modules
from taba_core.metrics.measure import Measure

Kind = TypeVar("Kind", bound=Measure)


def measures(package: str, base: type[Kind]) -> dict[str, Kind]:
    """One instance of each measure of a package, by name."""
    import_modules(package)
    return {cls.name: cls() for cls in sorted(base.__subclasses__(), key=lambda cls: cls.name)}


def measure_named(kind: str, name: str, known: dict[str, Kind]) -> Kind:
    """One of them. Raises UsageError for an unknown name; `kind` is what the message calls them."""
    if name not in known:
        raise unknown_name(kind, name, known)
    return known[name]
