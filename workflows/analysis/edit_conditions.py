"""What images were made with and what their edits are asked for: as arrays, as photographs, as names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from taba_core.artifacts.edit import Edit
from taba_core.models.class_counts import class_names
from taba_core.models.photos import load_photos
from workflows.analysis.measured import classifier_knows
from workflows.compute.conditioning import prompts_from_bytes
from workflows.configuration.context import Context

if TYPE_CHECKING:
    from workflows.analysis.inputs import Inputs

_NO_PHOTOGRAPH = -1
_NAME_LENGTH = 22


@dataclass(frozen=True)
class Conditions:
    """The conditions of n images and of their edits, which are the same for every start.

    Attributes:
      differ: whether the target is another condition than the source's, bool (n,).
      source, target: classes, or the photographs that prompts name, int64 (n,); 0 where there is none.
      recognisable: whether both are known and differ, bool (n,).
      source_names, target_names: short texts for pictures.
      source_texts, target_texts: prompts, or names of classes, as a network that reads texts is asked.
    """

    differ: NDArray[np.bool_]
    source: NDArray[np.int64]
    target: NDArray[np.int64]
    recognisable: NDArray[np.bool_]
    source_names: list[str]
    target_names: list[str]
    source_texts: list[str]
    target_texts: list[str]


def conditions_of(inputs: Inputs, context: Context, images: str, edits: str) -> Conditions:
    """The conditions of a study's images and edits, by the names of their requests."""
    edit = inputs.artifact(edits)
    assert isinstance(edit, Edit)
    n, variable = inputs.num_samples, edit.target_variable
    own = inputs.head(images, variable.removeprefix("target_"), n)
    asked = inputs.head(edits, variable, n)
    differ = (own != asked).reshape(n, -1).any(axis=1)
    names = [photo.name for photo in load_photos()] if classifier_knows(context) else []
    of = [_photographs(array, names) for array in (own, asked)]
    known = (of[0] != _NO_PHOTOGRAPH) & (of[1] != _NO_PHOTOGRAPH)
    return Conditions(
        differ=differ,
        source=np.maximum(of[0], 0),
        target=np.maximum(of[1], 0),
        recognisable=known & (of[0] != of[1]),
        source_names=_texts(own, of[0], names),
        target_names=_texts(asked, of[1], names),
        source_texts=_whole_texts(own, context),
        target_texts=_whole_texts(asked, context),
    )


def _photographs(condition: NDArray[Any], names: list[str]) -> NDArray[np.int64]:
    """Classes as they are; of prompts the one photograph whose name is a word of it, -1 where it is not one."""
    if condition.ndim == 1:
        return condition.astype(np.int64)
    found = []
    for text in prompts_from_bytes(condition):
        words = {word.strip(",.") for word in text.lower().split()}
        named = [index for index, name in enumerate(names) if name in words]
        found.append(named[0] if len(named) == 1 else _NO_PHOTOGRAPH)
    return np.array(found, dtype=np.int64)


def _whole_texts(condition: NDArray[Any], context: Context) -> list[str]:
    """Prompts as they are, and classes by their names, without any words around them."""
    if condition.ndim > 1:
        return prompts_from_bytes(condition)
    names = class_names(context.card, context.model_spec)
    return [names[value] for value in condition]


def _texts(condition: NDArray[Any], photographs: NDArray[np.int64], names: list[str]) -> list[str]:
    """The name of the photograph, else the number of the class, else the beginning of the prompt."""
    if condition.ndim == 1 and not names:
        return [f"class {value}" for value in condition]
    prompts = [""] * len(condition) if condition.ndim == 1 else prompts_from_bytes(condition)
    return [
        names[photo] if names and photo >= 0 else prompt[:_NAME_LENGTH]
        for photo, prompt in zip(photographs, prompts, strict=True)
    ]
