"""The conventions that change results, as data (decided per model, recorded with every number).

The literature and the public reference code differ in these choices; each is a named field here and nowhere
a branch on a model's name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

NetworkTime = Literal["target", "source"]
Levels = Literal["exact", "shifted"]
X0Rule = Literal["none", "clip", "clip-rederive", "dynamic"]
ForwardLevel = Literal["exact", "matched"]
FirstTime = Literal["one", "zero"]
HeldQuantity = Literal["auto", "velocity", "noise", "noise-vp"]

# w of classifier-free guidance, eps = eps_null + w (eps_cond - eps_null).
GuidanceScale = Annotated[float, Field(gt=0, allow_inf_nan=False)]
UNGUIDED = 1.0  # the prediction with the condition, which needs no other


def no_time_of_the_clean_image() -> str:
    """Why first_time=zero is refused where the noise schedule is no flow."""
    return (
        "first_time=zero: only a network of a flow knows a time of the clean image; use first_time=one, with which "
        "step 1 asks at the time of level 1."
    )


def no_velocity(model: str) -> str:
    """Why held=velocity is refused for a network that predicts the noise alone."""
    return (
        f"held=velocity: {model} predicts the noise alone, which is what its steps carry; use held=noise or held=auto, "
        "or a model that predicts v, x_0 or a velocity."
    )


def evaluations_per_prediction(guidance_scale: float) -> int:
    """Network evaluations (NFE) of one prediction: 1, or 2 under guidance, with the condition and without it."""
    return 1 if guidance_scale == UNGUIDED else 2


class Conventions(BaseModel):
    """One complete choice.

    - network_time: inversion step l (level l-1 to l) asks the network at the time of its *target* level l
      (paper, Eq. 3) or of its *source* level l-1.
    - first_time: where step 1 is asked under source times. *one*: at the time of level 1, as a network knows no time of
      the clean image; *zero* (flows only, as published): at time 0, where the best velocity is -x_0.
    - levels: *exact* inverts over the sampler's own pairs of levels; *shifted* treats the state one level
      noisier than it is and ends at alpha_bar = 0 (guided-diffusion's reverse process, the ADM models).
    - sampling_x0_rule, inversion_x0_rule: what is done to the predicted x_0 in each direction.
    - held: what inversion steps carry from the level of a state to the next. *auto*: what the network predicts: the
      noise, or of networks that give both ends (v, x_0, a velocity) the velocity eps - x_0 at the level of the state.
      *velocity* and *noise* say so; *noise* is that at the level of the network's time, as a noise-predicting network
      gives it. *noise-vp* gives the network the state scaled to the power of that level, which is the step of the
      variance-preserving model that a flow is on other levels. Sampling asks at the state's own level, where all are
      one; so does an inversion at source times.
    - forward_level: after replacing K steps the next update treats the state as level K. *exact* noises to
      level K; *matched* to level K+1, the level of the network time of that update.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    network_time: NetworkTime = Field("target", description="inversion asks the network at: target | source")
    levels: Levels = Field("exact", description="levels the inversion moves between: exact | shifted")
    sampling_x0_rule: X0Rule = Field(
        "none", description="x_0 rule when sampling: none|clip|clip-rederive|dynamic"
    )
    inversion_x0_rule: X0Rule = Field("none", description="x_0 rule when inverting")
    forward_level: ForwardLevel = Field("exact", description="forward replacement noises to: exact | matched")
    first_time: FirstTime = Field("one", description="time of step 1 under source times: one | zero")

    held: HeldQuantity = Field(
        "auto", description="what inversion steps carry between levels: auto | velocity | noise | noise-vp"
    )

    @model_validator(mode="after")
    def _shifted_levels_use_source_time(self) -> Conventions:
        if self.levels == "shifted" and self.network_time != "source":
            raise ValueError(
                "levels=shifted treats the state as the level of the network's own time, so it needs "
                "network_time=source; set both, or levels=exact."
            )
        return self

    @model_serializer(mode="wrap")
    def _without_what_came_later(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Keys of stores are hashes of cards, so a field that came later is written only where it says something.
        fields: dict[str, Any] = serialize(self)
        if self.first_time == "one":
            fields.pop("first_time", None)
        if self.held == "auto":
            fields.pop("held", None)
        return fields


EXACT = Conventions()
