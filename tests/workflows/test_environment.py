"""A wrong value in the environment is refused with the name of its variable, before anything runs."""

import re

import pytest

from taba_core.environment import count_in_environment
from taba_core.errors import UsageError
from taba_core.store.holder import Holder
from workflows.execution.run import choose_executor


@pytest.mark.parametrize(("text", "count"), [("", 7), (" 3 ", 3), ("0", 0)])
def test_a_count_is_read_or_the_default_taken(text, count):
    assert count_in_environment("SLURM_NNODES", 7, {"SLURM_NNODES": text}) == count


@pytest.mark.parametrize("text", ["two", "-1", "1.5"])
def test_a_count_that_is_none_names_its_variable(text, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", text)
    said = f"the variable SLURM_RESTART_COUNT is '{text}'; Slurm sets it to a whole number."
    with pytest.raises(UsageError, match=re.escape(said)):
        Holder.this_process("run")


@pytest.mark.parametrize("embedded", [True, False])
def test_the_address_of_a_dashboard_is_a_usage_error_before_the_store_is_touched(embedded, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(
        UsageError, match=r"^the variable RAY_ADDRESS is 'http://127\.0\.0\.1:8265': this is the web address"
    ):
        choose_executor("ray", None, None, embedded=embedded)
    choose_executor("local", None, 1, embedded=embedded)  # which does not read it
