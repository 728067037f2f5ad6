"""What a sample is conditioned on (class, prompt), as stored arrays and as what a network reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from taba_core import rng
from taba_core.artifacts.edit import Edit
from taba_core.artifacts.generation import Generation
from taba_core.artifacts.variable import PROMPT_BYTES, UNCONDITIONAL
from taba_core.errors import UsageError, WorkError
from taba_core.model_spec import PromptSpec
from taba_core.models.imagenet import NUM_CLASSES, reference_class_ids
from taba_core.models.prompts import PromptList, load_prompts

if TYPE_CHECKING:
    import torch

Arrays = dict[str, NDArray[Any]]


def draw(artifact: Generation, ids: NDArray[np.int64], num_classes: int) -> Arrays:
    """The conditioning of samples: `class_id` int32 (B,), and `prompt` uint8 (B, 1024) if there are prompts.

    Raises:
      UsageError: classes are asked of a model without. WorkError: another prompt list than was planned with.
    """
    drawn: Arrays = {"class_id": np.full(len(ids), UNCONDITIONAL, dtype=np.int32)}
    if artifact.conditioning == "class":
        if not num_classes:
            raise UsageError(f"conditioning=class: {artifact.model.name} has no classes; use none.")
        drawn["class_id"] = _class_ids(artifact, ids, num_classes).astype(np.int32)
    if artifact.prompts is not None:
        drawn["prompt"] = prompts_to_bytes(_captions(artifact, _prompts(artifact.prompts), ids))
    return drawn


def _class_ids(artifact: Generation, ids: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    noises = artifact.noises_per_condition
    if artifact.draws == "counter":
        return rng.integers(ids // noises, num_classes, seed=artifact.class_seed, stream="class")
    if num_classes != NUM_CLASSES:
        raise UsageError(
            f"draws=reference draws ImageNet's {NUM_CLASSES} class names, {artifact.model.name} has {num_classes} "
            "classes; use draws=counter."
        )
    return reference_class_ids(_whole(artifact), seed=artifact.class_seed, noises_per_class=noises)[ids]


def _captions(artifact: Generation, prompts: PromptList, ids: NDArray[np.int64]) -> list[str]:
    noises = artifact.noises_per_condition
    if artifact.draws == "counter":
        return prompts.draw(ids, seed=artifact.class_seed, num_noises=noises)
    chosen = prompts.reference_selection(
        _whole(artifact) // noises, seed=artifact.class_seed, num_noises=noises
    )
    return [chosen[i] for i in ids]


def _whole(artifact: Generation) -> int:
    """Samples of all conditions, the last one completed: the reference draws conditions, then repeats them."""
    noises, drawn = artifact.noises_per_condition, artifact.drawn_samples or 0
    return -(-drawn // noises) * noises


def draw_targets(artifact: Edit, ids: NDArray[np.int64], own: Arrays, class_names: Sequence[str]) -> Arrays:
    """The target conditions of samples, as `draw` gives conditions: `class_id` int32 (B,), or `prompt` uint8 (B, 1024).

    Args:
      own: the conditions of the samples themselves, from which drawn targets differ.
      class_names: of the model, by class; () of a model that reads prompts.
    Raises:
      UsageError: a model with one class, or listed targets that are too few or no classes.
      WorkError: another list than was planned with.
    """
    if artifact.conditioning == "class":
        return {"class_id": _target_classes(artifact, ids, own["class_id"], class_names)}
    assert artifact.target_list is not None, "an edit under prompts has a list of them"
    prompts = _prompts(artifact.target_list)
    if artifact.targets == "listed":
        return {"prompt": prompts_to_bytes(_listed(artifact, prompts.prompts, ids))}
    return {"prompt": prompts_to_bytes(_other_prompts(artifact, prompts, ids, own["prompt"]))}


def _target_classes(
    artifact: Edit, ids: NDArray[np.int64], own: NDArray[np.int32], class_names: Sequence[str]
) -> NDArray[np.int32]:
    if artifact.target_list is not None:
        lines = _listed(artifact, _prompts(artifact.target_list).prompts, ids)
        return np.array([class_of(line, class_names) for line in lines], dtype=np.int32)
    if len(class_names) < 2:
        raise UsageError(
            f"edits need another class than the image's, and {artifact.samples.model.name} has {len(class_names)}."
        )
    count = len(class_names)
    return np.asarray((own + _steps_on(artifact, ids, count)) % count, dtype=np.int32)


def class_of(text: str, class_names: Sequence[str]) -> int:
    """The class that a line of a list of targets names: its number, or its name. Raises UsageError: none."""
    if text in class_names:
        return list(class_names).index(text)
    if text.isdecimal() and int(text) < len(class_names):
        return int(text)
    raise UsageError(
        f"targets: {text!r} is no class of this model; give one of its {len(class_names)} names a line, or a number "
        f"from 0 to {len(class_names) - 1}."
    )


def _other_prompts(
    artifact: Edit, prompts: PromptList, ids: NDArray[np.int64], own: NDArray[np.uint8]
) -> list[str]:
    """Prompts of the list that are not the samples' own; an own prompt that is not in the list excludes none."""
    # As they are stored: a longer one is cut, and a text that stands twice in the list is one prompt.
    texts = list(dict.fromkeys(prompts_from_bytes(prompts_to_bytes(list(prompts.prompts)))))
    if len(texts) < 2:
        raise UsageError(f"edits need another prompt than the image's, and {prompts.name} holds one only.")
    place = {text: index for index, text in enumerate(texts)}
    found = [place.get(text) for text in prompts_from_bytes(own)]
    steps, anywhere = _steps_on(artifact, ids, len(texts)), _draw(artifact, ids, len(texts))
    return [
        texts[free if at is None else (at + step) % len(texts)]
        for at, step, free in zip(found, steps.tolist(), anywhere.tolist(), strict=True)
    ]


def _steps_on(artifact: Edit, ids: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """How many conditions of `count` a target lies behind the sample's own, 1 to count - 1, all equally probable."""
    return 1 + _draw(artifact, ids, count - 1)


def _draw(artifact: Edit, ids: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """A number from 0 to count - 1 for each target."""
    groups = ids // artifact.noises_per_condition
    return rng.integers(groups, count, seed=artifact.target_seed, stream="target")


def _listed(artifact: Edit, lines: Sequence[str], ids: NDArray[np.int64]) -> list[str]:
    """The lines of a list that belong to samples, in its order."""
    rows = ids // artifact.noises_per_condition
    if int(rows.max(initial=0)) >= len(lines):
        raise UsageError(f"targets: the list has {len(lines)} lines, and sample {ids.max()} needs one more.")
    return [lines[row] for row in rows]


def condition(
    model: Any,
    stored: Arrays,
    device: str,
    encode: Callable[[Any, list[str]], dict[str, torch.Tensor]] | None = None,
) -> dict[str, torch.Tensor]:
    """What the network reads: {} if unconditional, `class_id`, or the text encoder's tensors.

    Args:
      encode: the tensors of prompts, of the model's text encoder and the prompts; None is the encoder itself.

    Raises:
      UsageError: prompts for a model without a text encoder.
    """
    if "prompt" in stored:
        if getattr(model, "text", None) is None:
            raise UsageError("conditioning=prompt: the model reads no text; use conditioning=none.")
        prompts = prompts_from_bytes(stored["prompt"])
        encoded: dict[str, torch.Tensor] = (
            encode(model.text, prompts) if encode else model.text.encode(prompts)
        )
        return encoded
    import torch  # here: studies read conditions where nothing is computed

    class_id = stored["class_id"]
    # An unconditional artifact passes no condition at all.
    if (class_id == UNCONDITIONAL).all():
        return {}
    return {"class_id": torch.from_numpy(class_id.astype(np.int64)).to(device)}


def prompts_to_bytes(prompts: list[str]) -> NDArray[np.uint8]:
    """Prompts as UTF-8 bytes padded with zeros, uint8 (B, 1024); a longer one is cut at a whole character.

    Text encoders read the first 77 tokens, far less than 1024 bytes of any caption.
    """
    rows = np.zeros((len(prompts), PROMPT_BYTES), dtype=np.uint8)
    for row, prompt in zip(rows, prompts, strict=True):
        text = prompt.encode()[:PROMPT_BYTES].decode(errors="ignore").encode()
        row[: len(text)] = np.frombuffer(text, dtype=np.uint8)
    return rows


def prompts_from_bytes(rows: NDArray[np.uint8]) -> list[str]:
    """The prompts of `prompts_to_bytes`."""
    return [row.tobytes().rstrip(b"\0").decode() for row in rows]


@lru_cache(maxsize=4)
def _prompts(spec: PromptSpec) -> PromptList:
    prompts = load_prompts(spec.location)
    if prompts.fingerprint != spec.fingerprint:
        raise WorkError(
            f"prompt list {spec.location} was planned with fingerprint {spec.fingerprint} and now has "
            f"{prompts.fingerprint}: it changed since. Put it back, or start again."
        )
    return prompts
