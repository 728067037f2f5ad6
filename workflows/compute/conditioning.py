"""What a sample is conditioned on (class, prompt), as stored arrays and as what a network reads."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from taba_core import rng
from taba_core.artifacts.generation import Generation
from taba_core.artifacts.variable import PROMPT_BYTES, UNCONDITIONAL
from taba_core.errors import UsageError, WorkError
from taba_core.model_spec import PromptSpec
from taba_core.models.imagenet import NUM_CLASSES, reference_class_ids
from taba_core.models.prompts import PromptList, load_prompts

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


def condition(model: Any, stored: Arrays, device: str) -> dict[str, torch.Tensor]:
    """What the network reads: {} if unconditional, `class_id`, or the text encoder's tensors (one call a shard).

    Raises:
      UsageError: prompts for a model without a text encoder.
    """
    if "prompt" in stored:
        if getattr(model, "text", None) is None:
            raise UsageError("conditioning=prompt: the model reads no text; use conditioning=none.")
        encoded: dict[str, torch.Tensor] = model.text.encode(prompts_from_bytes(stored["prompt"]))
        return encoded
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
