"""A run that finds all it asks for in the store answers at once: what computes, decodes and draws is not imported."""

import json
import subprocess
import sys

from engine_runs import ARGUMENTS, fingerprints, run

CODE = """
import json, sys
from workflows.__main__ import main
try:
    main(json.loads(sys.argv[1]))
except SystemExit as end:
    assert not end.code
heavy = {"matplotlib", "xarray", "pandas", "zarr", "dask", "scipy.stats", "scipy.special", "ray", "diffusers"}
heavy |= {"sklearn", "torch"}
print(json.dumps(sorted(heavy & set(sys.modules))))
"""


def test_a_finished_store_is_answered_without_what_made_it(tmp_path):
    arguments = [word for word in ARGUMENTS if word != "--no-report"]
    store = tmp_path / "store"
    assert run(store) == 0
    command = [sys.executable, "-c", CODE, json.dumps([*arguments, "--store", str(store)])]
    first = subprocess.run(command, capture_output=True, text=True, check=True)  # writes the report
    held = fingerprints(store)
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "matplotlib" in json.loads(first.stdout.splitlines()[-1])
    assert json.loads(again.stdout.splitlines()[-1]) == []
    assert "computed 0 units, analysed 0 studies, reused 2" in again.stdout
    assert fingerprints(store) == held
