"""Imports run one way: workflows -> cluster, taba_core; torch and the stores meet in workflows/compute/tasks.py only."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TORCH, STORES, RAY = {"torch"}, {"xarray", "zarr", "dask"}, {"ray"}

# Folder -> packages no file below it may import, at any level of its syntax tree.
FORBIDDEN = {
    "taba_core": {"cluster", "workflows", *RAY},
    "taba_core/diffusion": STORES,
    "taba_core/models": STORES,
    "taba_core/stats": TORCH,
    "taba_core/store": TORCH,
    "taba_core/schema.py": TORCH,
    "taba_core/theory.py": TORCH,
    "taba_core/slerp.py": {*TORCH, *STORES},
    "cluster": {"taba_core", "workflows", "numpy", *TORCH, *STORES},
    "workflows/studies": {*TORCH, *RAY, "zarr", "dask", "cluster"},
}


def imports_of(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("place", FORBIDDEN)
def test_nothing_imports_against_the_direction(place):
    path = ROOT / place
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    assert files, f"{place} is gone; move its rule"
    wrong = {
        str(file.relative_to(ROOT)): bad
        for file in files
        if (bad := {m for m in imports_of(file) if m.split(".")[0] in FORBIDDEN[place]})
    }
    assert not wrong


def test_studies_never_import_one_another():
    for file in (ROOT / "workflows/studies").glob("*.py"):
        assert not {m for m in imports_of(file) if m.startswith("workflows.studies")}, file


def test_tensors_become_stored_arrays_in_one_file():
    def uses_torch_and_store(file: Path) -> bool:
        modules = imports_of(file)
        return any(m.split(".")[0] == "torch" for m in modules) and any(
            m.startswith("taba_core.store") for m in modules
        )

    found = [f.name for f in (ROOT / "workflows").glob("*.py") if uses_torch_and_store(f)]
    assert found == ["tasks.py"]


@pytest.mark.parametrize("command", (["--help"], ["run", "--help"]))
def test_help_imports_neither_torch_nor_ray_nor_xarray(command):
    code = (
        "import sys\nfrom workflows.__main__ import main\n"
        f"try:\n    main({command!r})\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'ray', 'xarray', 'dask', 'zarr', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_importing_the_packages_imports_nothing_heavy():
    code = (
        "import sys, taba_core, cluster, workflows\n"
        "print([m for m in ('torch', 'ray', 'xarray', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
