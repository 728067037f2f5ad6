"""Artifact specs: frozen descriptions of what is computed, and the content key that names it.

An artifact is a set of stored arrays over the same samples. Its spec holds everything that can change a value
and nothing that cannot (workers, executors, paths). Specs nest: an inversion contains the generation it starts
from, so its key follows from the whole chain.
"""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from taba_core.conventions import ForwardLevel, Levels, NetworkTime, X0Rule
from taba_core.model_spec import ModelSpec as ModelSpec
from taba_core.model_spec import PromptSpec as PromptSpec
from taba_core.model_spec import Spec as Spec

SCHEMA_VERSION = 1

# Conditions of samples: counter-based (any sample alone), or the reference code's sequential draws.
Draws = Literal["counter", "reference"]
# What a latent image goes through before it is inverted: nothing, or decoder and encoder (posterior mean or a draw).
RoundTrip = Literal["none", "mean", "sample"]


class Artifact(Spec):
    """Base of all artifacts; `kind` is in the key and in the group's name."""

    kind: ClassVar[str]

    def root(self) -> Generation:
        """The generation at the start of the chain (it fixes samples, shards and shapes)."""
        raise NotImplementedError  # abstract

    def sources(self) -> tuple[Artifact, ...]:
        """Artifacts whose shards this one reads, shard i from shard i."""
        return ()

    def num_evaluations(self) -> int:
        """Network evaluations (NFE) per sample."""
        raise NotImplementedError  # abstract

    def least_evaluations(self) -> int:
        """Network evaluations of the cheapest sample, where they depend on it."""
        return self.num_evaluations()

    @property
    def key(self) -> str:
        """12 hex digits naming the content: kind, all fields, all sources, schema version."""
        text = f"{SCHEMA_VERSION}/{self.kind}/{self.canonical()}"
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    @property
    def name(self) -> str:
        """Group name in the store: <model>-<kind>-<key>."""
        return f"{self.root().model.name}-{self.kind}-{self.key}"

    def attrs(self) -> dict[str, Any]:
        """What the group's attributes say: schema version, kind, key, and the whole spec."""
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": self.kind,
            "key": self.key,
            "spec": self.model_dump(mode="json"),
        }


class Generation(Artifact):
    """x_T ~ N(0, I) to x_0 by DDIM, eta = 0."""

    kind: ClassVar[str] = "generation"
    added_later: ClassVar[dict[str, Any]] = {"prompts": None, "draws": "counter", "noises_per_condition": 1}

    model: ModelSpec
    num_samples: int = Field(ge=2)
    samples_per_shard: int = Field(ge=1)
    num_inference_steps: int = Field(ge=1)
    seed: int = Field(ge=0)
    conditioning: Literal["none", "class", "prompt"] = "none"
    class_seed: int = Field(default=10, ge=0, description="seed of the class or prompt draws")
    prompts: PromptSpec | None = None
    draws: Draws = "counter"
    noises_per_condition: int = Field(
        default=1, ge=1, description="consecutive samples that share a condition"
    )
    x0_rule: X0Rule = "none"

    @model_validator(mode="after")
    def _prompts_go_with_their_conditioning(self) -> Generation:
        if (self.conditioning == "prompt") != (self.prompts is not None):
            raise ValueError(
                f"conditioning={self.conditioning}: prompts are given for conditioning=prompt only."
            )
        return self

    def root(self) -> Generation:
        """Itself."""
        return self

    def num_evaluations(self) -> int:
        """T: one evaluation per transition."""
        return self.num_inference_steps


class Inversion(Artifact):
    """x_0 to the latent x̂_T, the first `forward_steps` steps replaced by forward diffusion.

    `num_inference_steps` is the inversion's own T; `source` holds the T the images were sampled with.

    `method_fingerprint` is the hash of the file of a user's own method, `method_location` the folder to import it from.
    `expected_evaluations` (least and most of an image; None is T - K), `sampling_evaluations` (of its reconstruction;
    None is T) and `carried` (dimensions and sizes of what is kept beside the latent) follow from method and model.
    """

    kind: ClassVar[str] = "inversion"
    added_later: ClassVar[dict[str, Any]] = {
        "round_trip": "none",
        "draws_noise": False,
        "method_fingerprint": "",
    }
    outside_key: ClassVar[frozenset[str]] = frozenset(
        {"method_location", "expected_evaluations", "sampling_evaluations", "carried"}
    )

    source: Generation
    num_inference_steps: int = Field(ge=1)
    method: str = "ddim"
    method_options: dict[str, JsonValue] = Field(default_factory=dict)
    network_time: NetworkTime = "target"
    levels: Levels = "exact"
    x0_rule: X0Rule = "none"
    forward_steps: int = Field(default=0, ge=0)
    forward_level: ForwardLevel = "exact"
    forward_seed: int = Field(default=42, ge=0)
    round_trip: RoundTrip = "none"
    draws_noise: bool = Field(default=False, description="the method starts from noise of forward_seed")
    method_fingerprint: str = ""
    method_location: str = ""
    expected_evaluations: tuple[int, int] | None = None
    sampling_evaluations: int | None = None
    carried: dict[str, dict[str, int]] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _no_forward_no_forward_fields(cls, data: Any) -> Any:
        # With K = 0 the level rule does nothing, and mostly no noise is drawn: neither must split one artifact.
        if isinstance(data, dict) and not data.get("forward_steps"):
            unused = {"forward_level"} if data.get("draws_noise") else {"forward_level", "forward_seed"}
            data = {k: v for k, v in data.items() if k not in unused}
        return data

    @field_validator("forward_steps")
    @classmethod
    def _fewer_than_all(cls, value: int, info: Any) -> int:
        steps = info.data.get("num_inference_steps")
        if steps is not None and value > steps:
            raise ValueError(f"forward_steps={value} of num_inference_steps={steps}; use 0 to {steps}.")
        return value

    def root(self) -> Generation:
        """The generation whose images are inverted."""
        return self.source

    def sources(self) -> tuple[Artifact, ...]:
        """The generation."""
        return (self.source,)

    def least_evaluations(self) -> int:
        """The method's lower bound."""
        return self.num_evaluations() if self.expected_evaluations is None else self.expected_evaluations[0]

    def num_evaluations(self) -> int:
        """Those of the method, the most where they depend on the image; of DDIM T - K."""
        if self.expected_evaluations is not None:
            return self.expected_evaluations[1]
        return self.num_inference_steps - self.forward_steps


class Reconstruction(Artifact):
    """The latent of an inversion sampled back to an image by the generation's own sampler."""

    kind: ClassVar[str] = "reconstruction"

    source: Inversion

    def root(self) -> Generation:
        """The generation of the inverted images."""
        return self.source.source

    def sources(self) -> tuple[Artifact, ...]:
        """The inversion, and the generation for its conditioning."""
        return (self.source, self.source.source)

    def num_evaluations(self) -> int:
        """T of the inversion, or those of the method's own sampler."""
        own = self.source.sampling_evaluations
        return self.source.num_inference_steps if own is None else own


class PerceptualDistance(Artifact):
    """LPIPS of each image and what was sampled again from its latent (studies ST13): the pictures of both, in [-1, 1].

    A kind of its own: the network that measures is none of the model's, and may come long after the images.
    """

    kind: ClassVar[str] = "perceptual-distance"

    source: Reconstruction
    weights: str = Field(
        description="first digits of the SHA-256 of the weights of the network that measures"
    )

    def root(self) -> Generation:
        """The generation of the images."""
        return self.source.root()

    def sources(self) -> tuple[Artifact, ...]:
        """The reconstruction, and the generation for its images."""
        return (self.source, self.root())

    def num_evaluations(self) -> int:
        """None of the model."""
        return 0


class StepPredictions(Artifact):
    """Inversion predictions eps(x_{l-1}, .) from the exact cached states of the sampling path (App. J).

    T evaluations per image: one for each cached state, no inversion is restarted.
    """

    kind: ClassVar[str] = "step-predictions"

    source: Generation
    network_time: NetworkTime = "target"
    levels: Levels = "exact"
    x0_rule: X0Rule = "none"

    def root(self) -> Generation:
        """The generation whose path is used."""
        return self.source

    def sources(self) -> tuple[Artifact, ...]:
        """The generation."""
        return (self.source,)

    def num_evaluations(self) -> int:
        """T: one evaluation per cached state."""
        return self.source.num_inference_steps


class PlainRegions(Artifact):
    """Plain mask of the generated images (ST5).

    Of a latent model: of the decoded image, averaged over the area of each latent position (Table 3's reading;
    the paper does not state one).
    """

    kind: ClassVar[str] = "regions"

    source: Generation
    threshold: float = Field(default=0.025, gt=0)
    value_range: Literal["-1..1", "0..1"] = "-1..1"

    def root(self) -> Generation:
        """The generation whose images are masked."""
        return self.source

    def sources(self) -> tuple[Artifact, ...]:
        """The generation."""
        return (self.source,)

    def num_evaluations(self) -> int:
        """None."""
        return 0


class StepErrors(Artifact):
    """Per-sample sums of the errors of step predictions in plain and other areas, without the paths they come from.

    Equal to the rows of `taba_core.stats.step_error.StepError` over `eps_t`, `eps_hat` and `region`. The path is
    walked a second time, from the noise and in the generation's batches, so its states have the same bits.
    """

    kind: ClassVar[str] = "step-errors"

    source: PlainRegions
    network_time: NetworkTime = "target"
    levels: Levels = "exact"
    x0_rule: X0Rule = "none"

    def root(self) -> Generation:
        """The generation whose path is walked again."""
        return self.source.source

    def sources(self) -> tuple[Artifact, ...]:
        """The generation for its images and conditioning, and the plain areas."""
        return (self.source.source, self.source)

    def num_evaluations(self) -> int:
        """2 T: the path once more, and one prediction from each of its states."""
        return 2 * self.source.source.num_inference_steps


class PathDistances(Artifact):
    """Per-sample inner products that give the distance of the sampling path to the segment from noise to latent.

    Equal to the rows of `taba_core.stats.trajectory.PathDistance` over `noise`, `latent`, `x_t` and `image`; the
    path is walked a second time, as for `StepErrors`.
    """

    kind: ClassVar[str] = "path-distances"

    source: Inversion

    def root(self) -> Generation:
        """The generation whose path is walked again."""
        return self.source.source

    def sources(self) -> tuple[Artifact, ...]:
        """The generation, whose levels the rows have, and the inversion."""
        return (self.source.source, self.source)

    def num_evaluations(self) -> int:
        """T: the path once more."""
        return self.source.source.num_inference_steps


class SelfInterpolation(Artifact):
    """Distances to each image of what the sampler makes of slerp(x_T, x̂_T; c), c = 0, ..., 1 in equal steps."""

    kind: ClassVar[str] = "self-interpolation"

    source: Inversion
    num_weights: int = Field(default=11, ge=2, description="points c of the arc, both ends included")

    def root(self) -> Generation:
        """The generation of the inverted images."""
        return self.source.source

    def sources(self) -> tuple[Artifact, ...]:
        """The generation, for its noise and images, and the inversion."""
        return (self.source.source, self.source)

    def num_evaluations(self) -> int:
        """T of the images at every c."""
        return self.num_weights * self.source.source.num_inference_steps


KINDS: dict[str, type[Artifact]] = {
    cls.kind: cls
    for cls in (
        Generation,
        Inversion,
        Reconstruction,
        PerceptualDistance,
        StepPredictions,
        PlainRegions,
        StepErrors,
        PathDistances,
        SelfInterpolation,
    )
}


def from_attrs(attrs: dict[str, Any]) -> Artifact:
    """Rebuild a spec from a group's attributes.

    Raises:
      KeyError: no such kind. pydantic.ValidationError: fields of another version.
    """
    return KINDS[attrs["kind"]].model_validate(attrs["spec"])
