"""Every network on this machine's GPU in a few minutes: seconds by profile and batch, compiled too, memory, rounding.

One command for a machine that is lent for minutes:

    python -m workflows.bench.gpu --minutes 4 --output gpu.json

The entries worth most come first; each is written to the file as soon as it is measured, so that the file is whole
whenever the command ends. Compiling takes minutes of processors and little of the device, so processes of their own do
that beside the other measurements; while anything is timed, it has the device to itself.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taba_core.errors import UsageError
from workflows.bench.compile_jobs import CompileJobs, holding
from workflows.bench.evaluations import (
    SAMPLING_STEPS,
    Entry,
    Subject,
    device_facts,
    failures_in,
    flop_per_image,
    free_memory,
    predictions,
    relative_errors,
    sampler_overhead,
    time_entry,
)
from workflows.bench.paired import Measurement, TableRow, seconds_text
from workflows.text import bytes_text

if TYPE_CHECKING:
    from taba_core.models.network import Network

# In the order of their worth.
FIRST = ("adm-32", "adm-64", "ldm", "dit", "adm-256")
THEN = ("sdxl", "if", "sd")
PROFILES = ("exact", "reference", "fast")
COMPILED = ("adm-64", "dit", "adm-256", "ldm", "adm-32", "sdxl")
# Both layouts where the profile's own choice should be compared with the other one.
LAYOUTS = ("adm-64", "adm-256", "ldm")
OTHER_BATCHES = {"adm-256": (4, 16), "adm-32": (128,), "dit": (64,), "adm-64": (64,), "if": (16,)}
OVERHEAD = "adm-64"
_TINY_BATCH, _TINY_STEPS = 2, 4
# Exact products have no tensor cores: so many times the seconds of the card's own precision, at most.
_SLOWER = {"exact": 6.0, "reference": 1.5, "fast": 1.5}
_EVALUATIONS = 5  # that an entry takes
_SETUP_SECONDS = 4.0
_AT_THE_END = 4.0  # seconds to stop what still compiles and to write the file
_COMPILING_SECONDS = 45.0  # below which no process is started that compiles
_COUNTING_SECONDS = 15.0  # that counting the operations of the largest network may take


@dataclass
class _Session:
    """A run of the script: what it found, how much time it has, and where it writes."""

    device: str
    tiny: bool
    deadline: float
    output: Path
    scratch: Path
    models: tuple[str, ...]
    found: dict[str, Any] = field(default_factory=dict)

    def remaining(self) -> float:
        return self.deadline - time.monotonic()

    def batch(self, model: str, of: int | None = None) -> int:
        from taba_core.models.catalog import load_card

        return _TINY_BATCH if self.tiny else of or load_card(model).cost.batch_size

    def add(self, kind: str, record: dict[str, Any]) -> None:
        """Keep a record and write the file, whole or not at all."""
        self.found[kind].append(record)
        self.write()

    def write(self) -> None:
        self.found["minutes"] = round((time.monotonic() - self.found["begun"]) / 60, 2)
        part = self.output.with_name(self.output.name + ".part")
        kept = {key: value for key, value in self.found.items() if key != "begun"}
        part.write_text(json.dumps(kept, indent=1))
        part.replace(self.output)

    def worth_starting(self, entry: Entry) -> bool:
        """Whether the entry will be done in the time that is left; one that will not is written down as left out."""
        from taba_core.models.catalog import load_card

        cost = load_card(entry.model).cost
        expected = 0.01 if self.tiny else _SLOWER[entry.profile] * cost.image_seconds * entry.batch
        if self.remaining() > _EVALUATIONS * expected + (0 if self.tiny else _SETUP_SECONDS) + _AT_THE_END:
            return True
        self.add("entries", {**vars(entry), "status": "left out: no time"})
        return False


def run(
    *,
    minutes: float,
    output: Path,
    device: str = "cuda",
    tiny: bool = False,
    models: Sequence[str] = (),
    compiled: Sequence[str] = COMPILED,
    compile_seconds: float = 150.0,
) -> dict[str, Any]:
    """Measure as much as the time allows, and write it as JSON.

    Args:
      minutes: of wall time, from now.
      output: file that holds what was measured, after every entry.
      device: cuda, or cpu to rehearse.
      tiny: networks at toy size, two images in a batch.
      models: default all, those worth most first.
      compiled: models that are compiled too.
      compile_seconds: a network that takes longer to compile is given up.
    Returns: what the file holds.
    Raises:
      UsageError: an unknown model, no such device, or a time that is none.
    """
    begun = time.monotonic()
    _check(minutes, device, (*models, *compiled))
    chosen = tuple(models) or (*FIRST, *THEN)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        session = _Session(device, tiny, begun + 60 * minutes, output, Path(scratch), chosen)
        session.found = {"schema": 1, "begun": begun, **device_facts(device), "tiny": tiny}
        session.found |= {"models": {}, "entries": [], "errors": [], "overhead": []}
        session.write()
        wanted = [
            Entry(name, "fast", session.batch(name), compiled=True) for name in compiled if name in chosen
        ]
        jobs = CompileJobs(wanted, Path(scratch), device=device, tiny=tiny, limit=compile_seconds)
        try:
            _measure(session, jobs)
            for name in session.found["models"]:
                if session.remaining() > _COUNTING_SECONDS:
                    session.found["models"][name]["flop_per_image"] = flop_per_image(name, tiny=tiny)
            while jobs.running and session.remaining() > _AT_THE_END:
                time.sleep(0.2)
                _collect(session, jobs)
        finally:
            for record in jobs.stop():
                session.add("entries", record)
        session.write()
    return {key: value for key, value in session.found.items() if key != "begun"}


def _check(minutes: float, device: str, models: Sequence[str]) -> None:
    from taba_core.models.architectures import architecture_card
    from taba_core.models.profile import usable_device

    if not minutes > 0:
        raise UsageError(f"--minutes {minutes:g}: give a time above 0, for example 4.")
    usable_device(device)
    for name in models:
        architecture_card(name)


def _measure(session: _Session, jobs: CompileJobs) -> None:
    """Everything that needs no compiler, model by model."""
    for name in session.models:
        main = [Entry(name, profile, session.batch(name)) for profile in PROFILES]
        if name in LAYOUTS:
            main.append(Entry(name, "fast", session.batch(name), channels_last=True))
        if name == OVERHEAD:
            main.append(Entry(name, "exact", session.batch(name), channels_last=False))
        _model(session, jobs, name, main, errors=True)
    for name, batches in OTHER_BATCHES.items():
        if name in session.models and not session.tiny:  # a toy has one batch
            entries = [
                Entry(name, profile, session.batch(name, batch))
                for profile in PROFILES[1:]
                for batch in batches
            ]
            _model(session, jobs, name, entries, errors=False)


def _model(session: _Session, jobs: CompileJobs, name: str, entries: list[Entry], *, errors: bool) -> None:
    """The entries of one model, the rounding of their profiles and, of one of the models, the sampler's share."""
    _start(session, jobs)
    entries = [entry for entry in entries if session.worth_starting(entry)]
    if not entries:
        return
    problem = {"model": name, "status": ""}
    with failures_in(problem):
        subject = Subject(name, session.device, tiny=session.tiny)
        session.found["models"].setdefault(name, {"parameters": subject.parameters})
        exact: list[Any] = []
        for entry in entries:
            if session.worth_starting(entry):
                _entry(session, subject, entry, exact, errors=errors)
            free_memory(session.device)
            _collect(session, jobs)
    if problem["status"]:
        session.add("entries", problem)


def _entry(session: _Session, subject: Subject, entry: Entry, exact: list[Any], *, errors: bool) -> None:
    """One entry's times and, where the exact predictions are at hand, its errors. `exact` is filled by its profile."""
    record: dict[str, Any] = {**vars(entry), "status": ""}
    network = None
    with failures_in(record):
        network = subject.network(entry.numerics())
        record = time_entry(entry, subject, network, hold=lambda: holding(session.scratch))
    session.add("entries", record)
    if network is None or not errors:
        return
    problem: dict[str, Any] = {"model": entry.model, "profile": entry.profile, "status": ""}
    with failures_in(problem):
        found = predictions(subject, network)
        if entry.profile == "exact":
            exact[:] = exact or found
        elif exact:
            problem |= {
                "channels_last": entry.channels_last,
                "relative_rms": relative_errors(found, exact),
                "status": "measured",
            }
            if entry.profile == "fast" and subject.card.precision == "fp32":
                # What float16 would round, did its range suffice.
                half = predictions(subject, subject.network(entry.numerics(), precision="fp16"))
                problem["float16_relative_rms"] = relative_errors(half, exact)
        if entry.model == OVERHEAD and entry.profile == "fast" and entry.channels_last is None:
            _overhead(session, subject, network, record)
    if problem["status"]:
        session.add("errors", problem)


def _overhead(session: _Session, subject: Subject, network: Network, timed: dict[str, Any]) -> None:
    """The sampler's share of the time, if there is time to sample."""
    steps = _TINY_STEPS if session.tiny else SAMPLING_STEPS
    runs = 4  # two of the sampler, two of the bare loop
    if timed["status"] == "measured" and session.remaining() > runs * steps * timed["seconds"] + _AT_THE_END:
        with holding(session.scratch):
            session.add("overhead", sampler_overhead(subject, network, timed["batch"], steps=steps))


def _collect(session: _Session, jobs: CompileJobs) -> None:
    for record in jobs.finished():
        session.add("entries", record)
    _start(session, jobs)


def _start(session: _Session, jobs: CompileJobs) -> None:
    # One that can only be stopped again would take processors from the others.
    if session.remaining() > (_AT_THE_END if session.tiny else _COMPILING_SECONDS):
        jobs.start()


def measure(*, repeats: int = 1, minutes: float = 4.0, output: str | None = None) -> Measurement:
    """The script on this machine's GPU, as a table.

    Args:
      repeats: unused; the time decides how often an entry is measured.
      output: the JSON file; default `gpu.json` here.
    Raises:
      UsageError: as `run`.
    """
    return as_table(run(minutes=minutes, output=Path(output or "gpu.json")))


def as_table(found: dict[str, Any]) -> Measurement:
    """What `run` found, as a benchmark's table."""
    rows, figures = [], {}
    for record in found["entries"]:
        if "profile" not in record:
            continue
        entry = Entry(*(record[name] for name in ("model", "profile", "batch", "compiled", "channels_last")))
        if record["status"] != "measured":
            rows.append(TableRow(entry.model, "", entry.text, record["status"]))
            continue
        seconds, memory = record["seconds"], record["peak_bytes"]
        flop = found["models"].get(entry.model, {}).get("flop_per_image", 0.0) * entry.batch
        rate = f"{flop / seconds / 1e12:.3g} TFLOP/s" if flop else ""
        figures[entry.text] = seconds
        rows.append(
            TableRow(
                entry.model,
                f"{entry.batch} images",
                entry.text,
                seconds_text(seconds),
                f"{seconds_text(record['least'])} to {seconds_text(record['most'])}",
                ", ".join(part for part in (rate, bytes_text(memory) if memory else "") if part),
            )
        )
    notes = [f"{found['card']}, torch {found['torch']}, {found['date']}"]
    notes += [
        f"{e['model']} {e['profile']}: relative RMS error {', '.join(f'{x:.1e}' for x in e['relative_rms'])}"
        for e in found["errors"]
        if e["status"] == "measured"
    ]
    notes += [f"{o['model']}: sampling over a bare loop {o['ratio']:.3f}" for o in found["overhead"]]
    return Measurement(tuple(rows), figures, tuple(notes))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of the script."""
    from workflows.bench.paired import print_measurement

    parser = argparse.ArgumentParser(prog="python -m workflows.bench.gpu", description=__doc__)
    parser.add_argument("--minutes", type=float, default=4.0, help="wall time in all")
    parser.add_argument(
        "--output", type=Path, default=Path("gpu.json"), help="JSON, written after every entry"
    )
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to rehearse")
    parser.add_argument("--tiny", action="store_true", help="networks at toy size")
    parser.add_argument("--model", action="append", default=[], help="repeatable; default all")
    parser.add_argument("--compile", action="append", help="models to compile too; repeatable; '' for none")
    parser.add_argument(
        "--compile-seconds", type=float, default=150.0, help="after which compiling is given up"
    )
    given = parser.parse_args(arguments)
    # A time limit of the machine's ends the command as its own does: what compiles is stopped, the file is whole.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    compiled = COMPILED if given.compile is None else [name for name in given.compile if name]
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir()) / "taba-inductor"))
    found = run(
        minutes=given.minutes,
        output=given.output,
        device=given.device,
        tiny=given.tiny,
        models=given.model,
        compiled=compiled,
        compile_seconds=given.compile_seconds,
    )
    print_measurement(as_table(found))


if __name__ == "__main__":
    main()
