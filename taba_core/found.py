"""Things that are found by being there: every module of a package is imported, and registers or defines what it has."""

from __future__ import annotations

import importlib
import pkgutil


def import_modules(package: str) -> None:
    """Import all modules of a package, those of its subpackages left out. Their own errors are raised as they are."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")
