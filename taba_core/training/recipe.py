"""Recipes: what a network is and how it is trained, as validated data (recipes.yaml)."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from taba_core.diffusion.schedule import NoiseSchedule
from taba_core.errors import unknown_name
from taba_core.models.cards import ScheduleCard

Family = Literal["autoencoder", "adm", "ldm", "dit", "if", "classifier"]
_NO_DENOISER = ("autoencoder", "classifier")


class Recipe(BaseModel):
    """One network and its training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    family: Family
    image_size: int = Field(ge=8, description="pixels of a side of the crops")
    network: dict[str, Any] = Field(description="architecture")
    text: dict[str, Any] | None = Field(default=None, description="if: configuration of the T5 encoder")
    autoencoder: str | None = Field(default=None, description="ldm, dit: the recipe of their autoencoder")
    schedule: ScheduleCard | None = Field(default=None, description="denoisers")
    timestep_scale: float = Field(default=1.0, gt=0)
    objective: Literal["epsilon", "v", "hybrid"] = "v"
    low_share: float = Field(default=0.0, ge=0, le=1, description="of the rows, from the cleanest tenth")
    low_power: float = Field(
        default=1.0,
        ge=1,
        description="of the draw within the cleanest tenth: more is more often the cleanest",
    )
    drop_condition: float = Field(default=0.0, ge=0, lt=1, description="share of rows without condition")
    latent_noise: float = Field(
        default=0.0,
        ge=0,
        description="autoencoder: noise on what the decoder reads, over the latents' spread",
    )
    kl_weight: float = Field(default=0.0, ge=0)
    gradient_weight: float = Field(default=0.0, ge=0)
    batch_size: int = Field(ge=1, description="on a GPU")
    cpu_batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    minutes_share: float = Field(gt=0, le=1)

    @model_validator(mode="after")
    def _parts_agree(self) -> Recipe:
        if (self.family in _NO_DENOISER) != (self.schedule is None):
            raise ValueError(f"recipe '{self.name}': all but autoencoders and classifiers have a schedule.")
        if (self.family in ("ldm", "dit")) != (self.autoencoder is not None):
            raise ValueError(f"recipe '{self.name}': ldm and dit name their autoencoder, others have none.")
        if (self.family == "if") != (self.text is not None):
            raise ValueError(f"recipe '{self.name}': the family if has a text encoder, others have none.")
        return self

    @property
    def num_classes(self) -> int | None:
        """How many photographs a network knows by number; None if it knows none, or by their names."""
        field = {"dit": "num_embeds_ada_norm", "classifier": "num_classes"}.get(self.family)
        return int(self.network[field]) if field else None

    def noise_schedule(self) -> NoiseSchedule:
        """The schedule of the training process."""
        schedule = self.schedule
        assert schedule is not None, "every denoiser's recipe has one"
        return NoiseSchedule.named(schedule.kind, **schedule.betas(), timestep_scale=self.timestep_scale)


@cache
def recipes() -> dict[str, Recipe]:
    """All recipes by name: the autoencoder first, then what needs it or not in the order of the file."""
    text = files("taba_core.training").joinpath("recipes.yaml").read_text(encoding="utf-8")
    return {name: Recipe(name=name, **fields) for name, fields in yaml.safe_load(text).items()}


def recipe_named(name: str) -> Recipe:
    """A recipe by name. Raises UsageError for an unknown one."""
    if name not in recipes():
        raise unknown_name("trainable network", name, recipes())
    return recipes()[name]
