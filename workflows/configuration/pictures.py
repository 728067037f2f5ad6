"""Pictures that a user edits: one image or a folder, with what each shows, and what the edits are to show."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from taba_core.artifacts.images import ImageList
from taba_core.artifacts.variable import PROMPT_BYTES
from taba_core.errors import UsageError
from taba_core.images.collection import ImageCollection, open_images_at
from taba_core.images.decode import decode_image
from taba_core.images.metadata import METADATA
from taba_core.models.base import card_with_options, model_spec, planned_spec
from taba_core.models.class_counts import class_names
from taba_core.models.prompt_files import refuse_characters
from taba_core.models.prompt_lengths import check_prompt_length, unknown_words
from workflows.configuration.context import Context
from workflows.configuration.edits import check_condition
from workflows.configuration.given_images import image_list

TEXT_MODEL, CLASS_MODEL = "photo-if", "photo-dit"
# Most times that a picture is enlarged: what is interpolated is plain, and plain areas invert badly.
_ENLARGED = 2
_NAMED = 12  # names of classes in a message

Condition = str | int
# From what names a condition in messages and the text that the user gave, to the condition that the model reads.
_Reader = Callable[[str, str], Condition]


@dataclass(frozen=True)
class PictureContext(Context):
    """A model under settings, the pictures that it inverts, and what their edits are asked for.

    Attributes:
      pictures: the images, under the conditions that the model reads.
      condition: the caption or class that all of them were given; None where their folder says it of each.
      target: the prompt, or the number of the class, that the edits are asked for.
    """

    pictures: ImageCollection | None = None
    condition: Condition | None = None
    target: Condition = ""

    @cached_property
    def given_images(self) -> ImageCollection | None:
        """The pictures; one is enough, because no table averages over them."""
        return self.pictures

    @property
    def title(self) -> str:
        """The model, and the image or folder."""
        return self.card.title + (f" on {self.pictures.location.name}" if self.pictures is not None else "")

    def images(self, num_inference_steps: int) -> ImageList:
        """The artifact of the pictures. Raises UsageError: pictures that the model cannot work on, or a T."""
        assert self.pictures is not None, "made with pictures"
        self.grid(num_inference_steps)
        return image_list(
            self.pictures, self.card, self.model_spec, self.conditioning, self.batch_size, self.condition
        )

    def with_targets(self, file: Path) -> PictureContext:
        """The context whose edits ask for the target, which is written to a file: a line for each picture."""
        line = json.dumps({"prompt": str(self.target)}) + "\n"
        file.write_text(line * self.num_samples, encoding="utf-8")
        return self._with(targets=str(file.resolve()))

    def with_seed(self, seed: int) -> PictureContext:
        """The context whose forward noise is of another seed."""
        return self._with(forward_seed=seed)

    def _with(self, **fields: str | int) -> PictureContext:
        return replace(self, settings=self.settings.model_copy(update=fields))

    @property
    def notes(self) -> list[str]:
        """What a user should know before anything is computed: files that are no images, words that are not known."""
        found = [self.pictures.skipped] if self.pictures is not None else []
        if self.condition == "":
            found.append(
                "the images are inverted under the empty prompt; a prompt that says what they show (--prompt) keeps "
                "more of them."
            )
        if self.conditioning == "prompt":
            asked = {"--to": str(self.target), "--prompt": str(self.condition or "")}
            for name, prompt in asked.items():
                if words := unknown_words(self.card, self.model_spec.location, prompt):
                    found.append(
                        f"{name}: {self.card.title} was trained on few words and does not know "
                        f"{', '.join(words)}; it reads a mark for an unknown word there."
                    )
        return [note for note in found if note]


def default_model(target: str) -> str:
    """The model of a user who names none: of classes where the target is one of them, else of text."""
    names = class_names(card_with_options(CLASS_MODEL, None), planned_spec(CLASS_MODEL))
    return TEXT_MODEL if _class_number(target, names) is None else CLASS_MODEL


def with_pictures(
    context: Context, place: str, prompt: str | None, target: str, *, may_stay: bool = False
) -> PictureContext:
    """The context of pictures and of what they are to become; what can be refused of them is refused here.

    Args:
      place: an image, or a folder of images.
      prompt: what all of them show, a caption, or a class by name or number; None = what their folder says of each,
        and of a text model without captions the empty prompt.
      target: a prompt, or a class by name or number.
      may_stay: the target may be what the images show: an editor changes them under their own prompt.
    Raises:
      UsageError: a model without conditions or weights, pictures that cannot be read or are too small, captions or
        classes that are missing or given twice, or a prompt or class that the model cannot read.
    """
    if context.card.conditional == "none":
        check_condition("none", context.card)
    # Its weights are needed from here on, so that missing ones are refused first.
    model_spec(context.model, context.settings.model_options, context.weights)
    pictures = open_images_at(Path(place).expanduser().resolve())
    by_class = context.card.conditional == "class"
    own = pictures.classes if by_class else pictures.captions
    read = _reader(context)
    wanted = read("--to", target)
    condition = None
    if prompt is not None or not own:
        condition = _given(context, pictures, prompt, read)
        pictures = pictures.under(condition)
    elif not by_class:
        for caption in dict.fromkeys(pictures.captions):
            read(f"{pictures.folder / METADATA}, '{caption[:40]}'", caption)
    if not may_stay and set(pictures.classes if by_class else pictures.captions) == {wanted}:
        raise UsageError(f"--to {target}: this is what the images show already; give another target.")
    _check_sizes(pictures, context.card.image_size)
    settings = context.settings.model_copy(
        update={"images": str(pictures.location), "conditioning": "class" if by_class else "prompt"}
    )
    return PictureContext(
        context.model, context.method, settings, context.weights, context.store, pictures, condition, wanted
    )


def _given(context: Context, pictures: ImageCollection, prompt: str | None, read: _Reader) -> Condition:
    """The condition of all pictures. Raises UsageError: none of a class model, or their folder says another of each."""
    kind, own = (
        ("class", pictures.classes) if context.card.conditional == "class" else ("text", pictures.captions)
    )
    if prompt is None:
        if kind == "text":
            return ""
        raise UsageError(
            f"{context.card.title} inverts an image under its class: give the class that the images show (--prompt "
            f"CLASS), or a '{kind}' for each in {METADATA} of their folder; or use a text model (--model {TEXT_MODEL})."
        )
    if own:
        raise UsageError(
            f"--prompt {prompt}: {METADATA} of {pictures.folder} has a '{kind}' for each image. Leave --prompt out, or "
            "give the path of one image, which stands alone."
        )
    return read("--prompt", prompt) if prompt else ""


def _reader(context: Context) -> _Reader:
    """How the model reads a condition."""
    card, spec = context.card, context.model_spec
    if card.conditional == "class":
        names = class_names(card, spec)
        return lambda what, text: _class_of(what, text, names, card.title)

    def read(what: str, prompt: str) -> str:
        if not prompt.strip():
            raise UsageError(f"{what}: the prompt is empty; say what the edit is to show.")
        refuse_characters(prompt, what, json_text=False)
        check_prompt_length(card, spec.location, prompt, what)
        if len(prompt.encode()) > PROMPT_BYTES:
            raise UsageError(
                f"{what}: the prompt has more than the {PROMPT_BYTES} bytes that are stored. Shorten it."
            )
        return prompt

    return read


def _class_of(what: str, text: str, names: tuple[str, ...], title: str) -> int:
    number = _class_number(text, names)
    if number is not None:
        return number
    listed = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    raise UsageError(
        f"{what} {text}: this is no class of {title}; give a number from 0 to {len(names) - 1}, or a name of {listed}."
    )


def _class_number(text: str, names: tuple[str, ...]) -> int | None:
    """The class of this name or number; None where there is none."""
    if text in names:
        return names.index(text)
    return int(text) if text.isdecimal() and int(text) < len(names) else None


def _check_sizes(pictures: ImageCollection, size: int) -> None:
    """Refuse (UsageError) a file that is no image, and an image that is too small for the model."""
    for file in pictures.files:
        height, width = decode_image(file).shape[:2]
        if min(height, width) * _ENLARGED < size:
            raise UsageError(
                f"image '{file}' has {width} x {height} pixels, and the model works on {size} x {size}: it would be "
                f"enlarged more than {_ENLARGED} times. Give a picture whose sides have at least "
                f"{-(-size // _ENLARGED)} pixels."
            )
