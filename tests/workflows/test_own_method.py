"""A method of one's own, in a file outside the package: found, run by workers, kept apart by what its file says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from engine_runs import taba

from taba_core.errors import UsageError
from taba_core.store import Store
from workflows.analysis.study import find_studies, read_settings
from workflows.compute.own_module import check_own_module, own_module
from workflows.configuration.context import Context

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "taba_core/diffusion/inversion/README.md"
SMALL = (
    "--model", "gaussian", "--set", "num_samples=8", "--set", "num_inference_steps=10", "--set",
    "bootstrap_replicates=100", "--set", "methods=ddim,fixed-point-5",
)  # fmt: skip


def of_the_page(name: str = "twice") -> str:
    """The file that the documentation tells a reader to write, its method under that name."""
    text = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    return text.replace('"twice"', f'"{name}"')


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the file, under a name that no other test has imported."""
    name = "own_" + re.sub(r"\W", "", tmp_path.name)
    (tmp_path / f"{name}.py").write_text(of_the_page(name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != ""])
    return tmp_path, f"{name}:Twice"


def requests(method, *sets):
    context = Context("gaussian", method, read_settings(["num_samples=8", "num_inference_steps=10", *sets]))
    return find_studies(["fix"])[0].requests(context)


def test_the_page_is_short_and_its_file_shorter():
    assert len(of_the_page().splitlines()) <= 20


def test_a_file_beside_the_user_is_a_method_in_every_study(folder):
    path, method = folder
    options = ("--set", "method.weight=0.5", "--set", "forward_steps=1", "--no-report")
    arguments = ("run", "methods", "fix", "--store", "s", "--executor", "local", "--method", method)
    assert taba(*arguments, *SMALL, *options) == 0
    store = Store.open(path / "s", mode="r")
    mine = [g for g in store.artifacts() if g.artifact.kind == "inversion" and g.artifact.method == method]
    # K = 0, shared by both studies, and K = 1 under two rules.
    assert sorted(g.artifact.forward_steps for g in mine) == [0, 1, 1]
    (plain,) = [g for g in mine if g.artifact.forward_steps == 0]
    assert plain.artifact.method_options == {"weight": 0.5}
    assert plain.artifact.method_location == str(path)
    assert (plain.read_samples(0, 8, ("evaluations",))["evaluations"] == 20).all()
    (name,) = [name for name in store.results() if "-methods-" in name]
    found = store.read_result(name)
    assert str(found["row_label"].sel(row="own").item()) == f"{method} (weight=0.5)"
    # A second look comes back nearer than the first.
    assert float(found["mae"].sel(row="own")) < float(found["mae"].sel(row="ddim"))


def test_an_edited_file_is_another_method_at_once_and_the_old_one_when_put_back(folder):
    path, method = folder
    file = next(path.glob("own_*.py"))
    text = file.read_text()
    before = requests(method)["latent/0"].artifact
    file.write_text(text.replace("weight: float = 1.0", "weight: float = 0.25"))
    edited = requests(method)["latent/0"].artifact
    assert edited.key != before.key and edited.method_options == {"weight": 0.25}
    file.write_text(text)
    assert requests(method)["latent/0"].artifact.key == before.key


def test_where_a_file_lies_is_in_no_key(folder):
    _, method = folder
    here = requests(method)["latent/0"].artifact
    assert here.model_copy(update={"method_location": "/elsewhere"}).key == here.key


@pytest.mark.follows("). Do not edit it while it runs; run the command again.")
def test_a_file_that_changed_since_the_plan_is_refused_and_planned_anew(folder):
    path, method = folder
    planned = own_module(method)
    check_own_module(method, *planned)
    file = next(path.glob("own_*.py"))
    file.write_text(file.read_text() + "\n# more\n")
    with pytest.raises(
        UsageError, match=f"{method}': its file in {path} is not the one this run was planned with"
    ):
        check_own_module(method, *planned)
    check_own_module(method, *own_module(method))  # what the command plans with when it is run again


@pytest.mark.parametrize(
    ("method", "message"),
    [
        pytest.param(
            "no_such_file:Twice",
            "inversion method 'no_such_file:Twice': there is no module 'no_such_file' in ",
            marks=pytest.mark.follows("Give package.module:Class."),
        ),
        ("no.such.package:Twice", "there is no module 'no.such.package' in "),
        ("{module}:Thrice", "unknown class of module {module} 'Thrice': did you mean Twice"),
        (
            "json:JSONDecoder",
            "is no class derived from taba_core.diffusion.inversion.StepMethod or WholeMethod",
        ),
    ],
)
def test_what_is_no_method_is_refused_with_the_way_out(folder, method, message):
    module = folder[1].split(":")[0]
    with pytest.raises(UsageError, match=re.escape(message.format(module=module))):
        requests(method.format(module=module))
    assert requests(folder[1])  # module:Class of a file that is there


def test_a_module_of_a_package_is_found_from_above_it(folder):
    path, _ = folder
    package = path / f"{path.name.replace('-', '_')}_pkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text(of_the_page("inner"))
    found = own_module(f"{package.name}.inner:Twice")
    assert found.location == str(path)


def test_a_file_that_does_not_import_says_why(folder):
    path, _ = folder
    (path / "own_broken.py").write_text("import taba_core\n\nvalue = 1 / 0\n")
    with pytest.raises(
        UsageError, match="importing module 'own_broken' ends with ZeroDivisionError: division by zero"
    ):
        requests("own_broken:Twice")


@pytest.mark.cluster
def test_workers_of_ray_import_the_file_too(tmp_path):
    (tmp_path / "mine.py").write_text(of_the_page())
    command = [sys.executable, "-m", "workflows", "run", "methods", "--store", "s", "--workers", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--method", "mine:Twice", *SMALL, "--no-report"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    store = Store.open(tmp_path / "s", mode="r")
    (mine,) = [g for g in store.artifacts() if getattr(g.artifact, "method", "") == "mine:Twice"]
    latent = mine.read_samples(0, 8, ("latent",))["latent"]
    assert np.isfinite(latent).all() and 0.5 < latent.std() < 1.1
