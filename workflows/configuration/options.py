"""The options of one study: declared beside it, set as STUDY.OPTION=VALUE, validated as the settings are.

A study that has options declares a subclass of `Options` and names it in its class:

    class MappingOptions(Options):
        study = "mapping"
        steps: StepCounts = Field((10, 100), description="T that the study compares beside the run's own")
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, JsonValue, ValidationError
from pydantic.fields import FieldInfo

from taba_core.errors import UsageError, unknown_name


class Given(BaseModel):
    """Values that a user may give, with defaults that stand where none is given."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def with_defaults(self, defaults: Mapping[str, Any]) -> Self:
        """These values with other defaults: of fields the user did not give, which still count as not given."""
        user = self.model_fields_set
        values = dict(self) | {name: value for name, value in defaults.items() if name not in user}
        return self.model_construct(_fields_set=set(user), **values)


class Options(Given):
    """What only one study reads. Every field has a default, a description, and its rule as pydantic states it."""

    # Name of the study.
    study: ClassVar[str]
    # Option -> a name without a dot under which `--set` takes it too, and under which results have stored it.
    flat_names: ClassVar[Mapping[str, str]] = {}


Declared = TypeVar("Declared", bound=Options)


def listed(example: str) -> BeforeValidator:
    """Reads values separated by commas, and refuses a list of none; `example` says what to give."""

    def split(value: Any) -> Any:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, (list, tuple)) and not value:
            raise ValueError(f"give at least one {example}")
        return tuple(map(str, value)) if isinstance(value, (list, tuple)) else value

    return BeforeValidator(split)


def _at_least_one(value: tuple[int, ...]) -> tuple[int, ...]:
    if min(value) < 1:
        raise ValueError(f"T={min(value)} is no number of steps; use 1 or more")
    return value


# Numbers of steps T, and numbers of replaced steps K, which may be percentages of T.
StepCounts = Annotated[tuple[int, ...], listed("step count, e.g. 10,100,1000"), AfterValidator(_at_least_one)]
ReplacedSteps = Annotated[tuple[str, ...], listed("step count, e.g. 2%,4%")]


def options_of(declared: type[Declared], given: Mapping[str, Mapping[str, JsonValue]]) -> Declared:
    """The options of a study under what was given for all studies, by the name of the study.

    Raises:
      UsageError: an option that the study does not have, or a value that its rule refuses.
    """
    values = given.get(declared.study, {})
    check_names(declared, values)
    try:
        return declared.model_validate(dict(values))
    except ValidationError as error:
        raise UsageError(refusal(declared, error, f"{declared.study}.")) from None


def check_names(declared: type[Options], names: Iterable[str]) -> None:
    """Refuse (UsageError) a name that is no option of the study, with those that are."""
    for name in names:
        if name not in declared.model_fields:
            raise unknown_name(f"option of study {declared.study}", name, declared.model_fields)


def refusal(model: type[BaseModel], error: ValidationError, prefix: str = "") -> str:
    """The first problem of a pydantic model's values as one message: the value, the rule, what the field is."""
    problem = error.errors()[0]
    field = str(problem["loc"][0]) if problem["loc"] else "?"
    message = problem["msg"].removeprefix("Value error, ")
    described = model.model_fields[field].description if field in model.model_fields else ""
    return f"--set {prefix}{field}={problem['input']}: {message}. {prefix}{field} is: {described}."


def name_to_set(declared: type[Options], option: str) -> str:
    """The name of an option in the settings of a stored result, which `--set` takes: its flat one if it has one."""
    return declared.flat_names.get(option, f"{declared.study}.{option}")


def by_flat_name(declared: Iterable[type[Options]]) -> dict[str, tuple[str, str]]:
    """Flat name -> study and option."""
    return {
        flat: (options.study, option) for options in declared for option, flat in options.flat_names.items()
    }


def described(declared: type[Options]) -> Iterator[tuple[str, str, str, str]]:
    """Of every option what `--set` takes, its default, its rule, and what it is with its flat name."""
    for option, field in declared.model_fields.items():
        flat = declared.flat_names.get(option)
        told = (field.description or "") + (f"; also {flat}" if flat else "")
        yield f"{declared.study}.{option}", _default_text(field.default), rule_text(field), told


def _default_text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def rule_text(field: FieldInfo) -> str:
    """What values a field takes, in words: `on | off`, `whole number, at least 2`."""
    kind = _given(field.annotation)
    if get_origin(kind) is Literal:
        return " | ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"{_kind_text(get_args(kind)[0])}s, comma-separated"
    bounds = [
        f"{words} {getattr(rule, name)}"
        for rule in field.metadata
        for name, words in _BOUNDS.items()
        if getattr(rule, name, None) is not None
    ]
    return ", ".join([_kind_text(kind), *bounds])


def _given(kind: Any) -> Any:
    """The kind of a value that a user gives: of `int | None` int, since None is only where none is given."""
    kinds = [one for one in get_args(kind) if one is not type(None)]
    return kinds[0] if type(None) in get_args(kind) and len(kinds) == 1 else kind


def _kind_text(kind: Any) -> str:
    return {int: "whole number", float: "number", bool: "true or false", str: "name"}.get(kind, str(kind))
