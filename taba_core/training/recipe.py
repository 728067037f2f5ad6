"""Recipes: what a network is and how it is trained, as validated data (recipes.yaml)."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from taba_core.diffusion.schedule import NoiseSchedule
from taba_core.errors import UsageError, unknown_name
from taba_core.models.cards import ScheduleCard

Family = Literal["autoencoder", "adm", "ldm", "dit", "if", "classifier"]
_NO_DENOISER = ("autoencoder", "classifier")


class StepRange(BaseModel):
    """The steps first, first + every, ... last."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: int = Field(ge=0)
    last: int = Field(ge=0)
    every: int = Field(ge=1)

    @model_validator(mode="after")
    def _ends_at_its_last(self) -> StepRange:
        if self.last < self.first or (self.last - self.first) % self.every:
            raise ValueError(f"steps {self.first} to {self.last} are no whole number of times {self.every}.")
        return self

    def steps(self) -> range:
        """The steps, the last one included."""
        return range(self.first, self.last + 1, self.every)


class Recipe(BaseModel):
    """One network and its training. Fields that a file of an older version lacks have that version's values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    family: Family
    box: bool = Field(
        default=False, description="whether the network comes with taba; `taba train box` trains those"
    )
    data: str = Field(default="photographs", description="source of the images (taba_core.training.sources)")
    image_size: int = Field(ge=8, description="pixels of a side of the images")
    network: dict[str, Any] = Field(description="architecture")
    text: dict[str, Any] | None = Field(default=None, description="if: configuration of the T5 encoder")
    autoencoder: str | None = Field(default=None, description="ldm, dit: the recipe of their autoencoder")
    schedule: ScheduleCard | None = Field(default=None, description="denoisers")
    timestep_scale: float = Field(default=1.0, gt=0)
    objective: Literal["epsilon", "v", "velocity", "hybrid"] = "v"
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
    warmup_steps: int = Field(default=200, ge=0, description="in which the learning rate rises")
    rate_fall: Literal["cosine", "constant"] = Field(
        default="cosine", description="the learning rate after its warm-up; cosine ends at a hundredth"
    )
    clip: float = Field(default=1.0, ge=0, description="largest norm of the gradient; 0: as it is")
    ema: float = Field(default=0.999, ge=0, lt=1, description="decay of the moving average of the weights")
    ema_warmup: bool = Field(default=True, description="at step k the decay is at most (1 + k) / (10 + k)")
    precision: Literal["bf16", "fp32"] = Field(default="bf16", description="products on a GPU; fp32 on a CPU")
    steps: int | None = Field(
        default=None, ge=1, description="the whole training, where it has a length of its own"
    )
    checkpoints: tuple[int | StepRange, ...] = Field(
        default=(), description="steps after which the network is kept; the last step always is"
    )
    minutes_share: float = Field(default=1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _parts_agree(self) -> Recipe:
        if (self.family in _NO_DENOISER) != (self.schedule is None):
            raise ValueError(f"recipe '{self.name}': all but autoencoders and classifiers have a schedule.")
        if (self.family in ("ldm", "dit")) != (self.autoencoder is not None):
            raise ValueError(f"recipe '{self.name}': ldm and dit name their autoencoder, others have none.")
        if (self.family == "if") != (self.text is not None):
            raise ValueError(f"recipe '{self.name}': the family if has a text encoder, others have none.")
        if (self.objective == "velocity") != (self.schedule is not None and self.schedule.kind == "flow"):
            raise ValueError(f"recipe '{self.name}': the objective velocity and a flow schedule go together.")
        if self.steps is not None and any(step > self.steps for step in _listed(self.checkpoints)):
            raise ValueError(f"recipe '{self.name}': a checkpoint lies after its {self.steps} steps.")
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


def checkpoint_grid(recipe: Recipe, steps: int | None = None) -> tuple[int, ...]:
    """The steps after which a training keeps its network, rising and each once; the last step is always among them.

    Step 0 is the untrained network. A run that is shorter than the recipe keeps those that it reaches.

    Args:
      steps: length of the run; None for the recipe's own.
    Raises:
      UsageError: no length.
    """
    length = steps if steps is not None else recipe.steps
    if length is None:
        raise UsageError(f"{recipe.name} has no length of its own. Give a number of steps.")
    return tuple(sorted({step for step in _listed(recipe.checkpoints) if step <= length} | {length}))


def _listed(checkpoints: tuple[int | StepRange, ...]) -> list[int]:
    return [step for entry in checkpoints for step in ([entry] if isinstance(entry, int) else entry.steps())]


@cache
def recipes() -> dict[str, Recipe]:
    """All recipes by name: the autoencoder first, then what needs it or not in the order of the file."""
    text = files("taba_core.training").joinpath("recipes.yaml").read_text(encoding="utf-8")
    return {name: Recipe(name=name, **fields) for name, fields in yaml.safe_load(text).items()}


def box_recipes() -> dict[str, Recipe]:
    """The recipes of the networks that come with taba, by name."""
    return {name: recipe for name, recipe in recipes().items() if recipe.box}


def recipe_named(name: str) -> Recipe:
    """A recipe by name. Raises UsageError for an unknown one."""
    if name not in recipes():
        raise unknown_name("trainable network", name, recipes())
    return recipes()[name]
