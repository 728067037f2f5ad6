"""Whole tiny models that tests of damaged files start from."""

from __future__ import annotations

import pytest
from adm_cases import tiny_weights
from damaged_cases import MAKERS, adm_folder

from taba_core.models.state_dict_file import read_state_dict


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("models")
    made = {name: make(base / f"tiny-{name}") for name, make in MAKERS.items()}
    return made | {"adm": adm_folder(base / "adm")}


@pytest.fixture(scope="module")
def adm_state():
    return read_state_dict(tiny_weights("adm32"))
