"""What `import cluster` gives: names that are loaded when they are first used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import cluster


def test_every_name_is_there_and_others_are_not():
    for name in cluster.__all__:
        assert getattr(cluster, name) is not None
        assert name in dir(cluster)
    with pytest.raises(
        AttributeError, match="module 'cluster' has no attribute 'Nodes'; it has: ClusterError, "
    ):
        cluster.Nodes


def test_the_import_loads_no_part_of_the_package():
    code = "import cluster, sys; print([name for name in sys.modules if name.startswith('cluster.')])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
