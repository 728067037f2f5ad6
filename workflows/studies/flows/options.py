"""What only this study reads: the levels it compares, their numbers of steps, and the model beside the flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from taba_core.diffusion.spacing import dynamic_shift
from workflows.configuration.options import Options, StepCounts, listed

SD3, FLUX_512, FLUX_1024 = "sd3", "flux-512", "flux-1024"
NONE, AUTO = "none", "auto"
_TOKENS = {FLUX_512: 1024, FLUX_1024: 4096}  # of 16 x 16 pixels
_SD3_SHIFT = 3.0


@dataclass(frozen=True)
class Levels:
    """How a sampler lays its levels of a flow.

    Attributes:
      name: as `--set flows.grids=` takes it.
      label: as tables call it.
      shift: q.
      model_options: options of the model that lay them so.
    """

    name: str
    label: str
    shift: float
    model_options: dict[str, Any]


def levels_named(text: str) -> Levels:
    """The levels of a name: a shift, `flux-512`, `flux-1024` (exp(mu) of FLUX.1) or `sd3` (the shift of 3, twice).

    Raises:
      ValueError: no such name, or a shift that is not above 0.
    """
    if text == SD3:
        options = {"shift": _SD3_SHIFT, "grid": "sd3-default"}
        return Levels(text, f"shift {_SD3_SHIFT:g} twice, as SD 3", _SD3_SHIFT, options)
    if text in _TOKENS:
        shift = dynamic_shift(_TOKENS[text])
        pixels = text.rpartition("-")[2]
        return Levels(text, f"shift {shift:.4g}, as FLUX at {pixels} pixels", shift, {"shift": shift})
    try:
        shift = float(text)
    except ValueError:
        shift = 0.0
    if not 0 < shift < float("inf"):
        raise ValueError(f"'{text}' names no levels; use a shift above 0, {FLUX_512}, {FLUX_1024} or {SD3}")
    return Levels(text, f"shift {shift:g}", shift, {"shift": shift})


def _known(value: tuple[str, ...]) -> tuple[str, ...]:
    for text in value:
        levels_named(text)
    return tuple(dict.fromkeys(value))


class FlowsOptions(Options):
    """Options of study `flows`."""

    study = "flows"

    grids: Annotated[tuple[str, ...], listed("name of levels, e.g. 1,flux-1024"), AfterValidator(_known)] = (
        Field(
            ("1", FLUX_512, "3", FLUX_1024, SD3),
            description="levels that are compared: shifts, flux-512, flux-1024 (exp(mu) of FLUX.1), sd3 (the shift of "
            "3 applied twice), comma-separated",
        )
    )
    steps: StepCounts = Field(
        (28, 50), description="T of the samplers; the smallest is that of the tables of forward replacement"
    )
    forward_steps: StepCounts = Field((1, 2, 3), description="K of the tables of forward replacement")
    beside: str = Field(
        AUTO,
        min_length=1,
        description="variance-preserving model that is asked the same beside the flow: a model, none, or auto "
        "(photo-dit beside a flow that comes with taba)",
    )
