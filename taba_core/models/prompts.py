"""Prompt sets: which captions condition a text-to-image model, and how samples draw them.

The paper uses the "recaption" column of UCSC-VLAA/Recap-COCO-30K (Sec. 4; about 30,500 captions). Needs no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taba_core import rng
from taba_core.cache import cache_folder
from taba_core.errors import UsageError

BUILTIN = "builtin"
RECAP_COCO = "recap-coco"
RECAP_COCO_SOURCE = "UCSC-VLAA/Recap-COCO-30K"  # a hub dataset, split train
CAPTION_FIELDS = ("recaption", "prompt", "caption", "text")  # of a JSON line, the first one present
PROMPT_STREAM = "prompt"  # of taba_core.rng


@dataclass(frozen=True)
class PromptList:
    """Captions in a fixed order.

    Attributes:
      name: builtin, recap-coco, or the file's path.
      prompts: the captions, at least one, none empty.
    """

    name: str
    prompts: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.prompts:
            raise UsageError(f"prompt list '{self.name}' is empty; give at least one prompt.")

    @cached_property
    def fingerprint(self) -> str:
        """24 hex digits of the captions and their order, whatever the list is called."""
        return hashlib.blake2b(json.dumps(self.prompts).encode(), digest_size=12).hexdigest()

    def draw(
        self, sample_ids: Sequence[int] | NDArray[np.integer], *, seed: int, num_noises: int = 1
    ) -> list[str]:
        """One caption a sample, drawn with replacement; depends on (seed, sample id // num_noises) only.

        Args:
          num_noises: how many consecutive samples share a caption.
        Raises:
          UsageError: num_noises < 1, a negative sample id, or a seed out of range.
        """
        _at_least_one("num_noises", num_noises)
        groups = np.asarray(sample_ids, dtype=np.int64) // num_noises
        rows = rng.integers(groups, len(self.prompts), seed=seed, stream=PROMPT_STREAM)
        return [self.prompts[row] for row in rows]

    def reference_selection(self, num_prompts: int, *, seed: int, num_noises: int = 1) -> list[str]:
        """The reference code's captions: `num_prompts` rows without replacement, each repeated consecutively.

        Raises:
          UsageError: the list has fewer captions, or num_noises < 1.
        """
        _at_least_one("num_noises", num_noises)
        rows = reference_rows(len(self.prompts), num_prompts, seed=seed)
        return [self.prompts[row] for row in np.repeat(rows, num_noises)]


def reference_rows(num_rows: int, num_prompts: int, *, seed: int) -> NDArray[np.int64]:
    """Rows that `pandas.Series.sample(num_prompts, random_state=seed)` takes of `num_rows`, (num_prompts,).

    Raises:
      UsageError: num_prompts is not in 1..num_rows.
    """
    if not 1 <= num_prompts <= num_rows:
        raise UsageError(
            f"num_prompts={num_prompts} of a list of {num_rows} prompts, drawn without replacement; "
            f"use 1 to {num_rows}."
        )
    # The legacy generator on purpose: it is the one pandas seeds, and numpy guarantees its stream.
    generator = np.random.RandomState(seed)
    return generator.choice(num_rows, size=num_prompts, replace=False).astype(np.int64)


def load_prompts(source: str | Path = BUILTIN) -> PromptList:
    """A prompt list by name or file.

    Args:
      source: "builtin" (24 captions for tests and smoke runs); "recap-coco" (the paper's, from the cache); or a
        file: one prompt a line (blank lines are skipped), or `.jsonl` with a field "recaption", "prompt",
        "caption" or "text" a line.
    Raises:
      UsageError: no such list or file, an empty list, or a line that holds no caption.
    """
    if str(source) == BUILTIN:
        text = files("taba_core.models").joinpath("prompts_builtin.txt").read_text(encoding="utf-8")
        return PromptList(BUILTIN, _plain_lines(text))
    if str(source) == RECAP_COCO:
        return PromptList(RECAP_COCO, _read(recap_coco_path(), missing=_missing_recap_coco()))
    path = Path(source).expanduser()
    missing = (
        f"prompts={str(source)!r}: there is no such file. Give a text file (one prompt a line), a .jsonl file, "
        f"'{RECAP_COCO}' (the paper's) or '{BUILTIN}'."
    )
    return PromptList(str(source), _read(path, missing=missing))


def recap_coco_path() -> Path:
    """Where the paper's captions are kept: one JSON object a line, in the order of the data set."""
    return cache_folder() / "prompts" / "recap-coco-30k.jsonl"


def _missing_recap_coco() -> str:
    return (
        f"the captions of {RECAP_COCO_SOURCE} are not here ({recap_coco_path()}): run `taba fetch {RECAP_COCO}` on a "
        "machine with internet, or write its column 'recaption' there, one JSON object a line in the data set's "
        f"order. For a try without them: prompts={BUILTIN}."
    )


def _read(path: Path, *, missing: str) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise UsageError(missing) from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no UTF-8 text ({error}); save the prompts as UTF-8.") from error
    return _json_lines(text, path) if path.suffix == ".jsonl" else _plain_lines(text)


def _plain_lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.split("\n") if line.strip())


def _json_lines(text: str, path: Path) -> tuple[str, ...]:
    # Every line counts, so that row numbers are those of the data set; only the end of the file may be blank.
    lines = text.rstrip("\n").split("\n") if text.strip() else []
    return tuple(_caption(line, f"{path}:{number}") for number, line in enumerate(lines, start=1))


def _caption(line: str, place: str) -> str:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise UsageError(
            f'{place} is no JSON ({error.msg}); one object a line, as {{"prompt": "..."}}.'
        ) from None
    found = (
        row.get(next((name for name in CAPTION_FIELDS if name in row), "")) if isinstance(row, dict) else row
    )
    if not isinstance(found, str) or not found.strip():
        raise UsageError(
            f"{place} holds no caption; each line needs text in one of the fields {', '.join(CAPTION_FIELDS)}."
        )
    return found


def _at_least_one(field: str, value: int) -> None:
    if value < 1:
        raise UsageError(f"{field}={value} must be at least 1.")
