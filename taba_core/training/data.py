"""What networks are trained on: sources of images by name, each with images to train on and images that are held out.

A source is a module of `taba_core.training.sources` and is found by being there. Its parts make images on a device,
each as a function of numbers that are given, so that row b of step k depends on (seed, k, b) and on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from taba_core.cache import cache_folder
from taba_core.errors import UsageError, unknown_name
from taba_core.found import import_modules
from taba_core.training.crops import Crops
from taba_core.training.draws import StepDraws

if TYPE_CHECKING:
    from taba_core.training.recipe import Recipe

PHOTOGRAPHS = "photographs"
_ROOM = "taba_core.training.sources"


class Part(Protocol):
    """The images of a source that are trained on, or those that never are."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the photographs or classes."""
        ...

    def drawn(self, draws: StepDraws, step: int, size: int) -> Crops:
        """The images of a step, those of this worker's rows."""
        ...

    def counted(
        self, ids: Sequence[int] | NDArray[np.integer], size: int, *, seed: int, stream: str
    ) -> Crops:
        """Images by counter: row i depends on (source, seed, stream, ids[i]) only, on every device."""
        ...


class Source(Protocol):
    """Images to train on."""

    @property
    def name(self) -> str:
        """Of the kind of source."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Of the photographs or classes; `Crops.photo` is an index into them."""
        ...

    @property
    def image_size(self) -> int | None:
        """Pixels of a side; None where images of any size are made."""
        ...

    @property
    def fingerprint(self) -> str:
        """24 hex digits of what the images show and of which are held out; where they lie does not matter."""
        ...

    def part(self, region: Literal["training", "held-out"], *, device: str | torch.device = "cpu") -> Part:
        """The images that are trained on, or those that are not, made on a device."""
        ...

    def facts(self) -> dict[str, Any]:
        """What a network's file says of the images."""
        ...


Open = Callable[[str | None], Source]
_SOURCES: dict[str, Open] = {}


def data_source(name: str) -> Callable[[Open], Open]:
    """Decorator: register the function that opens a source; it takes a path, or None for the default place."""

    def register(opening: Open) -> Open:
        _SOURCES[name] = opening
        return opening

    return register


def list_sources() -> list[str]:
    """Names of all sources, sorted."""
    import_modules(_ROOM)
    return sorted(_SOURCES)


def open_source(name: str, path: str | None = None) -> Source:
    """A source by name.

    Args:
      path: of a file or folder; None for the default place: the embedded photographs, else `dataset_folder(name)`.
    Raises:
      UsageError: an unknown name, or data that are not there or not what they should be.
    """
    if name not in list_sources():
        raise unknown_name("data source", name, _SOURCES)
    return _SOURCES[name](path)


def dataset_folder(name: str) -> Path:
    """Where a data set is looked for by default: $TABA_CACHE/datasets/NAME (see `cache_folder`)."""
    return cache_folder() / "datasets" / name


def source_for(
    recipe: Recipe, data: str | None = None, path: str | None = None, photos: str = "builtin"
) -> Source:
    """What a recipe is trained on, as a user may choose it.

    Args:
      data: name of a source; None for the recipe's own.
      path: where it lies; None for the default place.
      photos: "builtin" or a folder of photographs.
    Raises:
      UsageError: as `open_source`; options that contradict one another; images that the network cannot take.
    """
    name = data or recipe.data
    if photos != "builtin":
        if name != PHOTOGRAPHS or path is not None:
            other = f"data={name}" if name != PHOTOGRAPHS else f"data_path={path}"
            raise UsageError(
                f"photos={photos} and {other} name two sources of images. Leave out --photos, or give it alone with "
                f"--data {PHOTOGRAPHS}."
            )
        path = photos
    source = open_source(name, path)
    _check_fit(source, recipe)
    return source


def _check_fit(source: Source, recipe: Recipe) -> None:
    if source.image_size not in (None, recipe.image_size):
        raise UsageError(
            f"{recipe.name} is trained on images of {recipe.image_size}x{recipe.image_size} pixels, and those of "
            f"{source.name} have {source.image_size}x{source.image_size}. Use --data {PHOTOGRAPHS}, whose crops have "
            "any size, or a network of the images' size."
        )
    classes = recipe.num_classes
    if classes is not None and len(source.names) > classes:
        raise UsageError(
            f"{recipe.name} tells {classes} classes apart, and {source.name} has {len(source.names)}. Use data of at "
            f"most {classes}, such as a folder of so many photographs (--photos FOLDER)."
        )
