"""What a check says, what it looks at, and the list of all checks."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Status = Literal["ok", "warn", "FAIL", "skipped"]


@dataclass(frozen=True)
class Finding:
    """One line of the page. What is not in order comes with what to do about it.

    Raises:
      ValueError: a warning or failure without a remedy.
    """

    status: Status
    found: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if self.status in ("warn", "FAIL") and not self.remedy:
            raise ValueError(f"'{self.found}' needs a remedy: a {self.status} says what to do about it.")


def ok(found: str) -> Finding:
    """In order."""
    return Finding("ok", found)


def warn(found: str, remedy: str) -> Finding:
    """Runs, but slower, less safely or not for long."""
    return Finding("warn", found, remedy)


def fail(found: str, remedy: str) -> Finding:
    """A run would break, or somebody else could read or run what is the user's."""
    return Finding("FAIL", found, remedy)


def skipped(reason: str) -> Finding:
    """Nothing to look at here."""
    return Finding("skipped", reason)


@dataclass(frozen=True)
class Ran:
    """How a command ended. `code` is 127 if there is no such command, 124 if it was stopped after its time."""

    code: int
    output: str
    errors: str = ""


def run_command(command: Sequence[str], timeout: float = 30.0) -> Ran:
    """Run a command and keep what it printed; never raises for a command that is missing, fails or hangs."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout, check=False
        )
    except FileNotFoundError:
        return Ran(127, "", f"{command[0]}: not found")
    except subprocess.TimeoutExpired:
        return Ran(124, "", f"no answer in {timeout:.0f} s")
    except OSError as error:
        return Ran(126, "", f"{command[0]}: {error.strerror}")
    return Ran(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True, eq=False)
class Subject:
    """What is examined: this machine, and what the user named. Tests replace commands, variables and /proc.

    Attributes:
      store: where a store is or will be; None = not asked.
      models: names or paths of cards.
      address: the Ray cluster as typed; None = the value of RAY_ADDRESS.
    """

    store: str | None = None
    models: tuple[str, ...] = ()
    address: str | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    run: Callable[[Sequence[str], float], Ran] = run_command
    which: Callable[[str], str | None] = shutil.which
    proc: Path = Path("/proc")
    directory: Path = field(default_factory=Path.cwd)

    @property
    def cluster(self) -> str | None:
        """Address of the Ray cluster to look at; None if none is named (a web address is no such address)."""
        address = self.address or self.environ.get("RAY_ADDRESS", "")
        return None if address in ("", "local") or address.startswith("http") else address

    @functools.cached_property
    def mounts(self) -> str:
        """The kernel's list of mounted file systems; "" where there is none."""
        try:
            return (self.proc / "self" / "mountinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""


Check = Callable[[Subject], Finding]


@dataclass(frozen=True)
class Registered:
    """A check with its place on the page."""

    section: str
    name: str
    check: Check


CHECKS: list[Registered] = []


def check(section: str, name: str) -> Callable[[Check], Check]:
    """Decorator: put a function on the page, below the others of its section."""

    def register(function: Check) -> Check:
        CHECKS.append(Registered(section, name, function))
        return function

    return register
