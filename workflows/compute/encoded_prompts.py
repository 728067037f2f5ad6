"""Prompts as a text encoder encodes them, kept beside the ledger: a batch's prompts are encoded by one unit of a run.

The units of all artifacts that read the same batch find them there, and so does the run that resumes. What is kept has
the bits of what the encoder made: half precision only where that loses none.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from taba_core.model_spec import ModelSpec
from taba_core.models.base import network_spec
from taba_core.store import Store
from taba_core.store.files import LEDGER_DIRECTORY, PROMPTS_DIRECTORY
from taba_core.store.place import Place

Tensors = dict[str, torch.Tensor]


class EncodedPrompts:
    """The encoded prompts of one store.

    Args:
      store: where they are kept.
      device: where tensors are wanted.
    """

    def __init__(self, store: Store, device: str) -> None:
        self._folder = store.place / LEDGER_DIRECTORY / PROMPTS_DIRECTORY
        self._device = device

    def encode(self, spec: ModelSpec, text: Any, prompts: Sequence[str]) -> Tensors:
        """What `text.encode(prompts)` returns, from the store where it is kept.

        Args:
          spec: of the model whose encoder it is.
          text: the encoder; it leaves the device where it is not needed.
          prompts: one for each of B samples; equal prompts are encoded and kept once.

        Returns:
          The encoder's tensors, each (B, ...), on the device.

        Raises:
          WorkError: an embedding that is not finite, or a store that cannot be written.
        """
        distinct = list(dict.fromkeys(prompts))
        place = {prompt: row for row, prompt in enumerate(distinct)}
        found = self._kept(self._file(spec, distinct), text, lambda: text.encode(distinct))
        rows = [place[prompt] for prompt in prompts]
        return {name: value[rows] for name, value in found.items()}

    def null(self, spec: ModelSpec, text: Any, make: Callable[[], Tensors]) -> Tensors:
        """What `make` returns, the null condition of one sample, each tensor (1, ...); from the store where it is kept.

        Raises:
          UsageError: the model has no null condition. WorkError: as `encode`.
        """
        return self._kept(self._file(spec, None), text, make)

    def _kept(self, file: Place, text: Any, make: Callable[[], Tensors]) -> Tensors:
        arrays = _read(file)
        if arrays is None:
            made = make()
            self._folder.make()
            file.write_atomic(_packed(made))
            return made
        text.rest()
        return {name: torch.from_numpy(array).to(self._device) for name, array in arrays.items()}

    def _file(self, spec: ModelSpec, prompts: Sequence[str] | None) -> Place:
        named = f"{network_spec(spec).canonical()}\n{json.dumps(prompts)}"
        return self._folder / f"{spec.name}-{hashlib.blake2b(named.encode(), digest_size=12).hexdigest()}.npz"


def _packed(tensors: Tensors) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{name: _smallest(value) for name, value in tensors.items()})
    return buffer.getvalue()


def _smallest(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """The array of a tensor, in half precision where that is the same numbers: a 16-bit encoder's output often is."""
    array: np.ndarray[Any, Any] = tensor.detach().cpu().numpy()
    if array.dtype == np.float32:
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if np.array_equal(half, array):
            return half
    return array


def _read(file: Place) -> dict[str, np.ndarray[Any, Any]] | None:
    """The arrays of a file, None where there is none, or it is damaged: its checksums are looked at."""
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
    except (FileNotFoundError, zipfile.BadZipFile, ValueError, EOFError):
        return None
    return {name: a.astype(np.float32) if a.dtype == np.float16 else a for name, a in arrays.items()}
