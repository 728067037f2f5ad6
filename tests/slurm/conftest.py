"""A job of the launcher whose node-local directories must go with it."""

from __future__ import annotations

import pytest
from launcher_jobs import Job


@pytest.fixture
def job(tmp_path):
    made = []

    def make(script: str = "full_repro.sh", **environment: str) -> Job:
        made.append(Job(tmp_path, script, **environment))
        return made[-1]

    yield make
    for one in made:
        left = list(one.local.glob("taba-*")) if one.local.exists() else []
        assert left == [], "node-local directories must go with the job"
        one.local.exists() and one.local.rmdir()
