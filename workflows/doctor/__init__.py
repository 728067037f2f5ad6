"""`taba doctor`: what has stopped or endangered runs before, looked for on this machine and cluster beforehand.

A check is one function `Subject -> Finding` with `@check(section, name)` in the module of its subject.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from workflows.doctor.finding import CHECKS, Finding, Registered, Subject, fail

# In the page's order.
_MODULES = ("software", "code", "gpu", "storage", "scratch", "access", "nodes", "slurm", "models")


def diagnose(
    subject: Subject, on_check: Callable[[Registered], None] = lambda entry: None
) -> list[tuple[Registered, Finding]]:
    """Run every check, in the page's order.

    A check that breaks off is a failure with its reason, and does not stop the others.

    Args:
      on_check: called before each; some take seconds.
    """
    modules = [importlib.import_module(f"workflows.doctor.{name}").__name__ for name in _MODULES]
    placed = sorted(CHECKS, key=lambda entry: modules.index(entry.check.__module__))
    findings = []
    for entry in placed:
        on_check(entry)
        findings.append((entry, _examine(entry, subject)))
    return findings


def _examine(entry: Registered, subject: Subject) -> Finding:
    try:
        return entry.check(subject)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        return fail(
            f"the check broke off: {type(error).__name__}: {reason}", "look at this by hand before a long run"
        )


def examine_and_print(subject: Subject, *, as_json: bool) -> None:
    """Print the page, or one JSON object; exit code 1 if anything failed.

    Raises:
      UsageError: an unknown model.
    """
    from rich.console import Console

    from taba_core.models.catalog import load_card
    from workflows.doctor.page import print_json, print_page

    for name in subject.models:
        load_card(name)
    with Console(stderr=True).status("") as shown:  # on a terminal only
        findings = diagnose(subject, lambda entry: shown.update(f"{entry.section}: {entry.name}"))
    (print_json if as_json else print_page)(findings)
    if any(finding.status == "FAIL" for _, finding in findings):
        raise SystemExit(1)
