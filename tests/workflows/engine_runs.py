"""Small runs of the `gaussian` model inside the test process, and what they stored."""

from __future__ import annotations

import hashlib
from pathlib import Path

import xarray as xr

import taba_core
from taba_core.store import Store
from workflows.__main__ import main

# Two shards of five artifacts, in four units (an inversion alone, the rest with the path it needs): 1.8 MB.
ARGUMENTS = [
    "run", "correlation", "step-error", "--model", "gaussian", "--executor", "local", "--no-report",
    "--set", "num_samples=8", "--set", "samples_per_shard=4", "--set", "num_inference_steps=5",
    "--set", "bootstrap_replicates=100",
]  # fmt: skip


def run(store: Path, *more: str) -> int:
    """Exit code of the run."""
    return taba(*ARGUMENTS, "--store", store, *more)


def taba(*arguments: object) -> int:
    """Exit code of a command."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def fingerprints(path: Path) -> dict[str, str]:
    """Hash of every file that carries data or meaning; the ledger tells of the run itself."""
    files = [f for f in sorted(path.rglob("*")) if f.is_file() and f.relative_to(path).parts[0] != "_ledger"]
    return {str(f.relative_to(path)): hashlib.blake2b(f.read_bytes()).hexdigest() for f in files}


def result_of(place: Path, study: str = "") -> xr.Dataset:
    """The one result of a store, or the one of a study."""
    store = Store.open(place)
    (name,) = (name for name in store.results() if f"-{study}" in name)
    result = store.read_result(name)
    assert result is not None
    return result


def nodes(place: Path, kind: str) -> list[xr.DataTree]:
    """The artifacts of a kind in a store."""
    return [node for node in taba_core.open_store(place).children.values() if node.attrs["kind"] == kind]
