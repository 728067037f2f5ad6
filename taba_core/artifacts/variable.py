"""What a stored array is: its name, dimensions, units, type, and what an unwritten value reads as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

UNCONDITIONAL = -1  # class_id of a sample made without a class
CLASS_ID_UNWRITTEN = -(2**31)
PROMPT_BYTES = 1024  # room for one prompt
REGION_UNWRITTEN = 255
FALLBACKS = ("none", "damped", "best_iterate")  # by code, as `taba_core.diffusion.inversion.Fallback`
FALLBACK_UNWRITTEN = 255
RESIDUAL_NOT_DEFINED = -1.0

# Dimensions of a state, and of the states of a whole path. Rows along `step` are noise levels in ascending order,
# l = 1..T: x_t[l] is the state that sampling step l read (so x_t[T] is the noise), eps_t[l] the prediction used there.
STATE = ("sample", "channel", "y", "x")
PATH = ("sample", "step", "channel", "y", "x")
NOISE_UNITS = "standard deviations of the noise"

Fill = Literal["NaN"] | int


@dataclass(frozen=True)
class Variable:
    """One stored array: what a reader needs to know about it.

    `fill` is what an unwritten value reads as; "NaN" wherever the type has it.
    """

    name: str
    dims: tuple[str, ...]
    units: str
    long_name: str
    dtype: str = "float32"
    fill: Fill = "NaN"
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def per_step(self) -> bool:
        """Whether the array has one entry for each noise level of a path."""
        return "step" in self.dims

    def attrs(self) -> dict[str, Any]:
        """Attributes of the array in the store, CF names, plain JSON."""
        return {"long_name": self.long_name, "units": self.units, **self.notes}


def row(name: str, dims: tuple[str, ...], long_name: str) -> Variable:
    """A variable of float64 rows: what a statistic keeps of a sample."""
    return Variable(name, dims, "1", long_name, dtype="float64")


def picture(name: str, long_name: str) -> Variable:
    """A variable of 8-bit RGB pictures."""
    return Variable(
        name,
        ("sample", "rgb", "pixel_y", "pixel_x"),
        "1",
        long_name,
        dtype="uint8",
        fill=0,
        notes={"comment": "every value is valid; a sample whose `image` is NaN is not written"},
    )


CLASS_ID = Variable(
    "class_id",
    ("sample",),
    "1",
    "class of the sample",
    dtype="int32",
    fill=CLASS_ID_UNWRITTEN,
    notes={"comment": f"{UNCONDITIONAL} = unconditional, {CLASS_ID_UNWRITTEN} = not written"},
)
PROMPT = Variable(
    "prompt",
    ("sample", "char"),
    "1",
    "prompt of the sample, UTF-8 bytes padded with zeros",
    dtype="uint8",
    fill=0,
    notes={"comment": "every value is valid; a sample whose `image` is NaN is not written"},
)
