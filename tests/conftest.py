"""Shared by all tests: one cache for fitted models, quiet and single-threaded numerics."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("RAY_DEDUP_LOGS", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny networks lose time to threads, and cores are shared

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    return DATA


@pytest.fixture(scope="session", autouse=True)
def model_cache(tmp_path_factory):
    """Fits are cached for the session, not in the user's home; subprocesses inherit the variable."""
    previous = os.environ.get("TABA_CACHE")
    base = tmp_path_factory.getbasetemp()
    # Parallel test processes have directories side by side and share one cache (its files appear atomically).
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    cache.mkdir(exist_ok=True)
    os.environ["TABA_CACHE"] = previous or str(cache)
    yield Path(os.environ["TABA_CACHE"])
    if previous is None:
        del os.environ["TABA_CACHE"]


@pytest.fixture(scope="session", autouse=True)
def empty_torch_hub(tmp_path_factory):
    """What the user's machine holds of other networks' weights must not change what a test finds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch-home")))
        yield
