"""Time of one network evaluation of the true architectures, random weights, against the paper's Appendix D.

Seconds per step of a batch, images per second, achieved FLOP/s and peak memory, compiled too if asked. On a GPU at the
batch sizes of the paper, with its times beside ours; on a CPU at a reduced batch, where only the ratio of profiles
means something. `python -m workflows.bench.gpu` measures everything within a given time.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taba_core.models.cards import Card
from taba_core.models.catalog import load_card
from workflows.bench.compile_jobs import CompileJobs
from workflows.bench.evaluations import Entry, Subject, device_facts, flop_per_image, free_memory, time_entry
from workflows.bench.paired import Measurement, TableRow, seconds_text
from workflows.text import bytes_text

CPU_BATCH = {"adm-32": 4, "adm-64": 2, "ldm": 1, "dit": 2}
COMPILE_SECONDS = 600.0


def measure(
    *,
    repeats: int = 3,
    models: Sequence[str] = (),
    profiles: Sequence[str] = ("exact", "fast"),
    batch_size: int | None = None,
    threads: int | None = None,
    compiled: bool = False,
    compile_seconds: float = COMPILE_SECONDS,
    output: str | None = None,
) -> Measurement:
    """Time the models (default: those that fit this machine) under each profile.

    Args:
      repeats: unused; an entry is measured until its median is steady.
      batch_size: images per step; default the paper's on a GPU, a small one on a CPU.
      threads: torch threads on a CPU; default all cores.
      compiled: also each profile through torch.compile, in a process of its own.
      compile_seconds: after which such a process is stopped.
      output: file for what was measured, as JSON; written after every entry.
    Raises:
      UsageError: unknown model or profile.
    """
    import torch

    from taba_core.models.architectures import architecture_card, architectures
    from taba_core.models.profile import profile_named

    for profile in profiles:
        profile_named(profile)
    for name in models:
        architecture_card(name)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(threads or os.cpu_count() or 1)
    rows: list[TableRow] = []
    facts = device_facts(device)
    notes, figures, records = [f"device: {facts['card']}"], {}, []
    for name in models or [m for m in architectures() if device == "cuda" or m in CPU_BATCH]:
        card = load_card(name)
        batch = batch_size or (card.cost.batch_size if device == "cuda" else CPU_BATCH.get(name, 1))
        too_large = _does_not_fit(name, card, device)
        if too_large:
            notes.append(too_large)
            continue
        ways = [
            Entry(name, p, batch, compiled=c)
            for p in profiles
            for c in ((False, True) if compiled else (False,))
        ]
        flop, first = flop_per_image(name) * batch, None
        for entry in ways:
            record = _timed(entry, device, compile_seconds)
            records.append(record)
            if output:
                Path(output).write_text(json.dumps({**facts, "entries": records}, indent=1))
            first = first or record.get("seconds")
            rows.append(_row(entry, record, card, flop, first))
            if "seconds" in record:
                way = f"{entry.profile}_compiled" if entry.compiled else entry.profile
                figures |= {f"{name}_{way}_seconds": record["seconds"], f"{name}_{way}_flops": flop}
    return Measurement(tuple(rows), figures, tuple(notes))


def _timed(entry: Entry, device: str, limit: float) -> dict[str, Any]:
    """An entry's record: of this process, or of one that can be stopped while it compiles."""
    if not entry.compiled:
        subject = Subject(entry.model, device)
        record = time_entry(entry, subject, subject.network(entry.numerics(), last=True))
        del subject
        free_memory(device)
        return record
    with tempfile.TemporaryDirectory() as scratch:
        jobs = CompileJobs([entry], Path(scratch), device=device, tiny=False, limit=limit)
        try:
            jobs.start()
            while jobs.busy:
                if found := jobs.finished():
                    return found[0]
                time.sleep(0.2)
        finally:
            jobs.stop()
    raise AssertionError("a job ends with a record")


def _row(entry: Entry, record: dict[str, Any], card: Card, flop: float, first: float | None) -> TableRow:
    side = f"{entry.profile}{', compiled' if entry.compiled else ''}"
    if "seconds" not in record:
        return TableRow(card.title, f"{entry.batch} images", side, record["status"])
    seconds, memory = record["seconds"], record["peak_bytes"]
    rates = [f"{entry.batch / seconds:.3g} images/s", f"{flop / seconds / 1e12:.3g} TFLOP/s"]
    return TableRow(
        card.title,
        f"{entry.batch} images",
        side,
        seconds_text(seconds),
        f"{seconds_text(record['least'])} to {seconds_text(record['most'])}",
        ", ".join([*rates, *([bytes_text(memory)] if memory else [])]),
        f"{seconds / first:.3g}" if first else "",
        target=_paper(card, entry.batch),
    )


def _does_not_fit(name: str, card: Card, device: str) -> str:
    import torch

    needed = card.num_parameters * 4 * 1.3
    if device == "cuda":
        free = torch.cuda.mem_get_info()[0]
    else:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    if needed < free:
        return ""
    return f"{name} left out: its weights need {bytes_text(needed)}, {bytes_text(free)} are free."


def _paper(card: Card, batch: int) -> str:
    if batch != card.cost.batch_size:
        return f"paper {card.cost.image_seconds * 1e3:.3g} ms an image ({card.cost.measured_on})"
    return f"paper {seconds_text(card.cost.step_seconds)} ({card.cost.measured_on})"
