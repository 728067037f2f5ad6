"""Names of stored results: the literal keys of every study, which settings they depend on, and on which they do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from workflows.analysis.study import read_settings, studies
from workflows.configuration.context import Context

# Made before options belonged to their study; a store keeps what it has as long as they hold.
KEYS = json.loads((Path(__file__).parent.parent / "data/result_keys.json").read_text())
SETS = {
    "defaults": [],
    "flat": [
        "forward_steps=1,2", "inversion_steps=2,4", "long_steps=20", "long_forward_steps=1,2", "mapping_steps=5",
        "mapping_divisions=whole", "methods=ddim,bdia", "arc_samples=16", "bootstrap_replicates=200",
        "num_samples=64",
    ],
}  # fmt: skip


@pytest.mark.parametrize("case", KEYS)
def test_the_keys_of_results_are_what_they_were(case):
    model, which = case.split()
    context = Context(model, "ddim", read_settings(SETS[which]))
    assert {name: studies()[name].result_key(context) for name in KEYS[case]} == KEYS[case]
