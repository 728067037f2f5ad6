"""`taba gc`: what a store holds that nothing needs. Prints it; deletes only when told to, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from cluster.slurm.queue import job_ended
from taba_core.artifacts.base import Artifact
from taba_core.errors import unknown_name
from taba_core.store import Store
from taba_core.store.files import LEDGER_DIRECTORY, PROMPTS_DIRECTORY
from taba_core.store.integrity import orphans
from taba_core.store.journal import FOLDER
from taba_core.store.lease import hold, is_held
from taba_core.store.place import Place
from taba_core.store.trainings import trainings
from workflows.analysis.run_log import RUN_LOG
from workflows.analysis.study import studies
from workflows.execution.watch.runlog import LOGS
from workflows.text import bytes_text, print_table

_DAY_S = 86400.0
_SUFFIX = ".jsonl"
UNREFERENCED = "unreferenced artifact"


@dataclass(frozen=True)
class Waste:
    """One thing to delete: what it is, its name, bytes, why, and how."""

    kind: str
    name: str
    bytes: int
    why: str
    remove: Callable[[], None]


def collect_garbage(
    path: str, *, delete: bool, unreferenced: bool = False, name: str | None = None, log_days: float = 30.0
) -> None:
    """Print what can go, or delete it.

    Args:
      unreferenced: delete artifacts that no result refers to, too (they are always listed).
      name: of one artifact or result: only that is listed, or deleted.
      log_days: logs of runs older than this can go.
    Raises:
      UsageError: no store, or no artifact or result of that name. StoreHeldError: a run owns the store.
    """
    store = Store.open(path, mode="r")
    store.place.check_kind(writing=delete)
    if name is not None:
        named(store, name)  # refuses an unknown name before the lease is taken
    with hold(store.place, job_ended=job_ended) if delete else nullcontext():
        busy = not delete and is_held(store.place, job_ended)
        found = [named(store, name)] if name else list(_all(store, log_days, busy))
        kept = [w for w in found if w.kind == UNREFERENCED and not unreferenced and name is None]
        going = [w for w in found if w not in kept]
        if delete:
            for waste in going:
                waste.remove()
    if found:
        print_table(
            ("what", "name", "bytes", "why"), [(w.kind, w.name, bytes_text(w.bytes), w.why) for w in found]
        )
        print()
    _print_totals(path, going, kept, delete=delete, busy=busy)


def named(store: Store, name: str) -> Waste:
    """One artifact with its receipts, one training, or one result.

    Raises:
      UsageError: there is none of that name.
    """
    artifacts = {group.name: group for group in store.artifacts()}
    runs = [run.spec.name for run in trainings(store)]
    if name in runs:
        return _tree("training", store.place / name, "as asked; what was made with its networks stays")
    if name not in artifacts and name not in store.results():
        raise unknown_name("artifact or result", name, [*artifacts, *runs, *store.results()])
    if name not in artifacts:
        return _tree("result", store.place / name, "as asked")
    made_of_it = [g.name for g in artifacts.values() if name in {s.name for s in g.artifact.sources()}]
    why = f"as asked; {len(made_of_it)} artifacts made from it stay" if made_of_it else "as asked"
    return _artifact("artifact", store, name, why)


def _all(store: Store, log_days: float, busy: bool) -> Iterator[Waste]:
    ledger, groups = store.place / LEDGER_DIRECTORY, store.artifacts()
    if not busy:  # of a run that is alive they are no orphans
        for group in groups:
            for left, size in orphans(group).items():
                where = f"{group.name}/{left.parent.name}/{left.name}"
                yield Waste("interrupted write", where, size, "its writer is gone", _interrupted(left))
        for place in (ledger, store.place):
            for left_name, size in place.interrupted().items():
                yield Waste(
                    "interrupted write",
                    left_name,
                    size,
                    "its writer is gone",
                    _interrupted(place / left_name),
                )
    yield from _receipts(ledger, {group.name for group in groups})
    yield from _encoded_prompts(ledger / PROMPTS_DIRECTORY, [group.artifact for group in groups])
    yield from _old_logs(ledger / LOGS, log_days)
    yield from _stale_results(store)
    needed = _needed(store)
    for group in groups:
        if group.name not in needed:
            yield _artifact(
                UNREFERENCED, store, group.name, "no result refers to it; --unreferenced deletes it"
            )


def _receipts(ledger: Place, artifacts: set[str]) -> Iterator[Waste]:
    journals = {name.removesuffix(FOLDER) for name in (*ledger.sizes(), *ledger.children())}
    for name in sorted(j for j in journals if j.endswith(_SUFFIX) and j != RUN_LOG):
        if name.removesuffix(_SUFFIX) not in artifacts:
            journal = ledger / name
            yield Waste(
                "receipts", name, _journal_bytes(journal), "of an artifact that is gone", _journal(journal)
            )


def _encoded_prompts(prompts: Place, artifacts: Sequence[Artifact]) -> Iterator[Waste]:
    """The files of encoded prompts whose model is that of no artifact."""
    models = {spec.name for a in artifacts for spec in (a.samples.model, a.predictor)}
    for name, size in sorted(prompts.sizes().items()):
        model = name.rpartition("-")[0]
        if model not in models:
            why = f"the store has no artifact of {model}"
            yield Waste("encoded prompts", name, size, why, (prompts / name).remove)


def _old_logs(logs: Place, days: float) -> Iterator[Waste]:
    for name, size in sorted(logs.sizes().items()):
        age = time.time() - ((logs / name).modified() or time.time())
        if age > days * _DAY_S:
            yield Waste("log", name, size, f"{age / _DAY_S:.0f} days old", (logs / name).remove)


def _stale_results(store: Store) -> Iterator[Waste]:
    current = {study.name: study.version for study in studies().values()}
    for name, attrs in sorted(store.result_attrs().items()):
        study, version = str(attrs.get("study")), attrs.get("study_version")
        if study not in current:
            yield _tree("stale result", store.place / name, f"no study '{study}' any more")
        elif version != current[study]:
            why = f"version {version} of {study}, now {current[study]}"
            yield _tree("stale result", store.place / name, why)


def _needed(store: Store) -> set[str]:
    """Artifacts some result was made from, and their sources. Stale results count: making them anew reads these."""
    by_name = {group.name: group.artifact for group in store.artifacts()}
    needed: set[str] = set()
    waiting = [str(n) for attrs in store.result_attrs().values() for n in attrs.get("artifacts", {}).values()]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += [s.name for s in by_name[name].sources()] if name in by_name else []
    return needed


def _artifact(kind: str, store: Store, name: str, why: str) -> Waste:
    place, journal = store.place / name, store.place / LEDGER_DIRECTORY / f"{name}{_SUFFIX}"

    def remove() -> None:
        place.remove_tree()
        _journal(journal)()

    return Waste(kind, name, sum(place.walk().values()) + _journal_bytes(journal), why, remove)


def _tree(kind: str, place: Place, why: str) -> Waste:
    return Waste(kind, place.name, sum(place.walk().values()), why, place.remove_tree)


def _interrupted(left: Place) -> Callable[[], None]:
    return lambda: left.parent.remove_interrupted(left.name)


def _journal(journal: Place) -> Callable[[], None]:
    def remove() -> None:
        journal.remove()
        (journal.parent / (journal.name + FOLDER)).remove_tree()

    return remove


def _journal_bytes(journal: Place) -> int:
    return (journal.size() or 0) + sum((journal.parent / (journal.name + FOLDER)).walk().values())


def _print_totals(path: str, going: list[Waste], kept: list[Waste], *, delete: bool, busy: bool) -> None:
    size = bytes_text(sum(w.bytes for w in going))
    if busy:
        print("A run owns this store: what it is writing is not listed.")
    if delete:
        print(f"{path}: deleted {len(going)} things, {size}.")
    elif going:
        print(f"{path}: {len(going)} things, {size}, can go. Nothing was deleted; add --delete.")
    else:
        print(f"{path}: nothing to delete.")
    if kept:
        total = bytes_text(sum(w.bytes for w in kept))
        print(
            f"{len(kept)} artifacts no result refers to, {total}, stay; add --unreferenced to delete them too."
        )
