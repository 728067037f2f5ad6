"""Architecture flags of the ADM networks, by the names of OpenAI's code, as they stand in a card's `network`.

What the flags of `guided-diffusion` say about the process instead (diffusion_steps, noise_schedule,
rescale_timesteps, predict_xstart) is the card's schedule and is not repeated here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from taba_core.errors import UsageError, unknown_name

NORM_GROUPS = 32  # groups of every GroupNorm of the family


class AdmFlags(BaseModel):
    """One ADM U-Net (Nichol & Dhariwal 2021; Dhariwal & Nichol 2021, App. B).

    The flags that a weight file cannot contradict, because no tensor's shape depends on them, are image_size
    with attention_resolutions (only their ratio is visible), num_heads, num_head_channels and
    use_new_attention_order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: int = Field(ge=1, description="pixels of a side")
    num_channels: int = Field(ge=1, description="channels of the finest level")
    num_res_blocks: int = Field(ge=1, description="residual blocks of a level on the way down")
    channel_mult: tuple[int, ...] = Field(min_length=1, description="channels of a level over num_channels")
    attention_resolutions: tuple[int, ...] = Field(description="pixels of a side where levels have attention")
    num_heads: int = Field(default=4, ge=1, description="attention heads; unused with num_head_channels")
    num_heads_upsample: int = Field(default=-1, description="heads on the way up; -1: num_heads")
    num_head_channels: int = Field(default=-1, description="channels of a head; -1: num_heads decides")
    resblock_updown: bool = Field(default=False, description="residual blocks change the resolution")
    use_scale_shift_norm: bool = Field(default=True, description="time scales and shifts after the norm")
    use_new_attention_order: bool = Field(default=False, description="rows of qkv: thirds, then heads")
    learn_sigma: bool = Field(default=True, description="three more outputs, for the variance")
    class_cond: bool = Field(default=False, description="an embedding of the class is added to the time's")
    num_classes: int = Field(default=1000, ge=1, description="classes, with class_cond")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of training; a loaded network has none")

    @field_validator("channel_mult", "attention_resolutions", mode="before")
    @classmethod
    def _from_comma_separated(cls, value: Any) -> Any:
        return [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _can_be_built(self) -> AdmFlags:
        visited = [self.image_size // 2**level for level in range(len(self.channel_mult))]
        if self.image_size % 2 ** (len(self.channel_mult) - 1):
            raise ValueError(
                f"image_size={self.image_size} cannot be halved {len(self.channel_mult) - 1} times."
            )
        if self.channel_mult[0] != 1:
            raise ValueError(
                f"channel_mult starts with {self.channel_mult[0]}: networks whose finest level has other channels than "
                "num_channels, from which the time embedding takes its width, cannot be built."
            )
        for resolution in self.attention_resolutions:
            if resolution not in visited:
                raise ValueError(
                    f"no level has the attention resolution {resolution}; levels have {visited}."
                )
        for level, channels in enumerate(self.block_channels):
            if channels % NORM_GROUPS:
                raise ValueError(f"level {level} has {channels} channels, no multiple of {NORM_GROUPS}.")
            if self.has_attention(level) or level == self.num_levels - 1:  # the middle block always has it
                self._check_heads(level, channels)
        return self

    def _check_heads(self, level: int, channels: int) -> None:
        if self.num_head_channels != -1:
            if self.num_head_channels < 1 or channels % self.num_head_channels:
                raise ValueError(
                    f"level {level} has {channels} channels, no multiple of "
                    f"num_head_channels={self.num_head_channels}."
                )
            return
        for heads in (self.heads(channels, upwards=False), self.heads(channels, upwards=True)):
            if heads < 1 or channels % heads:
                raise ValueError(f"level {level} has {channels} channels, which {heads} heads cannot share.")

    @property
    def num_levels(self) -> int:
        """Number of resolutions."""
        return len(self.channel_mult)

    @property
    def block_channels(self) -> tuple[int, ...]:
        """Channels of every level, the finest first."""
        return tuple(self.num_channels * multiplier for multiplier in self.channel_mult)

    def has_attention(self, level: int) -> bool:
        """Whether the residual blocks of a level (0 is the finest) are followed by attention."""
        return self.image_size // 2**level in self.attention_resolutions

    def heads(self, channels: int, *, upwards: bool) -> int:
        """Attention heads of a block of that many channels, on the way up or elsewhere."""
        if self.num_head_channels != -1:
            return channels // self.num_head_channels
        return self.num_heads_upsample if upwards and self.num_heads_upsample != -1 else self.num_heads


def adm_flags(model: str, network: Mapping[str, Any]) -> AdmFlags:
    """The flags of a card.

    Args:
      model: the card's name, for messages.
      network: its `network` mapping; lists may be comma-separated text, as in OpenAI's own files.
    Raises:
      UsageError: unknown or missing flag, impossible value, or flags that no network can have.
    """
    for name in network:
        if name not in AdmFlags.model_fields:
            raise unknown_name(f"network flag of {model}", name, AdmFlags.model_fields)
    try:
        return AdmFlags(**network)
    except ValidationError as error:
        raise UsageError(_first_complaint(model, error)) from None


def _first_complaint(model: str, error: ValidationError) -> str:
    first = error.errors()[0]
    rule = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return f"the network flags of {model} contradict each other: {rule} Correct them in its card."
    name = str(first["loc"][0])
    if first["type"] == "missing":
        return f"the card of {model} has no network flag '{name}' ({AdmFlags.model_fields[name].description}); add it."
    rule = rule[0].lower() + rule[1:]
    return f"network flag {name}={first['input']!r} of {model}: {rule}. Correct it in its card."
