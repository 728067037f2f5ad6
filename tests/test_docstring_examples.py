"""Every example in a docstring of taba_core runs and prints what it says; those of `stats.query` run beside a store."""

from __future__ import annotations

import doctest
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from source_tree import files_below, module_name

import taba_core
from taba_core import rng
from taba_core.diffusion import NoiseSchedule, TimestepGrid
from taba_core.diffusion.level import Level

sys.path.append(str(Path(__file__).parent / "stats"))
from query_store import make_store

# What an example may use without an import: the names of a notebook's first lines.
SCOPE = {
    "np": np,
    "torch": torch,
    "taba_core": taba_core,
    "rng": rng,
    "NoiseSchedule": NoiseSchedule,
    "TimestepGrid": TimestepGrid,
    "Level": Level,
}


def modules_with_examples():
    return [
        module_name(file)
        for file in files_below("taba_core")
        if ">>> " in file.read_text() and "stats/query" not in file.as_posix()
    ]


@pytest.fixture(scope="module", autouse=True)
def demo(tmp_path_factory):
    """A directory with the store that the examples of queries open."""
    folder = tmp_path_factory.mktemp("examples")
    make_store(folder / "runs" / "demo", num_samples=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


@pytest.mark.parametrize("name", modules_with_examples())
def test_the_examples_of_a_module_run(name):
    module = importlib.import_module(name)
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    for example in doctest.DocTestFinder().find(module, extraglobs=SCOPE):
        runner.run(example, out=said.append)
    assert runner.tries and not runner.failures, "".join(said)


def test_every_name_of_the_package_has_an_example():
    names = [name for name in taba_core.__all__ if name != "__version__"]
    finder = doctest.DocTestFinder(recurse=False)
    bare = [n for n in names if not finder.find(getattr(taba_core, n), n, module=False)[0].examples]
    assert names and not bare


def test_a_wrong_example_is_seen(tmp_path, monkeypatch):
    (tmp_path / "wrong_example.py").write_text('"""Wrong.\n\n>>> 1 + 1\n3\n"""\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(AssertionError, match=r"Expected:\s+3\s+Got:\s+2"):
        test_the_examples_of_a_module_run("wrong_example")
