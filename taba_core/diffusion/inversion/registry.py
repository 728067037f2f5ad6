"""Inversion methods by name, with their options validated; a user's own class by `package.module:Class`.

Every module of this package is a family of methods and is found by being there.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import Any, TypeVar

from taba_core.diffusion.inversion.method import Method
from taba_core.diffusion.options import checked_options
from taba_core.errors import UsageError, unknown_name
from taba_core.found import import_modules

_METHODS_PACKAGE = "taba_core.diffusion.inversion.methods"
_METHODS: dict[str, type[Method]] = {}
_Class = TypeVar("_Class", bound=type[Method])


def inversion_method(name: str) -> Callable[[_Class], _Class]:
    """Class decorator: register a frozen dataclass derived from `Method` under `name`.

    Raises:
      TypeError: not such a class. ValueError: the name is taken by another class.
    """

    def register(cls: _Class) -> _Class:
        _check_class(f"inversion method '{name}'", cls, TypeError)
        taken = _METHODS.get(name)
        # A module that is reloaded defines its classes again.
        if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"inversion method '{name}' is registered twice: {taken} and {cls}.")
        cls.name = name
        _METHODS[name] = cls
        return cls

    return register


def list_methods() -> list[str]:
    """Names of all registered inversion methods, sorted."""
    return sorted(_registered())


def inversion_method_class(name: str) -> type[Method]:
    """The class of a registered method, or of `package.module:Class`.

    Raises:
      UsageError: no such method, module or class, or a class that is no method.
    """
    if ":" in name:
        return _own_class(name)
    own = f"{_METHODS_PACKAGE}.{name.replace('-', '_')}"
    if name not in _METHODS and name.replace("-", "").isalnum() and importlib.util.find_spec(own):
        importlib.import_module(
            own
        )  # a family that is named like the method: the others need not be imported
    known = _METHODS if name in _METHODS else _registered()
    if name not in known:
        raise unknown_name("inversion method", name, known)
    return known[name]


def inversion_method_named(name: str, **options: Any) -> Method:
    """Build a method: a registered one, or a user's own class `package.module:Class`.

    Options are checked against the types of the class's fields (`Annotated[int, Field(ge=1)]` states a rule).

    Raises:
      UsageError: no such method; an option it does not have (the message lists those it has), or one of
        another type or outside its rule.
    """
    cls = inversion_method_class(name)
    return cls(**checked_options(f"inversion method '{name}'", cls, options))


def _registered() -> Mapping[str, type[Method]]:
    import_modules(_METHODS_PACKAGE)
    return _METHODS


def _own_class(name: str) -> type[Method]:
    module_name, _, class_name = name.partition(":")
    what = f"inversion method '{name}'"
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(
            f"{what}: module '{module_name}' cannot be imported ({error}). Give package.module:Class, and put the "
            "module in the working directory or on PYTHONPATH."
        ) from error
    except Exception as error:
        if not module_name:
            raise UsageError(
                f"{what}: '{module_name}' is no module name. Give package.module:Class."
            ) from error
        raise UsageError(
            f"{what}: importing module '{module_name}' ends with {type(error).__name__}: {error}"
        ) from error
    if not hasattr(module, class_name):
        methods = [n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, Method)]
        raise unknown_name(f"class of module {module_name}", class_name, methods)
    cls = getattr(module, class_name)
    _check_class(what, cls, UsageError)
    if "name" not in vars(cls):
        cls.name = name
    return cls


def _check_class(what: str, cls: Any, error: type[Exception]) -> None:
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise error(
            f"{what}: {cls!r} is no class derived from taba_core.diffusion.inversion.StepMethod or WholeMethod."
        )
    missing = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
    if missing:
        raise error(f"{what}: {cls.__qualname__} does not define {missing}.")
    if "__dataclass_fields__" not in vars(cls) or not is_dataclass(cls):
        raise error(
            f"{what}: {cls.__qualname__} is no dataclass; put @dataclass(frozen=True) on it. Its fields are the "
            "options."
        )
