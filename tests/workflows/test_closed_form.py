"""The whole system against theory: on Gaussian data every measured number has a closed form."""

from __future__ import annotations

import json

import pytest

from cluster.pool.executor import Resources
from cluster.pool.local import LocalExecutor
from taba_core.store import Store
from workflows.analysis.study import find_studies, read_settings
from workflows.configuration.context import Context
from workflows.execution.engine import run_plan
from workflows.planning.plan import make_plan
from workflows.report.from_store import write_store_report


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("gaussian") / "store"
    settings = read_settings(["num_samples=64", "num_inference_steps=20", "forward_steps=1,2,4"])
    context = Context("gaussian", "ddim", settings)
    store = Store.open(path, mode="a")
    plan = make_plan(context, find_studies(["correlation", "regions", "step-error", "fix"]), store)
    run_plan(plan, store, lambda: LocalExecutor(workers=2), Resources(num_cpus=1), workers=2)
    write_store_report(path, None, force=True)
    found = json.loads((path / "report" / "results.json").read_text())
    return [row for row in found if row["theory"] is not None]


def test_every_number_with_a_closed_form_agrees_with_it(rows):
    # Half a 95 % interval is about 2 SE; 2.5 of them are 5 SE, so that 200 numbers agree by more than luck.
    far = [
        (row["item"], row["row"], row["column"], row["value"], row["theory"], row["ci95"])
        for row in rows
        if abs(row["value"] - row["theory"]) > 2.5 * (row["ci95"][1] - row["ci95"][0]) / 2 + 1e-6
    ]
    assert not far


def test_closed_forms_stand_beside_tables_3_and_4_and_figure_4b(rows):
    items = {(row["item"], row["column"]) for row in rows}
    for expected in (
        ("table3", "error_all"),
        ("table3", "std_all"),
        ("table4", "mae"),
        ("table4", "kl_global"),
    ):
        assert expected in items
    assert {"fig4b", "table2-unbiased", "table4-unbiased"} <= {item for item, _ in items}
    # K = 0, and K = 1, 2, 4 under both rules: seven latents.
    assert sum((row["item"], row["column"]) == ("table4", "mae") for row in rows) == 7
