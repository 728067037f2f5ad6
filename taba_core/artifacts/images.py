"""Real images from a folder: cropped and resized to what the model works on, encoded where it is a latent model."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from taba_core.artifacts.base import SampleSource
from taba_core.artifacts.variable import CLASS_ID, PROMPT, STATE, Variable, picture
from taba_core.model_spec import ModelSpec

# How a picture becomes a square: `taba_core.images.collection.ImageCollection.squares` says it.
Framing = Literal["centre-square"]


class ImageList(SampleSource):
    """Images somebody gives. Sample i is the i-th file of the list.

    `fingerprint` is the hash of the decoded pixels, classes and captions of all files, so a file that changes gives
    another key. `location` is the folder they are read from, and `stamp` tells a worker whether a file has changed
    since the plan was made. `condition` is a caption or a class that all images have in place of those of the folder;
    the fingerprint counts it as theirs. None of these three fields is in any key.
    """

    kind: ClassVar[str] = "images"
    image_variable: ClassVar[str] = "image"
    outside_key: ClassVar[frozenset[str]] = frozenset({"location", "stamp", "condition"})
    stored: ClassVar[tuple[Variable, ...]] = (
        Variable("image", STATE, "1", "real image x_0 in the model's own space"),
        CLASS_ID,
        PROMPT,
        picture("decoded", "the image as it was given to the encoder of the latent space, 8-bit RGB"),
    )

    model: ModelSpec
    batch_size: int = Field(ge=1, description="samples the network sees at once")
    fingerprint: str
    num_images: int = Field(ge=1)
    conditioning: Literal["none", "class", "prompt"] = "none"
    framing: Framing = "centre-square"
    location: str = ""
    stamp: str = ""
    condition: str | int | None = None

    @field_validator("condition")
    @classmethod
    def _of_the_kind_that_images_have(cls, value: str | int | None, info: Any) -> str | int | None:
        kind = {str: "prompt", int: "class"}.get(type(value))
        if kind is not None and info.data.get("conditioning") != kind:
            raise ValueError(
                f"condition={value!r} of conditioning={info.data.get('conditioning')}: it is a {kind}."
            )
        return value

    @property
    def condition_variables(self) -> tuple[str, ...]:
        """The class, and the caption where images have one."""
        return ("class_id", "prompt") if self.conditioning == "prompt" else ("class_id",)

    @property
    def draw_seed(self) -> int:
        """0: nothing is drawn for a real image but what an encoder may draw."""
        return 0

    @property
    def limit(self) -> int | None:
        """As many as there are files."""
        return self.num_images

    def always_stored(self, *, latent: bool) -> tuple[str, ...]:
        """Images and conditions."""
        return ("image", *self.condition_variables, *(("decoded",) if latent else ()))
