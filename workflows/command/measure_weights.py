"""Weights of feature extractors and image distances: which there are, and how they come into the cache."""

from __future__ import annotations

from pathlib import Path

from taba_core.cache import read_json_table, write_json_table
from taba_core.errors import UsageError, WorkError
from taba_core.metrics.extractor import extractors
from taba_core.metrics.hub_folder import HubFolder
from taba_core.metrics.image_distance import distances
from taba_core.metrics.measure import HubFile
from taba_core.models.cards import WeightsCard
from taba_core.models.weights import content_hash, weights_folder
from workflows.command.download import download
from workflows.command.hub import snapshot

METRICS = "metrics"  # the weights of all measures


def files_of(name: str) -> tuple[HubFile | HubFolder, ...] | None:
    """What a measure of this name downloads, or all measures for "metrics"; None where no measure has that name.

    Raises:
      UsageError: a measure that needs no downloaded weights.
    """
    known = {**extractors(), **distances()}
    if name != METRICS and name not in known:
        return None
    chosen = known.values() if name == METRICS else [known[name]]
    files = [file for measure in chosen for file in measure.files if isinstance(file, HubFile | HubFolder)]
    if not files:
        raise UsageError(f"{name} has nothing to fetch: it needs no downloaded weights.")
    return tuple(dict.fromkeys(files))


def fetch_file(file: HubFile | HubFolder, *, endpoint: str | None = None) -> Path:
    """A file, downloaded unless it is here, and checked; the path where the measure looks for it.

    The first fetch of a hub's folder records commit and SHA-256 in `lock.json`; what comes later is compared with it.

    Raises:
      WorkError: a download failed, or what came is something else than it should be.
    """
    path = file.path()
    if file.why_not() is None:
        return path
    if path.exists():
        raise WorkError(file.why_not() or "")
    if isinstance(file, HubFile):
        download(file.url, path)
    else:
        lock = weights_folder() / "lock.json"
        held = read_json_table(lock).get(path.name, {})
        weights = WeightsCard(source="hub", location=file.repository, files=file.files)
        commit = snapshot(weights, path, str(held.get("commit", "")), endpoint)
        entry = {"location": file.repository, "commit": commit, "sha256": content_hash(path)}
        write_json_table(lock, read_json_table(lock) | {path.name: entry | held})
    if why := file.why_not():
        raise WorkError(why)
    return path
