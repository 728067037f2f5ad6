"""The real images of a run: what of a folder fits the model and its condition."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from taba_core.artifacts.images import ImageList
from taba_core.errors import UsageError
from taba_core.images.collection import ImageCollection, open_images
from taba_core.images.metadata import METADATA
from taba_core.model_spec import ModelSpec
from taba_core.models.cards import Card
from taba_core.models.class_counts import num_classes

LEAST_SAMPLES = 4  # floors need as many


def open_given(folder: str) -> ImageCollection:
    """The images of the folder that the setting `images` names.

    Raises:
      UsageError: as `open_images`, and fewer images than a table needs.
    """
    images = open_images(Path(folder).expanduser().resolve())
    count = len(images.files)
    if count < LEAST_SAMPLES:
        held = "1 image" if count == 1 else f"{count} images"
        raise UsageError(
            f"images={folder}: the folder holds {held}, and a table needs at least {LEAST_SAMPLES}. Add images, or "
            "give another folder."
        )
    return images


def images_line(images: ImageCollection | None) -> str:
    """Which real images were given, for the attributes of a result; "" where images are generated."""
    if images is None:
        return ""
    return f"{len(images.files)} images of {images.folder.name}, fingerprint {images.fingerprint()}"


def images_notes(images: ImageCollection | None, num_samples: int | None) -> tuple[str, ...]:
    """What a user who asked for so many samples should know of the real images before anything is computed."""
    if images is None:
        return ()
    short = ""
    if num_samples is not None and num_samples > len(images.files):
        short = f"num_samples={num_samples}: {images.folder} holds {len(images.files)} images, and n is their number."
    return tuple(filter(None, (images.skipped, short)))


def image_list(
    images: ImageCollection,
    card: Card,
    spec: ModelSpec,
    conditioning: Literal["none", "class", "prompt"],
    batch_size: int,
    condition: str | int | None = None,
) -> ImageList:
    """The artifact of these images for that model.

    Args:
      condition: a caption or class that all of them were given (`ImageCollection.under`); None = their folder's own.
    Raises:
      UsageError: a model that does not work on pictures, images that lack the condition its network reads, a class
        that it does not know, or a file that is no image.
    """
    channels = card.sample_shape[0]
    if card.domain == "pixel" and channels not in (1, 3):
        raise UsageError(
            f"images={images.folder}: {card.title} works on {channels} channels, and pictures have 3 or 1. Use "
            "another model."
        )
    _check_condition(images, card, conditioning)
    if conditioning == "class":
        _check_classes(images, card, num_classes(card, spec))
    return ImageList(
        model=spec,
        batch_size=batch_size,
        fingerprint=images.fingerprint(),
        num_images=len(images.files),
        conditioning=conditioning,
        location=str(images.location),
        stamp=images.stamp,
        condition=condition,
    )


def _check_condition(images: ImageCollection, card: Card, conditioning: str) -> None:
    needs = {"class": ("class", images.classes), "prompt": ("text", images.captions)}
    if conditioning in needs and not needs[conditioning][1]:
        name = needs[conditioning][0]
        raise UsageError(
            f"images={images.folder}: {card.title} reads a condition (conditioning={conditioning}), and the images "
            f"have none. Give each of them a '{name}' in {METADATA} of that folder."
        )


def _check_classes(images: ImageCollection, card: Card, count: int) -> None:
    for file, number in zip(images.files, images.classes, strict=True):
        if number >= count:
            raise UsageError(
                f"{images.folder / METADATA}: '{file.name}' has class {number}, and {card.title} has the classes 0 to "
                f"{count - 1}. Give it one of these."
            )
