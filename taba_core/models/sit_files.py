"""What a SiT network is and where its files lie, without torch: its size on a card, and the folder of its weights."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from taba_core.errors import UsageError, unknown_name
from taba_core.models.cards import Card
from taba_core.models.imagenet import class_names

_SUFFIXES = (".pt", ".pth", ".safetensors")


class SiTSize(BaseModel):
    """The architecture, as a card states it in `network`; the sides of the state are the card's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    side: int = Field(ge=1, description="positions of a side of the state")
    channels: int = Field(ge=1, description="channels of the state")
    patch_size: int = Field(default=2, ge=1, description="positions of a side of a patch")
    hidden_size: int = Field(ge=1, description="numbers of a token")
    depth: int = Field(ge=1, description="blocks")
    num_heads: int = Field(ge=1, description="attention heads")
    num_classes: int = Field(default=1000, ge=1, description="classes, without the null class of guidance")
    learn_sigma: bool = Field(
        default=True, description="twice the channels come out, of which the first half is the velocity"
    )

    @model_validator(mode="after")
    def _sizes_divide(self) -> SiTSize:
        if self.side % self.patch_size or self.hidden_size % self.num_heads:
            raise ValueError(
                f"patch_size={self.patch_size} must divide the side {self.side} of the state, and "
                f"num_heads={self.num_heads} the hidden_size={self.hidden_size}."
            )
        return self


def sit_size(card: Card) -> SiTSize:
    """The architecture of a card. Raises UsageError: an unknown or missing field, or sizes that do not divide."""
    channels, side, width = card.sample_shape
    known = [name for name in SiTSize.model_fields if name not in ("side", "channels")]
    for name in card.network:
        if name not in known:
            raise unknown_name(f"network field of {card.name}", name, known)
    if side != width:
        raise UsageError(f"the card of {card.name} has states of {side} x {width}; SiT's are square.")
    try:
        return SiTSize(side=side, channels=channels, **card.network)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        rule = first["msg"].removeprefix("Value error, ")
        raise UsageError(
            f"the card of {card.name}, network{'.' * bool(where)}{where}: {rule[0].lower() + rule[1:]}. Correct it in "
            "the card."
        ) from None


def sit_classes(size: SiTSize) -> tuple[str, ...]:
    """Names of the classes: ImageNet's where there are a thousand, else their numbers."""
    names = class_names()
    return names if len(names) == size.num_classes else tuple(map(str, range(size.num_classes)))


def sit_files(directory: Path) -> Path:
    """The file of the network in a folder of SiT weights.

    Raises:
      UsageError: none, or several.
    """
    found = sorted(path for path in directory.iterdir() if path.suffix in _SUFFIXES)
    if len(found) != 1:
        held = ", ".join(path.name for path in found) or "none"
        raise UsageError(
            f"{directory}: a folder of SiT weights holds one file of the network (.pt or .safetensors) beside the "
            f"folder vae of its autoencoder, and here {'are several' if found else 'is no such file'} ({held}). Put "
            "exactly one there."
        )
    return found[0]
