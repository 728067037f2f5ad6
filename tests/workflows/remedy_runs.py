"""A small run whose store tests damage, and ways to damage it and to compare it."""

from __future__ import annotations

import json
from pathlib import Path

from engine_runs import fingerprints

RUN = [
    "run", "correlation", "--model", "gaussian", "--executor", "local", "--workers", "1", "--no-report",
    "--set", "num_samples=8", "--set", "samples_per_shard=4", "--set", "num_inference_steps=5",
    "--set", "bootstrap_replicates=100",
]  # fmt: skip


def attributes(file: Path, **changes):
    """Change attributes of a `zarr.json`; None removes one. The content before."""
    before = file.read_text()
    content = json.loads(before)
    for name, value in changes.items():
        content["attributes"].pop(name, None)
        if value is not None:
            content["attributes"][name] = value
    file.write_text(json.dumps(content))
    return before


def one(store, pattern):
    (found,) = store.glob(pattern)
    return found


def unfinished(store):
    """The store as a run finds it that must look at every template and compute one shard."""
    one(store, "gaussian-inversion-*/latent/c.1.*").unlink()
    return store


def same_files(store, finished):
    """Every file that carries data or meaning is that of an undisturbed run."""
    assert fingerprints(store) == fingerprints(finished)
