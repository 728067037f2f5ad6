"""Real images to compare samples with: random crops of photographs."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from taba_core.artifacts.base import SampleSource
from taba_core.artifacts.variable import CLASS_ID, PROMPT, STATE, Variable, picture
from taba_core.model_spec import ModelSpec


class Crops(SampleSource):
    """Random square crops of photographs at the size of a model's images.

    `photos` is the hash of the photographs' pixels; `location`, the folder they are read from or "builtin", is in no
    key. Crops without a condition are pictures to compare with, and nothing is encoded. With one they are images that a
    model can invert: `class` is the number of the photograph, in the order of their names, `prompt` a caption made of
    what is seen on the crop; of a latent model the encoder's mean is stored too.
    """

    kind: ClassVar[str] = "crops"
    outside_key: ClassVar[frozenset[str]] = frozenset({"location"})
    added_later: ClassVar[dict[str, Any]] = {"conditioning": "none"}
    image_variable: ClassVar[str] = "image"
    stored: ClassVar[tuple[Variable, ...]] = (
        Variable("image", STATE, "1", "crop of a photograph"),
        CLASS_ID,
        PROMPT,
        picture("decoded", "crop of a photograph, 8-bit RGB"),
    )

    model: ModelSpec
    batch_size: int = Field(ge=1, description="crops that are made at once")
    seed: int = Field(ge=0)
    photos: str
    location: str = "builtin"
    conditioning: Literal["none", "class", "prompt"] = "none"

    @property
    def condition_variables(self) -> tuple[str, ...]:
        """None without a condition; else the class, and the caption where crops have one."""
        return {"none": (), "class": ("class_id",), "prompt": ("class_id", "prompt")}[self.conditioning]

    @property
    def draw_seed(self) -> int:
        """The seed of the crops."""
        return self.seed

    def always_stored(self, *, latent: bool) -> tuple[str, ...]:
        """The pictures, and with a condition the images and what they are conditioned on."""
        pictures = ("decoded",) if latent else ("image",)
        images = ("image",) if self.conditioning != "none" else ()
        return tuple(dict.fromkeys((*pictures, *images, *self.condition_variables)))

    def never_stored(self, *, latent: bool) -> frozenset[str]:
        """Whatever is not always stored: without a condition images of a latent model are pictures only."""
        return frozenset({*self.variables()} - {*self.always_stored(latent=latent)})
