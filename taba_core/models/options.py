"""Options of the models: typed, validated, complete, and readable without torch.

Options travel in `ModelSpec.options`, so whatever is here is part of every key made with the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_serializer,
    field_validator,
    model_serializer,
)

from taba_core.errors import UsageError, unknown_name
from taba_core.models.profile import KEY_NAMES, ProfileName, profile_in_key


class ModelOptions(BaseModel):
    """Base: frozen, unknown names refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PhotoMixtureOptions(ModelOptions):
    """How the mixture is fitted to the photographs."""

    num_components_per_photo: int = Field(default=6, ge=1, le=24, description="Gaussians fitted to one photo")
    rank: int = Field(default=32, ge=1, le=128, description="rank of the low-frequency part of a covariance")
    photos: str = Field(
        default="builtin",
        description="'builtin', or a folder of images: one class a file, shown on white where transparent",
    )
    fit_seed: int = Field(
        default=0, ge=0, le=2**31 - 1, description="seed of the crops and of the clustering"
    )

    @field_validator("photos")
    @classmethod
    def _absolute_folder(cls, value: str) -> str:
        # Workers start in other directories than the driver.
        return value if value == "builtin" else str(Path(value).expanduser().resolve())


class GaussianOptions(ModelOptions):
    """Which stationary Gaussian field is the data."""

    size: int = Field(default=32, ge=2, le=1024, description="pixels of a side")
    variance: float = Field(default=0.25, gt=0, description="variance of a pixel")
    beta: float = Field(default=2.4, ge=0, le=8, description="power spectrum falls as frequency^-beta")
    basis: Literal["fourier", "dct"] = Field(default="fourier", description="periodic or reflecting borders")


LEVELS = ("shift", "grid")  # options that lay the levels of a sampler, whatever network is loaded


class NetworkOptions(ModelOptions):
    """Options of every model that is a network with weights."""

    profile: ProfileName = Field(
        default="exact",
        description="precision: exact (float32, no TF32; where unset, on CPUs), reference (the paper's, see the card; "
        "where unset, on GPUs), fast (16 bits)",
    )
    compile: bool = Field(
        default=False, description="torch.compile: pays where a run is longer than compiling"
    )

    shift: float | None = Field(
        default=None,
        gt=0,
        description="of a flow: shift of the sampler's levels towards the noise, in the style shifted unless grid says "
        "another (default: the card's levels)",
    )
    grid: Literal["shifted", "sd3-default"] | None = Field(
        default=None,
        description="of a flow: how the sampler's levels are laid (default: the card's, or shifted)",
    )

    @field_validator("profile", mode="before")
    @classmethod
    def _of_a_key(cls, value: Any) -> Any:
        return profile_in_key(value) if isinstance(value, str) else value

    @field_serializer("profile")
    def _in_a_key(self, value: ProfileName) -> str:
        return KEY_NAMES.get(value, value)

    @model_serializer(mode="wrap")
    def _without_what_is_the_cards(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Options are in every key, so those that came later are written only where they say something.
        fields: dict[str, Any] = serialize(self)
        return {name: value for name, value in fields.items() if name not in LEVELS or value is not None}


OPTIONS: dict[str, type[ModelOptions]] = {"photo-mixture": PhotoMixtureOptions, "gaussian": GaussianOptions}


def validate_options(name: str, options: Mapping[str, Any] | None) -> ModelOptions:
    """Complete options of a model: what was given, defaults for the rest.

    Args:
      name: an embedded model's name; any other name is a network's.
      options: any subset of the options; None is the empty subset.
    Raises:
      UsageError: an unknown option, or a value outside its rule.
    """
    kind = OPTIONS.get(name, NetworkOptions)
    given = dict(options or {})
    for key in given:
        if key not in kind.model_fields:
            raise unknown_name(f"{name} option", key, kind.model_fields)
    try:
        return kind(**given)
    except ValidationError as error:
        raise UsageError(_first_complaint(name, kind, error)) from None


def _first_complaint(name: str, kind: type[ModelOptions], error: ValidationError) -> str:
    first = error.errors()[0]
    key = str(first["loc"][0])
    rule = first["msg"][0].lower() + first["msg"][1:]
    field = kind.model_fields[key]
    return (
        f"{name} option {key}={first['input']!r}: {rule} ({field.description}). "
        f"Leave it out for the default {field.default!r}."
    )
