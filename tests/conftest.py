"""Shared by all tests: one cache for fitted models, quiet and single-threaded numerics."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from taba_core.models.torchvision_import import repair_torchvision

os.environ.setdefault("RAY_DEDUP_LOGS", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny networks lose time to threads, and cores are shared

# How long an example takes, and how long it takes to draw, says how busy the machine is, and nothing of the product.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")

repair_torchvision()  # tests import diffusers and transformers at their top, and those torchvision

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


@pytest.fixture(autouse=True)
def followed_messages(request):
    """A test marked `follows(fragment, ...)` follows the ways out that messages name: it must have met all of them.

    Those that are printed, and not raised (`printed=True`), it looks for itself.
    """
    marks = [mark for mark in request.node.iter_markers("follows") if not mark.kwargs.get("printed")]
    wanted = [text for mark in marks for text in mark.args]
    if not wanted:
        yield
        return
    from cluster.pool.executor import ClusterError
    from taba_core.errors import TabaError

    said: list[str] = []

    def note(self: Exception, *words: object) -> None:
        said.extend(map(str, words))

    with pytest.MonkeyPatch.context() as patch:
        for error in (TabaError, ClusterError):
            patch.setattr(error, "__init__", note, raising=False)
        yield
    for fragment in wanted:
        assert any(fragment in text for text in said), f"no error said: {fragment}"
