"""Edits: images sampled again from the same start, under another condition (Section 4.2; Tables 5, 6, 12)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, JsonValue, model_validator

from taba_core.artifacts.base import Artifact, SampleSource
from taba_core.artifacts.generation import Generation
from taba_core.artifacts.images import ImageList
from taba_core.artifacts.inversion import Inversion
from taba_core.artifacts.variable import CLASS_ID, PROMPT, STATE, Variable, picture
from taba_core.conventions import UNGUIDED, GuidanceScale, X0Rule, evaluations_per_prediction
from taba_core.model_spec import ModelSpec, PromptSpec

# Where target conditions come from: drawn by counter, never the sample's own; or the lines of a file, in their order.
Targets = Literal["drawn", "listed"]
# Which way the source of an editor goes: back by the sampler, or put on the states of its inversion at every step.
SourcePath = Literal["own", "pinned"]
# The variable that holds the target, by what the samples are conditioned on.
TARGET_VARIABLES = {"class": "target_class_id", "prompt": "target_prompt"}


class Edit(Artifact):
    """The noise of a generation, or the latent of an inversion, sampled under a target condition.

    `source` says where sampling starts: a generation, from its noise; an inversion, from its latent, by the sampler of
    its method. `noise_seed` takes noise of another seed than the generation's: an image that knows nothing of the
    source.

    A drawn target belongs to (`target_seed`, sample id // noises_per_condition): a class of the model, or a prompt of
    `target_list`, other than the sample's own. A listed one is line (sample id // noises_per_condition) of
    `target_list`: a prompt, or the number or the name of a class.

    `editor` samples the edit under control of its source (`taba_core.diffusion.attention`) with `editor_options`, all
    of them; "" is plain sampling. `source_path` says which way the source of an attention editor goes. An editor that
    needs no inversion starts from the images themselves, on a grid of `num_inference_steps`. `editor_predictions` (of
    the network for one edit, guidance left out) follows from editor and method.
    """

    kind: ClassVar[str] = "edit"
    image_variable: ClassVar[str] = "edit"
    added_later: ClassVar[dict[str, Any]] = {
        "editor": "",
        "editor_options": {},
        "source_path": "own",
        "num_inference_steps": None,
    }
    outside_key: ClassVar[frozenset[str]] = frozenset({"editor_predictions"})
    reads: ClassVar[tuple[str, ...]] = ("noise", "latent", "image", "class_id", "prompt")
    stored: ClassVar[tuple[Variable, ...]] = (
        Variable("edit", STATE, "1", "image sampled from the start under the target condition"),
        Variable(
            "target_class_id",
            CLASS_ID.dims,
            "1",
            "class that the edit is asked for",
            dtype=CLASS_ID.dtype,
            fill=CLASS_ID.fill,
            notes=CLASS_ID.notes,
        ),
        Variable(
            "target_prompt",
            PROMPT.dims,
            "1",
            "prompt that the edit is asked for, UTF-8 bytes padded with zeros",
            dtype=PROMPT.dtype,
            fill=PROMPT.fill,
            notes={"comment": "every value is valid; a sample whose `edit` is NaN is not written"},
        ),
        picture("decoded", "edit decoded from the latent space, 8-bit RGB"),
    )

    source: Generation | Inversion | ImageList
    targets: Targets = "drawn"
    target_seed: int = Field(default=42, ge=0)
    target_list: PromptSpec | None = None
    noise_seed: int | None = Field(default=None, ge=0)
    x0_rule: X0Rule = "none"
    guidance_scale: GuidanceScale = UNGUIDED
    editor: str = ""
    editor_options: dict[str, JsonValue] = Field(default_factory=dict)
    source_path: SourcePath = "own"
    num_inference_steps: int | None = Field(default=None, ge=1)
    editor_predictions: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _only_draws_have_a_seed(cls, data: Any) -> Any:
        # Of listed targets nothing is drawn: a seed must not split one artifact.
        if isinstance(data, dict) and data.get("targets") == "listed":
            data = {name: value for name, value in data.items() if name != "target_seed"}
        return data

    @model_validator(mode="after")
    def _fields_go_together(self) -> Edit:
        if self.conditioning == "none":
            raise ValueError("the samples have no condition, so there is none to exchange for another.")
        listed = self.targets == "listed" or self.conditioning == "prompt"
        if listed != (self.target_list is not None):
            raise ValueError(
                f"targets={self.targets} of conditioning={self.conditioning}: target_list is given for prompts and for "
                "listed targets, and for nothing else."
            )
        if self.noise_seed is not None and not isinstance(self.source, Generation):
            raise ValueError(f"noise_seed={self.noise_seed}: an edit of an inversion starts from its latent.")
        if self.editor and self.noise_seed is not None:
            raise ValueError(
                f"noise_seed={self.noise_seed}: an editor needs the noise that the source was made of."
            )
        if (self.starts_from_image or isinstance(self.source, ImageList)) and not (
            self.editor and self.starts_from_image and not isinstance(self.source, Inversion)
        ):
            raise ValueError(
                "num_inference_steps is given for editors that start from the images themselves, and for nothing else."
            )
        if self.source_path == "pinned" and not (self.editor and isinstance(self.source, Inversion)):
            raise ValueError(
                "source_path=pinned: only the source of an editor behind an inversion has states."
            )
        return self

    @property
    def samples(self) -> SampleSource:
        """The images that are edited."""
        return self.source.samples

    @property
    def conditioning(self) -> str:
        """What the samples are conditioned on: none, class or prompt."""
        images = self.source.source if isinstance(self.source, Inversion) else self.source
        return images.conditioning

    @property
    def noises_per_condition(self) -> int:
        """Consecutive samples that share a target, as they share the source's condition."""
        return int(getattr(self.samples, "noises_per_condition", 1))

    @property
    def target_variable(self) -> str:
        """The variable that holds the target."""
        return TARGET_VARIABLES[self.conditioning]

    @property
    def predictor(self) -> ModelSpec:
        """The network that made the start."""
        return self.source.predictor

    @property
    def starts_from_image(self) -> bool:
        """Whether an editor without an inversion makes it."""
        return self.num_inference_steps is not None

    def sources(self) -> tuple[Artifact, ...]:
        """The start, and the images for their conditions."""
        return tuple(dict.fromkeys((self.source, self.samples)))

    def reads_of(self, source: Artifact) -> tuple[str, ...]:
        """The start with what its method carries beside it, and the conditions that the targets differ from.

        Images are read where sampling starts from them, and where they are inverted again for the states in between.
        """
        known = super().reads_of(source)
        if isinstance(source, Inversion):
            return (*known, *source.carried)
        without_noise = (
            isinstance(self.source, Inversion) or self.noise_seed is not None or self.starts_from_image
        )
        unread = {"noise"} if without_noise else set()
        if not self.starts_from_image and self.source_path == "own":
            unread |= {"image"}
        return tuple(name for name in known if name not in unread)

    def always_stored(self, *, latent: bool) -> tuple[str, ...]:
        """Edits and their targets; of a latent model decoded edits, which are what is compared."""
        return ("edit", self.target_variable, *(("decoded",) if latent else ()))

    def never_stored(self, *, latent: bool) -> frozenset[str]:
        """The target of the other kind, and decoded pictures where the model works on pixels."""
        others = {*TARGET_VARIABLES.values()} - {self.target_variable}
        return frozenset(others | (set() if latent else {"decoded"}))

    def num_evaluations(self) -> int:
        """T of the start, or those of the method's own sampler; twice that under guidance.

        An attention editor evaluates source and target; one whose source is pinned inverts the image once more.
        """
        inversion = self.source if isinstance(self.source, Inversion) else None
        own = inversion.sampling_evaluations if inversion is not None else None
        steps = self.num_steps if own is None else own
        if self.editor_predictions is not None:
            steps = self.editor_predictions
        again = inversion.num_evaluations() if inversion is not None and self.source_path == "pinned" else 0
        return again + steps * evaluations_per_prediction(self.guidance_scale)
