"""Images of a latent model as one sees them, of artifacts that store latents only."""

from __future__ import annotations

from typing import ClassVar

from taba_core.artifacts.measured import Measured
from taba_core.artifacts.variable import Variable, picture


class Decoded(Measured):
    """The images of another artifact through the decoder, as 8-bit RGB; of latent models only."""

    kind: ClassVar[str] = "decoded"
    stored: ClassVar[tuple[Variable, ...]] = (
        picture("decoded", "image decoded from the latent space, 8-bit RGB"),
    )
