"""Real images that a study compares with: crops of the photographs behind a model, or a folder that is given."""

from __future__ import annotations

from typing import Any

from taba_core.artifacts.base import SampleSource
from taba_core.artifacts.crops import Crops
from taba_core.artifacts.images import ImageList
from taba_core.errors import UsageError
from taba_core.images.metadata import METADATA
from taba_core.metrics.extractor import Extractor, extractor_named
from taba_core.models.base import training_images, training_photos
from taba_core.models.class_counts import class_names
from taba_core.models.photos import content_of, load_photos
from workflows.configuration.context import Context
from workflows.configuration.given_images import image_list, open_given

_CROP_SEEDS = {"real": 1, "other": 2}  # of the real images, and of as many others that they are compared with


def real_sets(context: Context, folder: str | None) -> dict[str, SampleSource]:
    """The images of a folder; without one crops ("real") and as many others ("other"); {} where there are neither.

    Raises:
      UsageError: a folder that is not there, or without images.
    """
    place = training_photos(context.model_spec)
    if folder is not None:
        given = image_list(open_given(folder), context.card, context.model_spec, "none", context.batch_size)
        return {"real": given}
    if place is None:
        return {}
    content = content_of(load_photos(place)).fingerprint
    return {
        of: Crops(
            model=context.model_spec, batch_size=context.batch_size, seed=seed, photos=content, location=place
        )
        for of, seed in _CROP_SEEDS.items()
    }


def photographs(context: Context, num_inference_steps: int) -> ImageList | Crops:
    """Real images that a model can invert and edit: those of setting `images`, else crops of its photographs.

    Crops have the class or the caption that the model was trained on them with.

    Raises:
      UsageError: a folder without conditions, or no folder for a model that was not made from photographs.
    """
    if context.given_images is not None:
        given = context.images(num_inference_steps)
        assert isinstance(given, ImageList), "real images are given"
        return given
    context.grid(num_inference_steps)
    place = training_photos(context.model_spec)
    photos = load_photos(place) if place is not None else ()
    names = tuple(photo.name for photo in photos)
    by_class = context.conditioning == "class"
    if not photos or (by_class and names != class_names(context.card, context.model_spec)):
        kind = "class" if by_class else "text"
        raise UsageError(
            f"this study starts from photographs, and {context.card.title} comes with none; give a folder of them "
            f"(--set images=FOLDER) whose {METADATA} has a '{kind}' for each, or use a model that was made from "
            "photographs, such as photo-mixture, photo-dit or photo-if."
        )
    return Crops(
        model=context.model_spec,
        batch_size=context.batch_size,
        seed=context.settings.seed,
        photos=content_of(photos).fingerprint,
        location=place or "",
        conditioning=context.conditioning,
    )


def real_text(context: Context, folder: str | None) -> str:
    """What the real images are, in words."""
    if folder is not None:
        given = open_given(folder)
        return f"{len(given.files)} images of {given.folder.name}, fingerprint {given.fingerprint()}"
    builtin = training_photos(context.model_spec) == "builtin"
    return "random crops of the ten embedded photographs" if builtin else "random crops of photographs"


def some_real(context: Context, folder: str | None, count: int) -> Any:
    """A few crops to look at, (count, C, H, W) in [-1, 1]; None of a folder, or where there are no photographs."""
    return None if folder is not None else training_images(context.model_spec, count)


def check_extractors(option: str, names: tuple[str, ...]) -> None:
    """Refuse (UsageError) an extractor whose packages or weights are missing; `option` is what names it."""
    for name in names:
        if reason := extractor_named(name).why_not():
            raise UsageError(f"{option}={name}: {reason} Or leave it out.")


def suited_extractor(context: Context, option: str, name: str) -> Extractor:
    """An extractor by name. Raises UsageError: none of that name, or one that does not suit the model's images."""
    extractor = extractor_named(name)
    if unsuited := extractor.unsuited(context.decoded_shape or context.card.sample_shape):
        raise UsageError(f"{option}={name}: {unsuited} Leave it out.")
    return extractor
