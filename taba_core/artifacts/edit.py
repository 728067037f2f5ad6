"""Edits: images sampled again from the same start, under another condition (Section 4.2; Tables 5, 6, 12)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, JsonValue, model_validator

from taba_core.artifacts.base import Artifact, SampleSource
from taba_core.artifacts.crops import Crops
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
    source. Real images have no noise, so an edit of them has a `noise_seed`, and `num_inference_steps` of its own. With
    `flow_edit_steps` nothing is sampled: the image itself is led over so many lowest steps of a flow to the target
    (FlowEdit), the source under the guidance of its generation, with noise of `noise_seed`.

    `switch_share` is the leading share of the T sampling steps that stay under the source's own condition: the target
    is read from step ceil(switch_share T) on, counted from 0. At 0 an edit has nothing of the source but its start, at
    1 it is the reconstruction (paper, Appendix M).

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
        "switch_share": 0.0,
        "num_inference_steps": None,
        "flow_edit_steps": None,
        "editor": "",
        "editor_options": {},
        "source_path": "own",
    }
    outside_key: ClassVar[frozenset[str]] = frozenset({"editor_predictions"})
    reads: ClassVar[tuple[str, ...]] = ("noise", "image", "latent", "class_id", "prompt")
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

    source: Generation | Inversion | ImageList | Crops
    targets: Targets = "drawn"
    target_seed: int = Field(default=42, ge=0)
    target_list: PromptSpec | None = None
    noise_seed: int | None = Field(default=None, ge=0)
    x0_rule: X0Rule = "none"
    guidance_scale: GuidanceScale = UNGUIDED
    switch_share: float = Field(default=0.0, ge=0, le=1)
    num_inference_steps: int | None = Field(default=None, ge=1)
    flow_edit_steps: int | None = Field(default=None, ge=1)
    editor: str = ""
    editor_options: dict[str, JsonValue] = Field(default_factory=dict)
    source_path: SourcePath = "own"
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
        if self.noise_seed is not None and isinstance(self.source, Inversion):
            raise ValueError(f"noise_seed={self.noise_seed}: an edit of an inversion starts from its latent.")
        self._check_start()
        if self.flow_edit_steps is not None:
            self._check_flow_edit(self.flow_edit_steps)
        if self.editor:
            self._check_editor()
        elif self.source_path == "pinned":
            raise ValueError(
                "source_path=pinned: only the source of an editor behind an inversion has states."
            )
        return self

    def _check_start(self) -> None:
        """Real images have no noise: either it is drawn, or an editor starts from the images."""
        real = isinstance(self.source, ImageList | Crops)
        if real and self.noise_seed is None and not self.editor:
            raise ValueError(
                "real images have no noise: an edit of them needs a noise_seed, or one of the editors that start from "
                "the images themselves."
            )
        may_have_steps = real or (bool(self.editor) and isinstance(self.source, Generation))
        if (real and self.num_inference_steps is None) or (
            self.num_inference_steps is not None and not may_have_steps
        ):
            raise ValueError(
                "num_inference_steps is given for edits of real images and for editors that start from the images "
                "themselves, and for nothing else."
            )

    def _check_editor(self) -> None:
        if self.noise_seed is not None:
            raise ValueError(
                f"noise_seed={self.noise_seed}: an editor needs the noise that the source was made of."
            )
        if self.switch_share:
            raise ValueError(
                f"switch_share={self.switch_share:g}: an editor says itself from which step on it edits."
            )
        if self.source_path == "pinned" and not isinstance(self.source, Inversion):
            raise ValueError(
                "source_path=pinned: only the source of an editor behind an inversion has states."
            )

    def _check_flow_edit(self, steps: int) -> None:
        if self.switch_share:
            raise ValueError(
                f"switch_share={self.switch_share:g}: FlowEdit samples nothing that could switch."
            )
        if not isinstance(self.source, Generation) or self.noise_seed is None:
            raise ValueError(
                f"flow_edit_steps={steps}: FlowEdit leads generated images, with noise of a seed of its own; give a "
                "generation and noise_seed."
            )
        if steps > self.source.num_inference_steps:
            raise ValueError(f"flow_edit_steps={steps} of {self.source.num_inference_steps} steps.")

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
        return bool(self.editor) and self.num_inference_steps is not None

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
        if not self.starts_from_image and self.source_path == "own" and self.flow_edit_steps is None:
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

        FlowEdit and an attention editor evaluate source and target at each of their steps; an editor whose source is
        pinned inverts the image once more.
        """
        if self.flow_edit_steps is not None:
            guided = (self.guidance_scale, getattr(self.source, "guidance_scale", UNGUIDED))
            return self.flow_edit_steps * sum(map(evaluations_per_prediction, guided))
        inversion = self.source if isinstance(self.source, Inversion) else None
        own = inversion.sampling_evaluations if inversion is not None else None
        steps = self.num_steps if own is None else own
        if self.editor_predictions is not None:
            steps = self.editor_predictions
        again = inversion.num_evaluations() if inversion is not None and self.source_path == "pinned" else 0
        return again + steps * evaluations_per_prediction(self.guidance_scale)
