"""Driver and workers run one code, whatever the current directory holds; anything else is refused by name."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import cluster_workers
import pytest
import shadow_modules
from other_python_run import make_folders

import cluster
from cluster import OtherCode, RayExecutor, Resources, Unit
from cluster.ray.code import OWN, code_of, describe, digest_of, look_up, run_code_of, search_path

HERE = Path(__file__).parent
ROOT = Path(cluster.__file__).parents[1]

DRIVER = f"""
import json, os, sys
sys.path.append({str(HERE)!r})
from probe_workers import Probe
from cluster import RayExecutor, Unit
import importlib.util
names = {shadow_modules.NAMES!r}
own = {{name: importlib.util.find_spec(name).origin for name in names}}
with RayExecutor("local", num_workers=1) as executor:
    (outcome,) = executor.execute([Unit("a", names)], Probe)
print(json.dumps([outcome.error, outcome.result, own]))
"""


@pytest.mark.cluster
def test_a_worker_finds_every_module_where_the_driver_does_whatever_the_current_directory_holds(tmp_path):
    shadow_modules.fill(tmp_path)
    # Like the console script: its own folder is first on the path, and not the current directory.
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", DRIVER],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    error, said, own = json.loads(done.stdout.splitlines()[-1])
    assert error is None
    assert said["origins"] == own
    assert str(tmp_path) not in said["path"]


def test_the_digest_is_of_names_and_contents_of_what_belongs_to_a_package(tmp_path):
    package = tmp_path / "p"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "inner" / "data.txt").write_text("one")
    first = digest_of(str(package))
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "x.cpython-311.pyc").write_bytes(b"compiled")
    for name in (".hidden", "._data.txt", "data.txt~", "#data.txt#"):
        (package / name).write_text("left by an editor or a file manager")
    assert digest_of(str(package)) == first and len(first) == 12
    shutil.copytree(package, tmp_path / "elsewhere")
    assert digest_of(str(tmp_path / "elsewhere")) == first
    (package / "inner" / "data.txt").write_text("two")
    assert digest_of(str(package)) != first
    (package / "inner" / "data.txt").write_text("one")
    (package / "inner" / "data.txt").rename(package / "inner" / "other.txt")
    assert digest_of(str(package)) not in ("", first)


def test_two_contents_that_join_to_the_same_bytes_have_two_digests(tmp_path):
    for name, parts in (("a", ("x", "yz")), ("b", ("xy", "z"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(parts[0])
        (tmp_path / name / "m.py").write_text(parts[1])
    assert digest_of(str(tmp_path / "a")) != digest_of(str(tmp_path / "b"))


@pytest.mark.parametrize("kind", ("nothing", "folder", "file"))
def test_a_folder_or_a_file_with_the_name_of_a_package_is_no_package(tmp_path, monkeypatch, kind):
    name = f"no_package_{kind}"
    if kind == "folder":
        (tmp_path / name).mkdir()
    elif kind == "file":
        (tmp_path / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert look_up(name) == {"name": name, "folder": "", "digest": ""}
    with pytest.raises(ModuleNotFoundError, match=name):
        code_of((name,))


def test_on_the_same_python_a_worker_has_the_search_path_of_the_driver():
    driver = code_of() | {"path": ["/bin", "/std", "/site", "/mine"], "directory": "/here"}
    assert search_path(driver, ["/here", "/std", "/site"], driver["prefix"]) == driver["path"]


def test_on_another_python_a_worker_keeps_its_own_path_and_adds_what_the_user_added(tmp_path):
    own = ["/here", "/other/std", "/other/site"]
    driver = code_of() | {
        "prefix": "/venv",
        "path": ["/venv/bin", "/venv/lib/site", str(tmp_path), "/not/on/this/node"],
        "directory": "/here",
    }
    assert search_path(driver, own, "/other") == ["/other/std", "/other/site", str(tmp_path)]


def test_every_entry_that_is_relative_in_the_driver_is_a_path_for_the_worker(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "inner", "/abs"])
    assert code_of()["path"] == [str(tmp_path), str(tmp_path / "inner"), "/abs"]


def in_a_process(code, *arguments: str, path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(code), *arguments],
        cwd=path, env=os.environ | {"PYTHONPATH": str(path)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_worker_takes_the_folder_of_the_driver_before_the_one_its_node_would_import(tmp_path):
    for where, value in (("driver", 1), ("node", 2)):
        (tmp_path / where / "own_pkg").mkdir(parents=True)
        (tmp_path / where / "own_pkg" / "__init__.py").write_text(f"value = {value}\n")
    package = {
        "name": "own_pkg",
        "folder": str(tmp_path / "driver" / "own_pkg"),
        "digest": digest_of(str(tmp_path / "driver" / "own_pkg")),
    }
    # Another installation of Python: the search path of the node stays, and it holds the other copy.
    driver = {"packages": [package], "path": [], "prefix": "/elsewhere", "directory": "/nowhere"}
    said = in_a_process(
        f"""
        import json, sys
        sys.path.append({str(ROOT)!r})
        from cluster.ray.code import run_code_of
        print(run_code_of(json.loads(sys.argv[1])))
        import own_pkg
        print(own_pkg.value)
        """,
        json.dumps(driver),
        path=tmp_path / "node",
    )
    assert said.splitlines() == ["[]", "1"]


def test_what_a_node_has_in_another_folder_will_do_if_its_contents_are_the_same(tmp_path):
    for where in ("driver", "node"):
        (tmp_path / where / "own_pkg").mkdir(parents=True)
        (tmp_path / where / "own_pkg" / "__init__.py").write_text("value = 1\n")
    package = {
        "name": "own_pkg",
        "folder": "/gone/own_pkg",
        "digest": digest_of(str(tmp_path / "driver" / "own_pkg")),
    }
    driver = {"packages": [package], "path": [], "prefix": "/elsewhere", "directory": "/nowhere"}
    said = in_a_process(
        f"""
        import json, sys
        sys.path.append({str(ROOT)!r})
        from cluster.ray.code import run_code_of
        print(run_code_of(json.loads(sys.argv[1])))
        import own_pkg
        print(own_pkg.__file__)
        """,
        json.dumps(driver),
        path=tmp_path / "node",
    )
    assert said.splitlines() == ["[]", str(tmp_path / "node" / "own_pkg" / "__init__.py")]


def test_a_process_that_has_imported_other_contents_says_so(monkeypatch):
    here = {"name": OWN, "folder": "/driver/cluster", "digest": "0" * 12}
    driver = {"packages": [here], "path": list(sys.path), "prefix": sys.prefix, "directory": os.getcwd()}
    monkeypatch.setattr("socket.gethostname", lambda: "nid7")
    there = {"name": OWN, "folder": str(ROOT / "cluster"), "digest": digest_of(str(ROOT / "cluster"))}
    assert run_code_of(driver) == [{"host": "nid7", "there": there, "here": here}]


def difference(folder: str, digest: str) -> list:
    here = {"name": "pkg", "folder": "/a/pkg", "digest": "aaaaaaaaaaaa"}
    return [{"host": "nid7", "there": {"name": "pkg", "folder": folder, "digest": digest}, "here": here}]


@pytest.mark.parametrize(
    ("folder", "digest", "said"),
    [
        (
            "/b/pkg",
            "b" * 12,
            "package 'pkg': there /b/pkg (content bbbbbbbbbbbb), here /a/pkg (content aaaaaaaaaaaa)",
        ),
        ("", "", "package 'pkg': it is not installed there; here /a/pkg (content aaaaaaaaaaaa)"),
        (
            "/a/pkg",
            "b" * 12,
            "package 'pkg': the files in /a/pkg have content bbbbbbbbbbbb there, and had content aaaaaaaaaaaa "
            "when this command read them",
        ),
    ],
)
def test_the_refusal_names_node_package_folders_contents_and_the_way_out(folder, digest, said):
    assert describe(difference(folder, digest)) == (
        f"the workers on node nid7 do not run the code of this command. {said}. If the files were edited while it ran, "
        "run the command again. Otherwise install the same version on every node, or use one folder that all nodes "
        "see, and restart Ray there; or run on this machine only: --address local."
    )


EDITED = f"""
import sys
sys.path[:0] = [{str(HERE)!r}]
import mine
from cluster import OtherCode, RayExecutor, Unit
from probe_workers import Probe
executor = RayExecutor("local", num_workers=1, packages=["mine"])
open(mine.__file__, "a").write("value = 2\\n")
try:
    list(executor.execute([Unit("a", ())], Probe))
except OtherCode as error:
    print("refused:", error)
executor.close()
"""


@pytest.mark.cluster
@pytest.mark.follows("If the files were edited while it ran, run the command again.", printed=True)
def test_files_edited_after_the_driver_read_them_are_refused_when_a_worker_starts(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("value = 1\n")
    done = subprocess.run(
        [sys.executable, "-P", "-c", EDITED], cwd=tmp_path, capture_output=True, text=True, timeout=200,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused: the workers on node ")
    assert f"package 'mine': the files in {tmp_path}/mine have content " in done.stdout
    assert "If the files were edited while it ran, run the command again." in done.stdout
    again = (
        EDITED.replace("open(mine", "# open(mine").replace("list(executor", "ran = list(executor")
        + "print(ran)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", again], cwd=tmp_path, capture_output=True, text=True, timeout=200,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
    )  # fmt: skip
    assert done.returncode == 0 and "refused" not in done.stdout and "error=None" in done.stdout, done.stderr


@pytest.mark.cluster
def test_every_node_of_a_joined_cluster_is_compared_before_the_first_unit(ray_session, monkeypatch, tmp_path):
    here = {"name": OWN, "folder": "/login/cluster", "digest": "0" * 12}
    monkeypatch.setattr("cluster.ray.code._look_up_once", lambda name: here)
    executor = RayExecutor(retry_delay=0.01)
    with pytest.raises(
        OtherCode, match=r"there .*/cluster \(content .*, here /login/cluster \(content 0{12}\)"
    ):
        list(executor.execute([Unit("a", (str(tmp_path), "a", 0.0))], cluster_workers.Journal, Resources()))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_node_whose_python_has_other_code_runs_the_drivers_or_is_refused(tmp_path):
    """A virtual environment of its own on the node, with another copy of the packages that it would import."""
    make_folders(tmp_path)
    digests = {
        (where, name): digest_of(str(tmp_path / where / name))
        for where in ("driver", "node")
        for name in (OWN, "mine")
    }
    assert len(set(digests.values())) == 4
    done = subprocess.run(
        [sys.executable, "-P", str(HERE / "other_python_run.py"), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "driver")},
        cwd=tmp_path, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    file = str(tmp_path / "driver" / "mine" / "__init__.py")
    assert found["seen"] == {"error": None, "result": [0, file, str(tmp_path / "venv")]}
    refused = found["gone"]["refused"]
    assert refused.startswith("the workers on node ")
    for name in (OWN, "mine"):
        there, here = (
            f"{tmp_path / where / name} (content {digests[where, name]})" for where in ("node", "driver")
        )
        assert f"package '{name}': there {there}, here {here}" in refused


def test_reading_all_code_takes_a_moment():
    import time

    begun = time.perf_counter()
    for name in ("cluster", "taba_core", "workflows"):
        assert importlib.util.find_spec(name) and digest_of(str(ROOT / name))
    assert time.perf_counter() - begun < 3  # 0.04 s on an idle machine
