"""`taba bench`: the measured numbers of the README, each as one command on any machine.

A benchmark is a module with `measure(*, repeats)`; its docstring's first line is what `taba bench` lists.
Nothing here asserts a time: a number is printed beside its target, with the spread it was measured at.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from taba_core.errors import UsageError, unknown_name
from workflows.bench.paired import print_measurement
from workflows.text import print_table

NAMES = (
    "mixture",
    "plain-share",
    "box-error",
    "path-distance",
    "step-error",
    "triangle",
    "mapping",
    "overhead",
    "whole-paths",
    "correlation",
    "correlation-memory",
    "stats-scale",
    "reduction",
    "features",
    "step",
    "gpu",
    "profile-drift",
    "adm-loop",
    "training",
    "chaos",
    "simulate",
    "driver-memory",
    "pool-scaling",
    "startup",
    "shard-write",
)

OPTIONS = {
    "step": ("models", "profiles", "batch_size", "compiled", "output"),
    "gpu": ("minutes", "output"),
    "whole-paths": ("models", "profiles", "batch_size"),
    "profile-drift": ("models", "profiles", "weights", "num_samples", "compiled", "store"),
    "chaos": ("kills",),
    "reduction": ("size",),
    "box-error": ("num_samples", "networks"),
}


def run_benchmarks(names: list[str], *, repeats: int, options: Mapping[str, Any] | None = None) -> None:
    """Run benchmarks one after the other and print each as a table; without names, list them.

    Args:
      names: of `NAMES`; a repeated name runs once.
      repeats: paired runs of each side.
      options: of the benchmarks that have any, see `OPTIONS`.
    Raises:
      UsageError: unknown name, or an option a benchmark does not have, before anything runs.
    """
    options = options or {}
    for name in names:
        if name not in NAMES:
            raise unknown_name("benchmark", name, NAMES)
        for option in options:
            if option not in OPTIONS.get(name, ()):
                has = ", ".join(OPTIONS.get(name, ())) or "none"
                raise UsageError(f"benchmark {name} has no option {option}; it has: {has}.")
    if not names:
        print_table(("benchmark", "what it measures"), [(name, description(name)) for name in NAMES])
        return
    print(f"{_machine()}; ratio = second side over first, medians of {repeats} paired runs (A B A B)")
    for name in dict.fromkeys(names):
        print(f"\n{name}: {description(name)}", flush=True)
        print_measurement(_module(name).measure(repeats=repeats, **options))


def description(name: str) -> str:
    """What a benchmark measures, in one line."""
    return (_module(name).__doc__ or "").strip().splitlines()[0]


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")


def _machine() -> str:
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{os.cpu_count()} cores{load}"
