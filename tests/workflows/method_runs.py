"""Runs of studies under any inversion method inside the test process, and what they reported."""

from __future__ import annotations

import json

from cluster.pool.executor import Resources
from cluster.pool.local import LocalExecutor
from taba_core.store import Store
from workflows.analysis.study import find_studies, read_settings
from workflows.configuration.context import Context
from workflows.execution.engine import run_plan
from workflows.planning.plan import make_plan
from workflows.report.from_store import write_store_report


def context(*sets: str, model: str = "gaussian", method: str = "ddim") -> Context:
    return Context(model, method, read_settings(list(sets)))


def run(path, names, *sets, method: str = "ddim", workers: int = 2):
    store = Store.open(path, mode="a")
    plan = make_plan(context(*sets, method=method), find_studies(names), store)
    run_plan(plan, store, lambda: LocalExecutor(workers=workers), Resources(num_cpus=1), workers=workers)
    return store


def report_of(path):
    write_store_report(path, None, force=True)
    folder = path / "report"
    return json.loads((folder / "results.json").read_text()), json.loads((folder / "claims.json").read_text())
