"""A user's own method, `package.module:Class`: where its file is, and that every process runs the same file."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import NamedTuple

from taba_core.errors import UsageError

# By module: fingerprint of the file this process imported it from.
_imported: dict[str, str] = {}


class OwnModule(NamedTuple):
    """Folder to import a module from, and the hash of its file; both empty for a built-in method."""

    location: str = ""
    fingerprint: str = ""


def own_module(method: str) -> OwnModule:
    """Find the module of `package.module:Class` in the working directory or on the path, and import what it says now.

    The hash is that of the module's own file: what it imports in turn is not in it.

    Raises:
      UsageError: there is no such module, or it has no file.
    """
    if ":" not in method:
        return OwnModule()
    name = method.partition(":")[0]
    _on_path(str(Path.cwd()))
    importlib.invalidate_caches()  # it may have been written since this process started
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError) as error:
        raise UsageError(_not_found(method, name, f" ({error})")) from None
    if found is None or found.origin is None or not Path(found.origin).is_file():
        raise UsageError(_not_found(method, name, ""))
    file = Path(found.origin).resolve()
    depth = name.count(".") + (1 if file.name == "__init__.py" else 0)
    module = OwnModule(str(file.parents[depth]), _fingerprint(file))
    _renew(name, module.fingerprint)
    return module


def check_own_module(method: str, location: str, fingerprint: str) -> None:
    """Make a user's method importable in this process, and refuse another file than the one planned with.

    Raises:
      UsageError: the module cannot be found here, or its file has changed.
    """
    if ":" not in method:
        return
    if Path(location).is_dir():
        _on_path(location)
    found = own_module(method)
    if found.fingerprint != fingerprint:
        raise UsageError(
            f"inversion method '{method}': its file in {found.location} is not the one this run was planned with "
            f"({found.fingerprint}, not {fingerprint}). Do not edit it while it runs; run the command again."
        )


def _on_path(folder: str) -> None:
    if folder not in sys.path:
        sys.path.append(folder)


def _fingerprint(file: Path) -> str:
    return hashlib.blake2b(file.read_bytes(), digest_size=6).hexdigest()


def _renew(name: str, fingerprint: str) -> None:
    """Import a module again whose file was edited since this process imported it."""
    if _imported.get(name, fingerprint) != fingerprint and name in sys.modules:
        del sys.modules[name]
    _imported[name] = fingerprint


def _not_found(method: str, name: str, why: str) -> str:
    return (
        f"inversion method '{method}': there is no module '{name}' in {Path.cwd()} or on PYTHONPATH{why}. "
        "Give package.module:Class."
    )
