"""Editors by name, with their options validated. Every module of the room `editors` is found by being there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from taba_core.diffusion.attention.editor import Editor
from taba_core.diffusion.options import checked_options
from taba_core.errors import unknown_name
from taba_core.found import import_modules

_EDITORS: dict[str, type[Editor]] = {}
_Class = TypeVar("_Class", bound=type[Editor])


def editor(name: str) -> Callable[[_Class], _Class]:
    """Class decorator: register a frozen dataclass derived from `Editor` under `name`."""

    def register(cls: _Class) -> _Class:
        cls.name = name
        _EDITORS[name] = cls
        return cls

    return register


def list_editors() -> list[str]:
    """Names of all editors, sorted."""
    return sorted(_registered())


def editor_class(name: str) -> type[Editor]:
    """The class of an editor. Raises UsageError: there is none of that name."""
    known = _registered()
    if name not in known:
        raise unknown_name("editor", name, known)
    return known[name]


def editor_named(name: str, **options: Any) -> Editor:
    """Build an editor; options are checked as those of inversion methods are.

    Raises:
      UsageError: no such editor, an option it does not have, or one of another type or outside its rule.
    """
    cls = editor_class(name)
    return cls(**checked_options(f"editor '{name}'", cls, options))


def _registered() -> Mapping[str, type[Editor]]:
    import_modules("taba_core.diffusion.attention.editors")
    return _EDITORS
