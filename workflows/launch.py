"""One folder for all code of a process: the three packages are those beside this file, whatever a search path says.

`python -P FOLDER/workflows/launch.py MODULE ARGUMENT...` runs a module of theirs as a program of its own, as
`python -m` does, but with no current directory on its search path.
"""

from __future__ import annotations

import importlib.util
import os
import sys

PACKAGES = ("taba_core", "cluster", "workflows")
"""What decides about numbers, and has to be the same in the driver and in every worker."""

_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def bind_packages() -> None:
    """Import the packages from the folder this file is in; those that are imported already are left alone."""
    for name in PACKAGES:
        if name in sys.modules:
            continue
        folder = os.path.join(_FOLDER, name)
        spec = importlib.util.spec_from_file_location(
            name, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
        )
        assert spec is not None and spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)


def leave_directory() -> None:
    """Take the current directory off the search path, where `python -m` has put it in front of everything else."""
    if not sys.flags.safe_path and sys.path and sys.path[0] == os.getcwd():
        del sys.path[0]


def program(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of the packages with this process's Python and code."""
    return [sys.executable, "-P", os.path.abspath(__file__), module, *arguments]


def inline_program(code: str, *arguments: str) -> list[str]:
    """The command that runs Python code, which may import the packages, with this process's Python and code."""
    bound = f"import runpy; runpy.run_path({os.path.abspath(__file__)!r})['bind_packages']()"
    return [sys.executable, "-P", "-c", f"{bound}\n{code}", *arguments]


if __name__ == "__main__":
    import runpy

    bind_packages()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
