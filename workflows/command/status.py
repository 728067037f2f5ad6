"""`taba status` and `taba verify`: what a store holds, without Ray."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path

from cluster.slurm.queue import job_ended
from taba_core.errors import UsageError
from taba_core.store import Store
from taba_core.store.address import is_remote
from taba_core.store.lease import hold
from taba_core.store.trainings import TrainingFolder, trainings
from workflows.execution.watch.status_file import read_status, status_lines
from workflows.text import bytes_text, print_table


def _open(path: str) -> Store:
    if not is_remote(path) and not Path(path.removeprefix("file://")).exists():
        raise UsageError(
            f"--store {path}: there is no such directory; `taba run STUDY --store {path}` makes one."
        )
    return Store.open(path, mode="r")


def print_status(path: str) -> None:
    """What the last run is doing or did; one row per artifact and variable: shards complete; the stored results."""
    store = _open(path)
    status = read_status(store.place)
    if status is not None:
        print("\n".join(status_lines(status)) + "\n")
    rows = []
    for group in store.artifacts():
        variables = group.variables
        missing = group.missing()
        for name in variables:
            array = group.array(name)
            absent = sum(name in names for names in missing.values())
            state = "complete" if not absent else f"{absent} missing"
            if array.num_asked < group.num_shards:
                state += f", first {array.samples_asked} samples only"
            rows.append((group.name, name, f"{array.num_asked - absent}/{array.num_asked}", state))
    print_table(("artifact", "variable", "shards", "state"), rows)
    runs = trainings(store)
    if runs:
        kept = [(run, sum(run.facts(step) is not None for step in run.spec.checkpoints)) for run in runs]
        print()
        print_table(
            ("training", "networks kept", "state"),
            [(run.spec.name, f"{n}/{len(run.spec.checkpoints)}", _state(run)) for run, n in kept],
        )
    results = store.results()
    print(f"\n{len(results)} results: {', '.join(results) or 'none yet'}")


def _state(run: TrainingFolder) -> str:
    if run.complete:
        return "complete"
    progress = run.read_progress()
    return f"step {progress['step']} of {progress['steps']}" if progress else "not begun"


def print_verification(path: str, *, deep: bool, forget: bool) -> None:
    """Print every problem; exit code 1 if there are any."""
    from taba_core.store.audit import audit

    store = _open(path)
    store.place.check_kind(writing=forget)
    started = time.perf_counter()
    with (
        hold(store.place, job_ended=job_ended) if forget else nullcontext()
    ):  # forgetting writes, which only one process may
        found = audit(store, deep=deep, forget=forget)
    seconds = time.perf_counter() - started
    for problem in found.problems:
        print(problem)
    checked = "checksums and sizes" if deep else "sizes and receipts"
    if deep:
        print(f"read {bytes_text(found.bytes)} in {seconds:.1f} s: {bytes_text(found.bytes / seconds)}/s.")
    if not found.problems:
        also = f" and {found.results} results" if deep else ""
        print(f"{path}: no problems ({checked} of {found.artifacts} artifacts{also}).")
        return
    print(
        f"{len(found.problems)} problems. `taba run` with the same settings recomputes what is missing"
        + ("." if forget or not deep else "; add --forget to recompute corrupt shards too.")
    )
    raise SystemExit(1)
