"""Weights of feature extractors and image distances: which there are, and how they come into the cache."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

from taba_core.cache import read_json_table, write_json_table
from taba_core.errors import UsageError, WorkError
from taba_core.metrics.extractor import extractors
from taba_core.metrics.hub_folder import HubFolder
from taba_core.metrics.image_distance import distances
from taba_core.metrics.measure import HubFile
from taba_core.metrics.release_folder import ReleaseFolder
from taba_core.models.cards import WeightsCard
from taba_core.models.weights import content_hash, weights_folder
from workflows.command.download import download
from workflows.command.hub import snapshot

METRICS = "metrics"  # the weights of all measures
Fetched = HubFile | HubFolder | ReleaseFolder


def files_of(name: str) -> tuple[Fetched, ...] | None:
    """What a measure of this name downloads, or all measures for "metrics"; None where no measure has that name.

    Raises:
      UsageError: a measure that needs no downloaded weights.
    """
    known = {**extractors(), **distances()}
    if name != METRICS and name not in known:
        return None
    chosen = known.values() if name == METRICS else [known[name]]
    files = [file for measure in chosen for file in measure.files if isinstance(file, Fetched)]
    if not files:
        raise UsageError(f"{name} has nothing to fetch: it needs no downloaded weights.")
    return tuple(dict.fromkeys(files))


def fetch_file(file: Fetched, *, endpoint: str | None = None) -> Path:
    """A file, downloaded unless it is here, and checked; the path where the measure looks for it.

    The first fetch of a folder records its SHA-256 (and a hub's commit) in `lock.json`; what comes later is compared
    with it.

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
    elif isinstance(file, ReleaseFolder):
        _unpack(file)
        _record(path.name, location=file.url, sha256=file.identity())
    else:
        held = read_json_table(_lock()).get(path.name, {})
        weights = WeightsCard(source="hub", location=file.repository, files=file.files)
        commit = snapshot(weights, path, str(held.get("commit", "")), endpoint)
        _record(path.name, location=file.repository, commit=commit, sha256=content_hash(path))
    if why := file.why_not():
        raise WorkError(why)
    return path


def _lock() -> Path:
    return weights_folder() / "lock.json"


def _record(name: str, **entry: str) -> None:
    """What was fetched, beside what the first fetch recorded, which stays."""
    known = read_json_table(_lock())
    write_json_table(_lock(), known | {name: entry | known.get(name, {})})


def _unpack(file: ReleaseFolder) -> None:
    """The needed files of a zip file from its address, in place only when all are here.

    Raises:
      WorkError: the download failed, or what came is no zip file that has them.
    """
    folder = file.path()
    archive, partial = (folder.with_name(folder.name + end) for end in (".zip", ".partial"))
    if not archive.exists():
        download(file.url, archive)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            names = set(opened.namelist())
            if lacking := file.missing(names):
                raise zipfile.BadZipFile(f"it lacks {', '.join(lacking)}")
            for name in sorted(names.intersection(file.files + file.one_of)):
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                with opened.open(name) as source, (partial / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
    except zipfile.BadZipFile as error:
        archive.unlink()
        raise WorkError(
            f"{file.url}: what came is not {file.network}'s zip file ({error}); it was deleted. Fetch again; if it "
            "stays so, the file was replaced at its source."
        ) from None
    os.replace(partial, folder)
    archive.unlink()
