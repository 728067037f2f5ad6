"""Options of inversion methods and of editors: the fields of a frozen dataclass, checked against their types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from taba_core.errors import UsageError


def checked_options(what: str, cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The given options as the dataclass takes them (`Annotated[int, Field(ge=1)]` states a rule).

    Args:
      what: whose options they are, for messages: "inversion method 'ddim'".
    Raises:
      UsageError: an option that the class does not have (the message lists those it has), or one of another type or
        outside its rule.
    """
    hints = get_type_hints(cls, include_extras=True)
    known = [field.name for field in fields(cls)]
    checked = {}
    for option, value in given.items():
        if option not in known:
            has = f"it has: {', '.join(known)}" if known else "it has none"
            raise UsageError(f"{what} has no option '{option}'; {has}.")
        checked[option] = _validated(what, option, hints[option], value)
    return checked


def _validated(what: str, option: str, hint: Any, value: Any) -> Any:
    try:
        return TypeAdapter(hint, config={"arbitrary_types_allowed": True}).validate_python(value)
    except ValidationError as error:
        rule = "; ".join(dict.fromkeys(found["msg"] for found in error.errors()))
        raise UsageError(f"{what}, option {option}={value!r}: {rule}.") from None
