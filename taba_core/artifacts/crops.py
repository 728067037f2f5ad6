"""Real images to compare samples with: random crops of photographs."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from taba_core.artifacts.base import SampleSource
from taba_core.artifacts.variable import STATE, Variable, picture
from taba_core.model_spec import ModelSpec


class Crops(SampleSource):
    """Random square crops of photographs at the size of a model's images; nothing is encoded.

    `photos` is the hash of the photographs' pixels; `location`, the folder they are read from or "builtin", is in no
    key.
    """

    kind: ClassVar[str] = "crops"
    outside_key: ClassVar[frozenset[str]] = frozenset({"location"})
    image_variable: ClassVar[str] = "image"
    stored: ClassVar[tuple[Variable, ...]] = (
        Variable("image", STATE, "1", "crop of a photograph"),
        picture("decoded", "crop of a photograph, 8-bit RGB"),
    )

    model: ModelSpec
    batch_size: int = Field(ge=1, description="crops that are made at once")
    seed: int = Field(ge=0)
    photos: str
    location: str = "builtin"

    @property
    def condition_variables(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def draw_seed(self) -> int:
        """The seed of the crops."""
        return self.seed

    def always_stored(self, *, latent: bool) -> tuple[str, ...]:
        """The pictures."""
        return ("decoded",) if latent else ("image",)

    def never_stored(self, *, latent: bool) -> frozenset[str]:
        """Images of a latent model are pictures only."""
        return frozenset({"image"} if latent else {"decoded"})
