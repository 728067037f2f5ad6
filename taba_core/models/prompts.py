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

import numpy as np
from numpy.typing import NDArray

from taba_core import rng
from taba_core.cache import cache_folder
from taba_core.errors import UsageError
from taba_core.images.benchmarks import is_table, open_benchmark
from taba_core.models.prompt_files import read_prompts

BUILTIN = "builtin"
RECAP_COCO = "recap-coco"
PHOTO_CAPTIONS = "photo-captions"
NAMED_LISTS = (BUILTIN, RECAP_COCO, PHOTO_CAPTIONS)
RECAP_COCO_SOURCE = "UCSC-VLAA/Recap-COCO-30K"  # a hub dataset, split train
PROMPT_STREAM = "prompt"  # of taba_core.rng


@dataclass(frozen=True)
class PromptList:
    """Captions in a fixed order.

    Attributes:
      name: builtin, recap-coco, photo-captions, or the file's path.
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
      source: "builtin" (24 captions for tests and smoke runs); "recap-coco" (the paper's, from the cache);
        "photo-captions" (500 captions of crops of the embedded photographs, as photo-if was trained on); or a file
        (see `prompt_files`): `.txt` with one prompt a line, or `.jsonl` with a field "recaption", "prompt", "caption"
        or "text" a line; or the table of a benchmark of editing, whose targets are taken. Text encoders read the
        first 77 tokens of a prompt; what is longer is cut there.
    Raises:
      UsageError: no such list or file, an empty list, a file of another kind or encoding, or a line that holds no
        caption.
    """
    if str(source) == BUILTIN:
        text = files("taba_core.models").joinpath("prompts_builtin.txt").read_text(encoding="utf-8")
        return PromptList(BUILTIN, tuple(text.splitlines()))
    if str(source) == PHOTO_CAPTIONS:
        text = files("taba_core.models").joinpath("box", "captions.txt").read_text(encoding="utf-8")
        return PromptList(PHOTO_CAPTIONS, tuple(text.splitlines()))
    if str(source) == RECAP_COCO:
        return PromptList(RECAP_COCO, _read(recap_coco_path(), missing=_missing_recap_coco(), published=True))
    path = Path(source).expanduser()
    if is_table(path):
        return PromptList(str(source), tuple(case.target for case in open_benchmark(path).cases))
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


def _read(path: Path, *, missing: str, published: bool = False) -> tuple[str, ...]:
    try:
        return read_prompts(path, published=published)
    except FileNotFoundError:
        raise UsageError(missing) from None


def _at_least_one(field: str, value: int) -> None:
    if value < 1:
        raise UsageError(f"{field}={value} must be at least 1.")
