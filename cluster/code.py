"""Which code a process runs: folder and content hash of its packages, and how a worker comes to run the driver's.

A worker process of Ray finds modules by a search path that the driver does not decide: by that of the node's own
installation, with the driver's current directory before everything else. So a worker first takes the search path
from the driver, then loads the packages by their folders, and says where their contents differ from the driver's.

The functions travel to workers by value, before any module of this package can be imported there: they use only the
standard library, imported where it is used.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import TypedDict

OWN = __name__.partition(".")[0]
"""The package this module belongs to; it is always among those that are compared."""


class Package(TypedDict):
    """A package as a process imports it; folder and digest are empty where there is none.

    `folder` is its directory, `digest` 12 hexadecimal digits over names and contents of all files in it.
    """

    name: str
    folder: str
    digest: str


class Code(TypedDict):
    """What a driver runs: its packages, its search path, the prefix of its Python and its current directory."""

    packages: list[Package]
    path: list[str]
    prefix: str
    directory: str


class Difference(TypedDict):
    """A package that a worker cannot load with the contents the driver has: what it has, and on which host."""

    host: str
    there: Package
    here: Package


def code_of(names: Iterable[str] = ()) -> Code:
    """The code this process runs. Contents are read once: what they were then is what workers have to run.

    Args:
      names: packages beside this one.
    Raises:
      ModuleNotFoundError: there is no such package.
    """
    import os
    import sys

    packages = [_look_up_once(name) for name in dict.fromkeys((OWN, *names))]
    for package in packages:
        if not package["folder"]:
            raise ModuleNotFoundError(f"No package named {package['name']!r}", name=package["name"])
    path = [os.path.abspath(entry) for entry in sys.path]
    return {"packages": packages, "path": path, "prefix": sys.prefix, "directory": os.getcwd()}


@functools.cache
def _look_up_once(name: str) -> Package:
    return look_up(name)


def look_up(name: str) -> Package:
    """A package as this process imports it now: one that is loaded, else the first on the search path."""
    import importlib.util
    import os

    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    # A folder without __init__.py, and a module that is one file, are no package of ours, whatever they are called.
    if found is None or found.origin is None or not found.submodule_search_locations:
        return {"name": name, "folder": "", "digest": ""}
    folder = os.path.dirname(os.path.abspath(found.origin))
    return {"name": name, "folder": folder, "digest": digest_of(folder)}


def digest_of(folder: str) -> str:
    """12 hexadecimal digits over names and contents of the files in a package; "" if it is no package.

    Left out is what does not belong to it: compiled files, hidden files, and copies that editors keep.
    """
    import hashlib
    import os

    if not os.path.isfile(os.path.join(folder, "__init__.py")):
        return ""
    digest = hashlib.blake2b(digest_size=6)
    for top, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__" and not name.startswith("."))
        for name in sorted(files):
            if name.startswith((".", "#")) or name.endswith((".pyc", ".pyo", "~")):
                continue
            file = os.path.join(top, name)
            with open(file, "rb") as opened:
                content = hashlib.blake2b(opened.read()).digest()
            where = os.path.relpath(file, folder).replace(os.sep, "/").encode()
            digest.update(len(where).to_bytes(4, "big") + where + content)
    return digest.hexdigest()


def run_code_of(driver: Code) -> list[Difference]:
    """In a worker process: run the code of the driver; the differences are empty when it does.

    The driver's own folder is taken where this node sees it with the same contents, else what is installed here.
    """
    import socket
    import sys

    sys.path[:] = search_path(driver, sys.path, sys.prefix)
    differences: list[Difference] = []
    for here in driver["packages"]:
        name = here["name"]
        is_free = name not in sys.modules
        there = here if is_free and digest_of(here["folder"]) == here["digest"] else look_up(name)
        if there["digest"] != here["digest"]:
            differences.append({"host": socket.gethostname(), "there": there, "here": here})
        elif is_free:
            _load(name, there["folder"])
    return differences


def search_path(driver: Code, own: Sequence[str], prefix: str) -> list[str]:
    """The search path of a worker.

    Args:
      driver: what the driver runs.
      own: the path of the worker's process, as Ray has made it.
      prefix: of the worker's Python.
    Returns:
      That of the driver, where it is the same installation of Python. Else the worker's own, without the driver's
      current directory, and after it what the driver has beside its installation (folders of the user's modules).
    """
    import os

    wanted = driver["path"]
    if prefix == driver["prefix"]:
        return list(wanted)
    intruder = os.path.abspath(driver["directory"])
    kept = [entry for entry in own if os.path.abspath(entry) != intruder]
    beside = [entry for entry in wanted if not entry.startswith(driver["prefix"] + os.sep)]
    return kept + [entry for entry in beside if entry not in kept and os.path.isdir(entry)]


def _load(name: str, folder: str) -> None:
    """Import a package from its folder, whatever the search path says; its modules follow it."""
    import importlib.util
    import os
    import sys

    spec = importlib.util.spec_from_file_location(
        name, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def describe(differences: Sequence[Difference]) -> str:
    """One text for the user: which node has which package from where, and what to do about it."""
    lines = []
    for difference in differences:
        there, here = difference["there"], difference["here"]
        own = f"here {here['folder']} (content {here['digest']})"
        if not there["folder"]:
            lines.append(f"package '{here['name']}': it is not installed there; {own}")
        elif there["folder"] == here["folder"]:
            lines.append(
                f"package '{here['name']}': the files in {there['folder']} have content {there['digest']} there, "
                f"and had content {here['digest']} when this command read them"
            )
        else:
            lines.append(
                f"package '{here['name']}': there {there['folder']} (content {there['digest']}), {own}"
            )
    return (
        f"the workers on node {differences[0]['host']} do not run the code of this command. {'; '.join(lines)}. "
        "If the files were edited while it ran, run the command again. Otherwise install the same version on every "
        "node, or use one folder that all nodes see, and restart Ray there; or run on this machine only: "
        "--address local."
    )
