"""Imports run one way: workflows -> cluster, taba_core; torch and the stores meet in workflows/compute only.

Every rule is read from the syntax trees of all files, at any depth: imports inside functions and relative ones count.
"""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from source_tree import (
    ROOT,
    circle_of_imports,
    files_below,
    functions_of_more_than,
    imports_of,
    is_within,
    module_name,
    modules,
    properties,
    work_in_asserts,
)

TORCH, STORES, RAY = {"torch"}, {"xarray", "zarr", "dask"}, {"ray"}

# Folder or file -> packages and modules that nothing in it may import.
FORBIDDEN = {
    "taba_core": {"cluster", "workflows", *RAY},
    "taba_core/diffusion": {"taba_core.store", "taba_core.stats", *STORES},
    "taba_core/models": {"taba_core.store", *STORES},
    "taba_core/metrics": {"taba_core.store", "taba_core.stats", *STORES},
    "taba_core/stats": {"taba_core.models", "taba_core.store", *TORCH},
    "taba_core/store": {"taba_core.models", *TORCH},
    "taba_core/artifacts": {*TORCH, *STORES},
    "taba_core/theory.py": TORCH,
    "taba_core/slerp.py": {*TORCH, *STORES},
    "cluster": {"taba_core", "workflows", "numpy", *TORCH, *STORES},
    "workflows/studies": {*TORCH, *RAY, "zarr", "dask", "cluster"},
}


@pytest.mark.parametrize("place", FORBIDDEN)
def test_nothing_imports_against_the_direction(place):
    files = files_below(place)
    assert files, f"{place} is gone; move its rule"
    wrong = {
        module_name(file): bad
        for file in files
        if (bad := {m for m in imports_of(file) for rule in FORBIDDEN[place] if is_within(m, rule)})
    }
    assert not wrong


def study_of(module: str) -> str:
    """The study, a module or a package of workflows.studies, that a module belongs to; "" outside them."""
    parts = module.split(".")
    return parts[2] if parts[:2] == ["workflows", "studies"] and len(parts) > 2 else ""


def test_studies_never_import_one_another():
    wrong = {
        name: others
        for name, file in modules().items()
        if study_of(name)
        and (others := {m for m in imports_of(file) if study_of(m) not in ("", study_of(name))})
    }
    assert not wrong


def test_tensors_become_stored_arrays_in_one_room():
    def meets(file):
        return any(is_within(m, "torch") for m in imports_of(file)) and any(
            is_within(m, "taba_core.store") for m in imports_of(file)
        )

    # Benchmarks measure both halves, and store nothing that anyone reads.
    found = [
        name for name, file in modules().items() if meets(file) and not is_within(name, "workflows.bench")
    ]
    assert found and all(is_within(name, "workflows.compute") for name in found)


def test_no_modules_import_one_another_in_a_circle():
    assert not circle_of_imports()


def test_no_assert_does_work_that_python_leaves_out_under_O():
    known = properties()
    assert {"method", "module", "units"} <= known
    assert not [line for file in modules().values() for line in work_in_asserts(file, known)]


def test_a_file_knows_its_imports_wherever_they_stand(tmp_path):
    package = tmp_path / "workflows" / "studies" / "one"
    package.mkdir(parents=True)
    (tmp_path / "workflows/studies/two.py").write_text("def f():\n    from .one import part\n")
    (package / "__init__.py").write_text("from ..two import f\nfrom . import part\n")
    (package / "part.py").write_text("import os.path\n")
    assert imports_of(package / "__init__.py", tmp_path) == {
        "workflows.studies.two",
        "workflows.studies.one.part",
    }
    assert imports_of(package / "part.py", tmp_path) == {"os.path"}
    assert imports_of(tmp_path / "workflows/studies/two.py", tmp_path) == {"workflows.studies.one.part"}
    assert not circle_of_imports(tmp_path)
    (package / "part.py").write_text("class A:\n    from workflows.studies import two\n")
    imports_of.cache_clear()
    assert circle_of_imports(tmp_path) == [
        "workflows.studies.one.part",
        "workflows.studies.two",
        "workflows.studies.one.part",
    ]


@pytest.mark.parametrize("line", ["self.method is not None", "f(x)", "(y := x)", "len(f(x)) == 1"])
def test_work_in_an_assert_is_seen(tmp_path, line):
    (tmp_path / "a.py").write_text(f"assert {line}\n")
    assert list(work_in_asserts(tmp_path / "a.py", frozenset({"method"}))) == [f"a.py:1: assert {line}"]
    (tmp_path / "b.py").write_text("assert isinstance(self.x, int) and len(x) == 3\n")
    assert not list(work_in_asserts(tmp_path / "b.py", frozenset({"method"})))


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


@pytest.mark.parametrize("place", ["taba_core", "cluster", "workflows", "tests"])
def test_files_and_parameters_are_few_enough_to_read(place):
    files = files_below(place)
    assert files
    long = {str(file): lines for file in files if (lines := len(file.read_text().splitlines())) > 400}
    wide = [found for file in files for found in functions_of_more_than(8, file)]
    assert not long and not wide


def test_the_context_stays_what_every_study_needs():
    assert len((ROOT / "workflows/configuration/context.py").read_text().splitlines()) < 300


def test_parameters_are_counted_without_self(tmp_path):
    (tmp_path / "a.py").write_text(
        "class A:\n    def f(self, a, /, b, *c, d, **e): ...\n    @staticmethod\n    def g(a, b, c, d, e): ...\n"
    )
    assert functions_of_more_than(4, tmp_path / "a.py") == ["a.py:2: f takes 5", "a.py:4: g takes 5"]
    assert not functions_of_more_than(5, tmp_path / "a.py")


def test_nothing_reads_the_private_parts_of_ray():
    private = [
        f"{module_name(file)}: {node.attr}"
        for file in files_below("cluster") + files_below("workflows")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("ray._")
    ]
    imported = [name for file in modules().values() for name in imports_of(file) if name.startswith("ray._")]
    assert not imported
    # Ray prints the log of a dead raylet on the driver, and has no public way to say no.
    assert set(private) <= {
        f"cluster.ray.session: {name}" for name in ("_private", "worker", "print_to_stdstream")
    }
