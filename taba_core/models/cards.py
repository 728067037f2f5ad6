"""Model cards: what every model is, which conventions the paper used with it, and what it costs.

A card is data (cards.yaml), validated on first use. Planning needs cards only; reading them imports no torch.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from taba_core.conventions import Conventions
from taba_core.diffusion.spacing import FLOW_STYLES, GridStyle

# v is alpha eps - sigma x_0 (Salimans & Ho 2022), velocity eps - x_0, sample x_0.
Prediction = Literal["epsilon", "v", "sample", "velocity"]
_SCHEDULE_FIELDS = {"cosine": ("max_beta",), "flow": ("shift",)}  # of the other kinds: the ends of beta
# Fields of a card that came after the first stores, with the value that says nothing.
_CAME_LATER: dict[str, Any] = {"shift_factor": 0.0, "max_tokens": None, "distilled_guidance": None}


class _CardPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ScheduleCard(_CardPart):
    """Noise schedule of the training process; `betas()` feeds `NoiseSchedule.named(kind, ...)`."""

    kind: Literal["linear", "scaled-linear", "cosine", "flow"]
    N: int = Field(ge=1, description="training steps")
    beta_start: float | None = Field(default=None, gt=0, lt=1)
    beta_end: float | None = Field(default=None, gt=0, lt=1)
    max_beta: float | None = Field(default=None, gt=0, le=1)
    shift: float | None = Field(
        default=None, gt=0, description="flow: of the levels towards the noise; 1 is none"
    )
    zero_terminal_snr: bool = Field(
        default=False, description="rescaled so that alpha of the last level is 0 (rescale_betas_zero_snr)"
    )

    @model_validator(mode="after")
    def _betas_fit_the_kind(self) -> ScheduleCard:
        needed = _SCHEDULE_FIELDS.get(self.kind, ("beta_start", "beta_end"))
        others = [n for n in ("beta_start", "beta_end", "max_beta", "shift") if n not in needed]
        if any(getattr(self, n) is None for n in needed) or any(getattr(self, n) is not None for n in others):
            raise ValueError(
                f"a {self.kind} schedule takes {' and '.join(needed)}, not {' or '.join(others)}."
            )
        if self.kind == "flow" and self.zero_terminal_snr:
            raise ValueError("a flow schedule ends in pure noise already; leave zero_terminal_snr out.")
        return self

    def betas(self) -> dict[str, Any]:
        """Keyword arguments of the schedule's constructor (N and the betas that apply)."""
        return self.model_dump(exclude={"kind", "zero_terminal_snr"}, exclude_none=True)

    @property
    def ends_in_noise(self) -> bool:
        """Whether the last level has alpha = 0."""
        return self.zero_terminal_snr or self.max_beta == 1 or self.kind == "flow"

    @model_serializer(mode="wrap")
    def _without_what_is_off(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Keys of stores are hashes of cards, so a field that came later is written only where it says something.
        fields: dict[str, Any] = serialize(self)
        if not self.zero_terminal_snr:
            fields.pop("zero_terminal_snr", None)
        if self.shift is None:
            fields.pop("shift", None)
        return fields


class GridCard(_CardPart):
    """How sampling steps are laid over the training steps."""

    style: GridStyle
    steps_offset: int = Field(ge=0)
    final_alpha_bar: Literal["one", "first"]


class CostCard(_CardPart):
    """Measured time of one network evaluation of one batch."""

    step_seconds: float = Field(gt=0, description="seconds per evaluation of one batch")
    batch_size: int = Field(ge=1)
    measured_on: str
    level_seconds: float = Field(
        default=0.0,
        ge=0,
        description="seconds in which a worker prepares a level before its first evaluation there",
    )
    levels_kept: int = Field(default=0, ge=0, description="prepared levels that a worker keeps")

    @property
    def image_seconds(self) -> float:
        """Seconds per image and network evaluation."""
        return self.step_seconds / self.batch_size

    def preparing_seconds(self, num_steps: int) -> float:
        """Seconds in which a worker prepares the levels of a walk of so many steps; 0 where it has kept them all."""
        return self.level_seconds * num_steps if num_steps > self.levels_kept else 0.0


class WeightsCard(_CardPart):
    """Where the weights come from.

    embedded: there are none, the denoiser is a closed form; package: files that are installed with taba; url, hub:
    to fetch from a plain URL or a hub repository, or a file from the one and its autoencoder from the other; path: a
    file or directory of the user's; trained: made by a training of the user's own, one network of every checkpoint,
    and given by their place.
    """

    source: Literal["embedded", "package", "url", "hub", "path", "trained"]
    location: str = Field(default="", description="package: below taba_core/models/box; trained: empty")
    revision: str = Field(default="main", description="hub: branch, tag or commit")
    files: tuple[str, ...] = Field(default=(), description="hub: patterns of the files needed; () is all")
    autoencoder: str = Field(
        default="", description="url: repository of the hub with the autoencoder beside the file"
    )
    bytes: int = Field(default=0, ge=0, description="about what is downloaded")
    sha256: str = Field(default="", description="url: known hash of the file")
    gated: bool = Field(default=False, description="a licence must be accepted first")
    licence: str = Field(default="", description="name of the licence, where a listing should say it")
    licence_page: str = ""

    @property
    def fetched(self) -> bool:
        """Whether `taba fetch` brings them."""
        return self.source in ("url", "hub")


class DefaultsCard(_CardPart):
    """Sizes of a run when nothing else is asked for; the paper's own where it states them."""

    num_samples: int = Field(ge=2)
    batch_size: int = Field(ge=1)
    num_inference_steps: int = Field(ge=1)
    prompts: str = Field(default="recap-coco", description="text models: prompt list by name")


class Card(_CardPart):
    """One model of the zoo (rows of Table 1, conventions, cost)."""

    name: str
    title: str
    family: str
    embedded: bool = Field(
        default=False, description="a closed form: no weights, the same bits everywhere, computed on CPUs"
    )
    domain: Literal["pixel", "latent"]
    image_size: int = Field(ge=1, description="pixels of a side of the image")
    sample_shape: tuple[int, int, int] = Field(description="(C, H, W) of the diffusion state")
    value_range: tuple[float, float] = (-1.0, 1.0)
    train_set: str
    conditional: Literal["none", "class", "text"]
    backbone: str
    network: dict[str, Any] = Field(
        default_factory=dict,
        description="architecture, where the weights do not say it (adm: OpenAI's flags)",
    )
    schedule: ScheduleCard
    timestep_scale: float = Field(default=1.0, gt=0, description="network time = training timestep * scale")
    grid: GridCard
    reference: Conventions
    prediction: Prediction = Field(default="epsilon", description="what the network's output means")
    scaling_factor: float = Field(
        default=1.0, gt=0, description="latent = scaling_factor * encoder output; 1 for pixel models"
    )
    shift_factor: float = Field(
        default=0.0, description="latent = scaling_factor * (encoder output - shift_factor)"
    )
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="sd3, flux: tokens that T5 makes of a prompt; the network attends to all",
    )
    distilled_guidance: float | None = Field(
        default=None, ge=0, description="flux: w that a network distilled under guidance is given, both ways"
    )
    num_parameters: int = Field(ge=1, description="of the denoiser alone")
    precision: Literal["fp32", "fp16", "bf16", "fp16-torso"] = Field(
        description="precision of the reference runs"
    )
    cost: CostCard
    weights: WeightsCard
    defaults: DefaultsCard

    @model_serializer(mode="wrap")
    def _without_what_says_nothing(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Fingerprints of networks are hashes of cards.
        fields: dict[str, Any] = serialize(self)
        for name, silent in _CAME_LATER.items():
            if name in fields and fields[name] == silent:
                del fields[name]
        return fields

    @property
    def runs_anywhere(self) -> bool:
        """Whether it runs on any machine, in minutes on a CPU, with nothing to fetch: a closed form or a small network
        whose weights come with taba or are trained there."""
        return self.embedded or self.weights.source in ("package", "trained")

    @model_validator(mode="after")
    def _parts_agree(self) -> Card:
        if self.embedded != (self.weights.source == "embedded"):
            raise ValueError(f"card '{self.name}': embedded and weights.source must agree.")
        if self.prediction == "epsilon" and self.schedule.ends_in_noise:
            raise ValueError(
                f"card '{self.name}': its noise schedule ends at alpha=0 (zero_terminal_snr, or max_beta=1), where a "
                "network that predicts epsilon says nothing of the image; state prediction: v or sample if it "
                "predicts that, or end the schedule above 0."
            )
        if (self.prediction == "velocity") != (self.schedule.kind == "flow"):
            raise ValueError(
                f"card '{self.name}': networks that predict the velocity eps - x_0 have a schedule of kind flow, and "
                "only they."
            )
        if self.grid.style in FLOW_STYLES and self.schedule.kind != "flow":
            raise ValueError(
                f"card '{self.name}': grid style '{self.grid.style}' has levels of a flow, and the schedule is of kind "
                f"{self.schedule.kind}; use diffusers-leading, diffusers-trailing or guided."
            )
        if self.domain == "pixel" and self.sample_shape[1:] != (self.image_size, self.image_size):
            raise ValueError(f"card '{self.name}': a pixel model's sample_shape is its image size.")
        return self


@cache
def raw_cards() -> dict[str, dict[str, Any]]:
    """The built-in cards as written, by name; what a user's card extends."""
    text = files("taba_core.models").joinpath("cards.yaml").read_text(encoding="utf-8")
    raw: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return raw
