"""Every command on the page "On your cluster" exists, with its options, studies, fields and variables."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
import typer

from taba_core.models.catalog import load_card
from workflows.analysis.study import find_studies, read_settings
from workflows.command.cli import app
from workflows.planning.jobs import Asked, each_model

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "slurm" / "README.md"
RUNS = ("full_repro.sh", "study.sh")  # hand their arguments to `taba run`


def code() -> list[str]:
    """Code of the page: the lines of its blocks without comments, and what stands between backticks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    prose = re.sub(r"^```.*?^```", "", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [line for line in lines if line] + [
        " ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)
    ]


def commands() -> list[list[str]]:
    """Words behind every `taba`; a script that runs `taba run` counts as one."""
    found = []
    for line in code():
        line = re.sub(r"slurm/chain\.sh \d+ ", "", line)
        for script in RUNS:
            line = re.sub(rf"^(sbatch \S+ )?slurm/{re.escape(script)} (?=\S)", "taba run ", line)
        if said := re.search(r"(?<![\w/.$-])taba ([a-z][^)|;]*)", line):
            found.append(said.group(1).split())
    return found


def resolved(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that words name, and what is left of them."""
    command: click.Command = typer.main.get_command(app)
    while hasattr(command, "commands") and words:
        assert words[0] in command.commands, f"there is no `taba {' '.join(words)}`"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def test_the_page_names_enough_to_be_worth_checking():
    assert {"doctor", "run", "status", "verify", "plan", "cluster"} <= {words[0] for words in commands()}
    assert len(PAGE.read_text().splitlines()) <= 120


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_exists_with_its_options(words):
    command, rest = resolved(words)
    known = {
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    assert {word for word in rest if word.startswith("--")} <= known


@pytest.mark.parametrize(
    "words", [w for w in commands() if w[0] in ("run", "plan", "simulate") and len(w) > 1], ids=" ".join
)
def test_studies_models_and_fields_exist(words):
    options = [index for index, word in enumerate(words) if word.startswith("--")]
    studies = words[1 : options[0] if options else None]
    assert find_studies(studies or ["paper"])  # what full_repro.sh runs when none is named
    for index in options:
        if words[index] == "--model":
            for part in each_model(Asked([], "", "", "ddim", []), [words[index + 1]]):
                load_card(part.model)
        if words[index] == "--set":
            read_settings([words[index + 1]])


@pytest.mark.parametrize("name", sorted(set(re.findall(r"slurm/(\w+\.sh(?:\.example)?)", PAGE.read_text()))))
def test_every_script_exists(name):
    # site.sh is the reader's own, a copy of the example.
    assert (ROOT / "slurm" / (f"{name}.example" if name == "site.sh" else name)).is_file()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"TABA_[A-Z_]+", PAGE.read_text()))))
def test_every_variable_is_one_the_scripts_read(name):
    assert any(name in script.read_text() for script in (ROOT / "slurm").glob("*.sh*"))


@pytest.mark.parametrize("option", sorted(set(re.findall(r"`?(--idle-minutes)", PAGE.read_text()))))
def test_options_of_the_held_cluster_exist(option):
    assert option in (ROOT / "cluster" / "slurm" / "bringup.py").read_text()
