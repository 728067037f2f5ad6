"""Images of points between two starting states of the sampler: noises, or latents of any inversion (Figures 5, 23)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from taba_core.artifacts.base import Artifact, SampleSource
from taba_core.artifacts.generation import Generation
from taba_core.artifacts.inversion import Inversion
from taba_core.artifacts.reconstruction import Reconstruction
from taba_core.artifacts.variable import STATE, Variable
from taba_core.model_spec import ModelSpec


class Interpolation(Artifact):
    """Image i is what the sampler makes of slerp(u_i, v_i; w), u_i and v_i what images i of the two ends started from.

    The ends are two generations (u and v are noises) or two reconstructions (latents), equal but for the seeds that
    make them independent. A pair shares its condition, and so does the point between. slerp gives its ends exactly, so
    w = 0 is the first end and w = 1 the second: those images are there already, and no interpolation is made of them.

    `by_row` is the reference's choice: one angle for every row of a state instead of one for the whole state.
    """

    kind: ClassVar[str] = "interpolation"
    image_variable: ClassVar[str] = "interpolated"
    reads: ClassVar[tuple[str, ...]] = ("noise", "latent", "class_id", "prompt")
    stored: ClassVar[tuple[Variable, ...]] = (
        Variable("interpolated", STATE, "1", "image sampled from the point between the two starting states"),
    )

    first: Generation | Reconstruction
    second: Generation | Reconstruction
    weight: float = Field(gt=0, lt=1, description="w of the second end; 0 and 1 are the ends themselves")
    by_row: bool = False

    @model_validator(mode="after")
    def _ends_are_independent_twins(self) -> Interpolation:
        first, second = self.first, self.second
        if isinstance(first, Reconstruction) and isinstance(second, Reconstruction):
            _check_latents(first.source, second.source)
            alike = second.altered(source=_reseeded(second.source, first.source)) == first
        else:
            alike = isinstance(first, Generation) and _reseeded(second, first) == first
        if not alike:
            raise ValueError(
                f"{first.name} and {second.name} differ in more than their seeds; the ends of an interpolation are "
                "alike in model, steps, conditions and method."
            )
        if first.samples == second.samples:
            raise ValueError("both ends have one seed, so that a pair is one sample; give them two seeds.")
        return self

    @property
    def samples(self) -> SampleSource:
        """Those of the first end, whose conditions the images have."""
        return self.first.samples

    @property
    def predictor(self) -> ModelSpec:
        """The network of the ends' sampler."""
        return self.first.predictor

    @property
    def starts(self) -> tuple[tuple[Artifact, str], ...]:
        """Where the starting states of both ends stand: artifact and variable."""
        return tuple(
            (end.source, "latent") if isinstance(end, Reconstruction) else (end, "noise")
            for end in (self.first, self.second)
        )

    def sources(self) -> tuple[Artifact, ...]:
        """What holds the starting states, and the first end's samples for their conditions."""
        return tuple(dict.fromkeys((*(of for of, _ in self.starts), self.samples)))

    def reads_of(self, source: Artifact) -> tuple[str, ...]:
        """The starting state, and of the first end's samples the conditions."""
        states = [name for of, name in self.starts if of == source]
        return (*states, *(self.samples.condition_variables if source == self.samples else ()))

    def num_evaluations(self) -> int:
        """Those of an end."""
        return self.first.num_evaluations()


def _reseeded(second: Artifact, first: Artifact) -> Artifact:
    """The second end with the seeds of the first, of a generation or an inversion of one."""
    if isinstance(second, Generation) and isinstance(first, Generation):
        return second.altered(seed=first.seed)
    if isinstance(second, Inversion) and isinstance(first, Inversion):
        source = _reseeded(second.source, first.source)
        return second.altered(source=source, forward_seed=first.forward_seed)
    return second


def _check_latents(first: Inversion, second: Inversion) -> None:
    """Refuse latents that cannot be interpolated, or whose own noise is one noise."""
    if carried := sorted({*first.carried, *second.carried}):
        raise ValueError(
            f"method {first.method} carries {', '.join(carried)} beside the latent, and nothing says what lies between "
            "those of two images; use a method that carries nothing, such as ddim."
        )
    draws = first.forward_steps or first.draws_noise
    if draws and first.forward_seed == second.forward_seed:
        raise ValueError(
            f"forward_seed={first.forward_seed} at both ends: their replaced steps would share one noise, which makes "
            "the latents of a pair alike; give the ends two forward seeds."
        )
