"""Images generated from noise: x_T ~ N(0, I) to x_0 by DDIM, eta = 0."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from taba_core.artifacts.base import SampleSource
from taba_core.artifacts.variable import CLASS_ID, NOISE_UNITS, PATH, PROMPT, STATE, Variable, picture
from taba_core.conventions import UNGUIDED, GuidanceScale, X0Rule, evaluations_per_prediction
from taba_core.model_spec import ModelSpec, PromptSpec

# Conditions of samples: counter-based (any sample alone), or the reference code's sequential draws.
Draws = Literal["counter", "reference"]


class Generation(SampleSource):
    """Noise sampled to images.

    `drawn_samples` is the number of samples that the reference code's draws are made for: their order depends on it.
    `guidance_scale` is w of the sampler; whatever walks the sampling path again walks it at this scale.
    """

    kind: ClassVar[str] = "generation"
    image_variable: ClassVar[str] = "image"
    added_later: ClassVar[dict[str, Any]] = {"guidance_scale": UNGUIDED}
    stored: ClassVar[tuple[Variable, ...]] = (
        Variable("noise", STATE, NOISE_UNITS, "Gaussian noise x_T that sampling started from"),
        Variable("image", STATE, "1", "generated image x_0 in the model's own space"),
        CLASS_ID,
        PROMPT,
        Variable("x_t", PATH, NOISE_UNITS, "state read by the sampling step at this level"),
        Variable("eps_t", PATH, NOISE_UNITS, "noise prediction used by that sampling step"),
        picture("decoded", "image decoded from the latent space, 8-bit RGB"),
    )

    model: ModelSpec
    batch_size: int = Field(ge=1, description="samples the network sees at once")
    num_inference_steps: int = Field(ge=1)
    seed: int = Field(ge=0)
    conditioning: Literal["none", "class", "prompt"] = "none"
    class_seed: int = Field(default=10, ge=0, description="seed of the class or prompt draws")
    prompts: PromptSpec | None = None
    draws: Draws = "counter"
    drawn_samples: int | None = Field(default=None, ge=1)
    noises_per_condition: int = Field(
        default=1, ge=1, description="consecutive samples that share a condition"
    )
    x0_rule: X0Rule = "none"
    guidance_scale: GuidanceScale = UNGUIDED

    @model_validator(mode="after")
    def _fields_go_together(self) -> Generation:
        if (self.conditioning == "prompt") != (self.prompts is not None):
            raise ValueError(
                f"conditioning={self.conditioning}: prompts are given for conditioning=prompt only."
            )
        if self.conditioning == "none" and self.guidance_scale != UNGUIDED:
            raise ValueError(
                f"guidance_scale={self.guidance_scale:g}: conditioning=none has nothing to guide to."
            )
        if (self.draws == "reference") != (self.drawn_samples is not None):
            raise ValueError(f"draws={self.draws}: drawn_samples is given for draws=reference only.")
        return self

    @property
    def condition_variables(self) -> tuple[str, ...]:
        """The class, and the prompt where there is one."""
        return ("class_id", "prompt") if self.conditioning == "prompt" else ("class_id",)

    @property
    def draw_seed(self) -> int:
        """The seed of the noise."""
        return self.seed

    @property
    def limit(self) -> int | None:
        """None; with the reference code's draws as many as they were made for."""
        return self.drawn_samples

    def always_stored(self, *, latent: bool) -> tuple[str, ...]:
        """Noise, images and conditions: what everything else starts from."""
        return ("noise", "image", *self.condition_variables, *(("decoded",) if latent else ()))

    def num_evaluations(self) -> int:
        """T: one evaluation per transition; 2 T under guidance."""
        return self.num_inference_steps * evaluations_per_prediction(self.guidance_scale)
