"""A finished store to be damaged, and what a command says that is refused; modules with their own override them."""

from __future__ import annotations

import re
import shutil

import pytest
from engine_runs import taba
from remedy_runs import RUN


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("finished") / "store"
    assert taba(*RUN, "--store", path) == 0
    return path


@pytest.fixture
def store(finished, tmp_path):
    """A copy of a finished store."""
    return shutil.copytree(finished, tmp_path / "store")


@pytest.fixture
def refused(capsys):
    """The error of a command that fails; its exit code is checked."""

    def call(code, *arguments):
        capsys.readouterr()
        assert taba(*arguments) == code
        (line,) = re.findall(r"^taba: error: (.*)", capsys.readouterr().err, re.MULTILINE)
        return line

    return call
