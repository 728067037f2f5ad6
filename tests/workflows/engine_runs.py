"""Small runs of the `gaussian` model inside the test process, and what they stored."""

from __future__ import annotations

import hashlib
from pathlib import Path

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
