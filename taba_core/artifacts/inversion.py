"""Images inverted to latents, by any method, the first steps replaced by forward diffusion or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from taba_core.artifacts.base import Artifact, SampleSource
from taba_core.artifacts.crops import Crops
from taba_core.artifacts.generation import Generation
from taba_core.artifacts.images import ImageList
from taba_core.artifacts.variable import (
    FALLBACK_UNWRITTEN,
    FALLBACKS,
    NOISE_UNITS,
    RESIDUAL_NOT_DEFINED,
    STATE,
    Variable,
    row,
)
from taba_core.conventions import (
    UNGUIDED,
    FirstTime,
    ForwardLevel,
    GuidanceScale,
    HeldQuantity,
    Levels,
    NetworkTime,
    X0Rule,
    evaluations_per_prediction,
)
from taba_core.model_spec import ModelSpec

# What a latent image goes through before it is inverted: nothing, or decoder and encoder (posterior mean or a draw).
RoundTrip = Literal["none", "mean", "sample"]


class Inversion(Artifact):
    """x_0 to the latent x̂_T, the first `forward_steps` steps replaced by forward diffusion.

    `num_inference_steps` is the inversion's own T; a generation in `source` holds the T the images were sampled with.

    `method_fingerprint` is the hash of the file of a user's own method, `method_location` the folder to import it from.
    `expected_evaluations` (least and most of an image; None is T - K), `sampling_evaluations` (of its reconstruction;
    None is T) and `carried` (dimensions and sizes of what is kept beside the latent) follow from method and model; both
    counts are those of a network without guidance.

    `guidance_scale` is w of the inversion's own predictions, whatever the images were sampled with.

    `swapped_step` is the one step of a swap experiment: it is taken by what the sampler of a generation carried in it.

    `network` is the network that inverts, where it is another than the one the images are from (None): a checkpoint of
    the same training (paper, App. O). Grid and null condition are its own; a latent model's codec stays the source's.
    """

    kind: ClassVar[str] = "inversion"
    added_later: ClassVar[dict[str, Any]] = {
        "guidance_scale": UNGUIDED,
        "network": None,
        "first_time": "one",
        "held": "auto",
        "swapped_step": 0,
    }
    outside_key: ClassVar[frozenset[str]] = frozenset(
        {"method_location", "expected_evaluations", "sampling_evaluations", "carried"}
    )
    reads: ClassVar[tuple[str, ...]] = ("image", "class_id", "prompt")
    stored: ClassVar[tuple[Variable, ...]] = (
        Variable("latent", STATE, NOISE_UNITS, "latent the inversion of the image ended at"),
        row("evaluations", ("sample",), "network evaluations the inversion of the image took"),
        Variable(
            "residual",
            ("sample", "step"),
            "1",
            "rms of P x_{l-1} + Q eps(x_l) - x_l after step l: 0 where the step is exactly undone by sampling",
            notes={
                "valid_min": 0.0,
                "comment": f"{RESIDUAL_NOT_DEFINED:g} = no residual: a replaced step, or none of one state",
            },
        ),
        Variable(
            "fallback",
            ("sample", "step"),
            "1",
            "what the guard against divergence did in step l",
            dtype="uint8",
            fill=FALLBACK_UNWRITTEN,
            notes={
                "flag_values": [*range(len(FALLBACKS)), FALLBACK_UNWRITTEN],
                "flag_meanings": " ".join((*FALLBACKS, "not_written")),
            },
        ),
    )

    source: Generation | ImageList | Crops
    num_inference_steps: int = Field(ge=1)
    method: str = "ddim"
    method_options: dict[str, JsonValue] = Field(default_factory=dict)
    network_time: NetworkTime = "target"
    levels: Levels = "exact"
    first_time: FirstTime = "one"
    held: HeldQuantity = "auto"
    x0_rule: X0Rule = "none"
    forward_steps: int = Field(default=0, ge=0)
    forward_level: ForwardLevel = "exact"
    forward_seed: int = Field(default=42, ge=0)
    round_trip: RoundTrip = "none"
    guidance_scale: GuidanceScale = UNGUIDED
    draws_noise: bool = Field(default=False, description="the method starts from noise of forward_seed")
    method_fingerprint: str = ""
    method_location: str = ""
    expected_evaluations: tuple[int, int] | None = None
    sampling_evaluations: int | None = None
    carried: dict[str, dict[str, int]] = Field(default_factory=dict)
    network: ModelSpec | None = None
    swapped_step: int = Field(
        default=0, ge=0, description="step that carries what the sampler carried in it; 0 is none"
    )

    @field_validator("network")
    @classmethod
    def _another_of_the_same_shape(cls, value: ModelSpec | None, info: Any) -> ModelSpec | None:
        source = info.data.get("source")
        # The images' own network, named, is what None means: it must not split one artifact.
        if value is None or source is None or value.canonical() == source.model.canonical():
            return None
        here, there = (_sample_shape(spec) for spec in (value, source.model))
        if here and there and here != there:
            raise ValueError(
                f"network {value.name} works on states of {here}, and the images are of {source.model.name}, on "
                f"{there}; an inversion needs a network of the same shape."
            )
        return value

    @model_validator(mode="before")
    @classmethod
    def _no_forward_no_forward_fields(cls, data: Any) -> Any:
        # With K = 0 the level rule does nothing, and mostly no noise is drawn: neither must split one artifact.
        if isinstance(data, dict) and not data.get("forward_steps"):
            unused = {"forward_level"} if data.get("draws_noise") else {"forward_level", "forward_seed"}
            data = {k: v for k, v in data.items() if k not in unused}
        elif isinstance(data, dict) and _one_level_rule(data):
            data = {k: v for k, v in data.items() if k != "forward_level"}
        return data

    @field_validator("forward_steps", "swapped_step")
    @classmethod
    def _fewer_than_all(cls, value: int, info: Any) -> int:
        steps = info.data.get("num_inference_steps")
        if steps is not None and value > steps:
            raise ValueError(f"{info.field_name}={value} of num_inference_steps={steps}; use 0 to {steps}.")
        return value

    @property
    def samples(self) -> SampleSource:
        """Those of the inverted images."""
        return self.source

    @property
    def predictor(self) -> ModelSpec:
        """The network that inverts."""
        return self.network or self.source.model

    def sources(self) -> tuple[Artifact, ...]:
        """The images."""
        return (self.source,)

    def variables(self) -> dict[str, Variable]:
        """Those of the kind, and the tensors that the method carries beside the latent, under their own names."""
        text = "carried beside the latent by a method with a sampler of its own"
        own = {name: Variable(name, ("sample", *dims), "1", text) for name, dims in self.carried.items()}
        return super().variables() | own

    def sizes(self, variable: str) -> dict[str, int]:
        """Those of a carried tensor."""
        return self.carried.get(variable, {})

    def num_evaluations(self) -> int:
        """Those of the method, the most where they depend on the image; of DDIM T - K. Twice that under guidance."""
        return self._bounds[1] + self._path_evaluations

    def least_evaluations(self) -> int:
        """The method's lower bound, twice under guidance."""
        return self._bounds[0] + self._path_evaluations

    def saved_evaluations(self, made: frozenset[Artifact]) -> int:
        """Those of a path that was just walked, where a step is the sampler's own."""
        return self._path_evaluations if self.source in made else 0

    @property
    def _path_evaluations(self) -> int:
        return self.source.num_evaluations() if self.swapped_step else 0

    def measuring_evaluations(self, variables: tuple[str, ...]) -> int:
        """One prediction for every step that is not replaced, where the residual is asked."""
        if "residual" not in variables:
            return 0
        steps = self.num_inference_steps - self.forward_steps
        return steps * evaluations_per_prediction(self.guidance_scale)

    @property
    def _bounds(self) -> tuple[int, int]:
        """Least and most network evaluations of an image."""
        plain = self.num_inference_steps - self.forward_steps
        low, high = self.expected_evaluations or (plain, plain)
        each, swapped = evaluations_per_prediction(self.guidance_scale), int(self.swapped_step > 0)
        return (low - swapped) * each, (high - swapped) * each


def _one_level_rule(data: Mapping[str, Any]) -> bool:
    """Whether both rules noise to level K: at source times step K+1 asks the network there."""
    asks_there = data.get("network_time") == "source" and data.get("levels", "exact") == "exact"
    return asks_there and data["forward_steps"] != data.get("num_inference_steps")


def _sample_shape(spec: ModelSpec) -> str:
    """Shape of a network's states where its spec says it (models that are not built in), as 3x32x32; else nothing."""
    shape = (spec.card or {}).get("sample_shape")
    return "x".join(map(str, shape)) if isinstance(shape, (list, tuple)) else ""
