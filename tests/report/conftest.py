"""One small report of a real run, which all tests of pages read."""

from __future__ import annotations

import pytest

from workflows.__main__ import main

STUDIES = ("correlation", "regions", "step-error", "fix")
SETTINGS = ("num_samples=8", "num_inference_steps=10", "bootstrap_replicates=100")


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of the report of four studies on the Gaussian field; its store is the folder above."""
    path = tmp_path_factory.mktemp("site") / "store"
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    with pytest.raises(SystemExit) as end:
        main(
            ["run", *STUDIES, "--model", "gaussian", "--executor", "inline", "--store", str(path), *settings]
        )
    assert not end.value.code
    return path / "report"
