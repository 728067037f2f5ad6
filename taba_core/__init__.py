"""taba_core: diffusion inversion on plain tensors, its statistics, and the store both meet in.

Importing this package imports nothing heavy; the names below are loaded when first used. An inversion in four lines:

    model = taba_core.load_model("photo-mixture")
    grid = taba_core.timestep_grid(taba_core.load_card("photo-mixture"), 50)
    photos = torch.from_numpy(taba_core.square_photos(size=32))
    latents = taba_core.invert(model, photos, grid)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from taba_core.version import __version__

if TYPE_CHECKING:
    from taba_core.diffusion.inversion import invert
    from taba_core.diffusion.sampling import generate
    from taba_core.models.base import load_model
    from taba_core.models.catalog import load_card
    from taba_core.models.grids import timestep_grid
    from taba_core.models.photos import square_photos
    from taba_core.store.query import find, open_store

__all__ = [
    "__version__",
    "find",
    "generate",
    "invert",
    "load_card",
    "load_model",
    "open_store",
    "square_photos",
    "timestep_grid",
]

_HOME = {
    "find": "taba_core.store.query",
    "generate": "taba_core.diffusion.sampling",
    "invert": "taba_core.diffusion.inversion",
    "load_card": "taba_core.models.catalog",
    "load_model": "taba_core.models.base",
    "open_store": "taba_core.store.query",
    "square_photos": "taba_core.models.photos",
    "timestep_grid": "taba_core.models.grids",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'taba_core' has no attribute '{name}'; it has: {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
