"""Which classes a class-conditional model knows, without loading it: what a plan checks given classes against."""

from __future__ import annotations

from pathlib import Path

from taba_core.errors import UsageError
from taba_core.model_spec import ModelSpec
from taba_core.models.adm_flags import adm_flags
from taba_core.models.cards import Card
from taba_core.models.imagenet import class_names as imagenet_names
from taba_core.models.json_file import read_json
from taba_core.models.photos import load_photos
from taba_core.models.pipeline_dir import class_names_of
from taba_core.models.sit_files import sit_classes, sit_size


def num_classes(card: Card, spec: ModelSpec) -> int:
    """How many classes the model may be asked for. Raises UsageError: as `class_names`."""
    return len(class_names(card, spec))


def class_names(card: Card, spec: ModelSpec) -> tuple[str, ...]:
    """Names of the classes 0, 1, ... that the model may be asked for; their numbers where they have no names.

    Args:
      card: of a class-conditional model.
      spec: says where its weights or photographs lie; without weights they are those of the published network.
    Raises:
      UsageError: a folder or file that cannot be read, or a model without classes.
    """
    if card.family == "adm":
        return tuple(str(index) for index in range(adm_flags(card.name, card.network).num_classes))
    if card.family == "sit":
        return sit_classes(sit_size(card))
    if card.embedded:
        return tuple(photo.name for photo in load_photos(spec.location or "builtin"))
    directory, imagenet = Path(spec.location), imagenet_names()
    for folder, field in (("transformer", "num_embeds_ada_norm"), ("unet", "num_class_embeds")):
        config = directory / folder / "config.json"
        if spec.location and config.is_file() and (capacity := read_json(config).get(field)) is not None:
            return class_names_of(directory, int(capacity), fallback=imagenet if card.family == "dit" else ())
    if card.family == "dit" and not spec.location:
        return imagenet  # the published network, whose weights are not here
    raise UsageError(f"{card.title}: its network does not state how many classes it has.")
