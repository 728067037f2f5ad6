"""Which code a run here would run, and what in the current directory has the name of something else."""

from __future__ import annotations

import sys
from pathlib import Path

from cluster.code import code_of
from workflows.doctor.finding import Finding, Subject, check, fail, ok, warn
from workflows.doctor.software import NATIVE, SECTION
from workflows.launch import PACKAGES

_SHOWN = 4


@check(SECTION, "taba's code")
def own_code(subject: Subject) -> Finding:
    """The folder and contents that this process and its workers run, and modules that shadow others."""
    packages = {package["name"]: package for package in code_of(PACKAGES)["packages"]}
    folders = {str(Path(package["folder"]).parent) for package in packages.values()}
    if len(folders) > 1:
        return fail(
            f"its packages come from several folders: {', '.join(sorted(folders))}",
            "reinstall it (pip install -e . in one checkout), and look at PYTHONPATH",
        )
    contents = ", ".join(f"{name} {package['digest']}" for name, package in packages.items())
    found = f"driver and workers run {folders.pop()} ({contents})"
    if shadowing := _shadowing(subject.directory, packages["workflows"]["folder"]):
        shown = ", ".join(map(str, shadowing[:_SHOWN])) + (" and more" if len(shadowing) > _SHOWN else "")
        return warn(
            f"{found}; {shown} would hide a module of the same name from scripts run here; taba does not use it",
            "nothing for `taba`, which never looks there for them; rename it before `python -m` or scripts of your own",
        )
    return ok(found)


def _shadowing(directory: Path, own_folder: str) -> list[Path]:
    """Modules in a directory that have the name of a package of ours, of the standard library or of what we need."""
    if directory.resolve() == Path(own_folder).resolve().parent:
        names = {*sys.stdlib_module_names, *_needed()}
    else:
        names = {*PACKAGES, *sys.stdlib_module_names, *_needed()}
    found = []
    for path in sorted(directory.iterdir()):
        is_module = path.suffix == ".py" and path.is_file()
        is_package = path.is_dir() and (path / "__init__.py").is_file()
        if (is_module and path.stem in names) or (is_package and path.name in names):
            found.append(path)
    return found


def _needed() -> set[str]:
    return {name.partition(".")[0] for name in NATIVE} | {
        "dask",
        "xarray",
        "diffusers",
        "transformers",
        "typer",
    }
