"""What a worker keeps at hand: a device, the models it has loaded, the store, and what the running unit has made."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from taba_core.artifacts.base import Artifact
from taba_core.conventions import UNGUIDED
from taba_core.diffusion.guidance import Guided, null_condition
from taba_core.freed_memory import keep_freed_memory
from taba_core.model_spec import ModelSpec
from taba_core.models.base import card_of
from taba_core.store import Store
from workflows.compute.arrays import AnyArray, Arrays, DeviceArray, in_memory, later
from workflows.compute.conditioning import condition
from workflows.compute.encoded_prompts import EncodedPrompts
from workflows.compute.shared_models import SharedModels

# Of the memory that a device has left, what one array of states may take there.
_SHARE_OF_FREE = 0.2
_CONDITIONS_KEPT = 4


class Workbench:
    """One device, models that are loaded when first asked for and then kept, and the memory of one unit."""

    def __init__(self, device: str = "cpu", threads: int = 1) -> None:
        # One thread per worker on CPU: the bits of a product must not depend on the machine's core count.
        torch.set_num_threads(threads)
        if device == "cpu":
            keep_freed_memory()
        self.device = device
        # A device does not wait for what a processor does with its states (rows of statistics, the look for NaN): that
        # is done at the end of a unit, or by whoever writes its shard.
        self.runs_ahead = device == "cuda"
        self.notes: dict[str, Any] = {}  # what a kind says beside its arrays; it goes into the receipt
        self._models = SharedModels(device)
        # The condition that says nothing, of the models that were asked under guidance: one text encoding each.
        self._nulls: dict[ModelSpec, dict[str, torch.Tensor]] = {}
        self._conditions: dict[Any, dict[str, torch.Tensor]] = {}
        self._store: Store | None = None
        # What the running unit has made, by artifact key and first sample of a batch.
        self._memory: dict[tuple[str, int], dict[str, AnyArray]] = {}

    def begin(self, store: Store | None) -> None:
        """Begin a unit: read from this store, and let go of what the last unit made."""
        self._store, self._memory = store, {}

    def remember(self, artifact: Artifact, first: int, arrays: Mapping[str, AnyArray]) -> None:
        """Keep what was made of the batch that begins with sample `first`, until the unit ends."""
        self._memory.setdefault((artifact.key, first), {}).update(arrays)

    def made(self, artifact: Artifact, first: int) -> dict[str, AnyArray]:
        """What this unit has made of an artifact's batch; empty if it has made nothing of it."""
        return self._memory.get((artifact.key, first), {})

    def read(self, source: Artifact, start: int, stop: int, variables: tuple[str, ...]) -> Arrays:
        """Variables of samples [start, stop) of a source, a batch: what the unit has made, else what is stored."""
        made = self.made(source, start)
        stored = tuple(name for name in variables if name not in made)
        read: Arrays = {}
        if stored:
            assert self._store is not None, "only a unit with a store reads what it has not made"
            read = self._store.open_artifact(source).read_samples(start, stop, stored)
        return {name: in_memory(made[name]) if name in made else read[name] for name in variables}

    def model(self, spec: ModelSpec) -> Any:
        """The denoiser of a model spec, loaded once. Raises HopelessUnit where it cannot be loaded."""
        return self._models.get(spec)

    def denoiser(self, spec: ModelSpec, guidance_scale: float) -> Any:
        """The model itself at a guidance scale of 1, else the model under guidance: two evaluations a prediction.

        The two are made one after the other, each of the whole batch, so a device needs no more memory than for one;
        methods that differentiate through the network keep the graphs of both.

        Raises:
          HopelessUnit: it cannot be loaded. UsageError: it has no null condition.
        """
        model = self.model(spec)
        if guidance_scale == UNGUIDED:
            return model
        if spec not in self._nulls:
            kept, text = self._kept_prompts(spec), getattr(model, "text", None)
            if kept is None or text is None:
                self._nulls[spec] = null_condition(model, 1)
            else:
                self._nulls[spec] = kept.null(spec, text, lambda: null_condition(model, 1))
        return Guided(model, guidance_scale, self._nulls[spec])

    def condition(self, spec: ModelSpec, stored: Arrays) -> dict[str, torch.Tensor]:
        """What the network of a spec reads of stored conditions; see `conditioning.condition`.

        The tensors of the last few batches are kept: the parts of a unit share them, and a prompt is encoded once.
        """
        key = (spec, *((name, stored[name].tobytes()) for name in sorted(stored)))
        if key not in self._conditions:
            while len(self._conditions) >= _CONDITIONS_KEPT:
                del self._conditions[next(iter(self._conditions))]
            kept = self._kept_prompts(spec)
            encode = functools.partial(kept.encode, spec) if kept else None
            self._conditions[key] = condition(self.model(spec), stored, self.device, encode)
        self._conditions[key] = self._conditions.pop(key)  # the last one asked is the last to go
        return dict(self._conditions[key])

    def _kept_prompts(self, spec: ModelSpec) -> EncodedPrompts | None:
        """The store's encoded prompts; None without a store, or of a network in the box, whose encoder is tiny."""
        if self._store is None or card_of(spec).embedded:
            return None
        return EncodedPrompts(self._store, self.device)

    def add_note(self, name: str, value: float | str) -> None:
        """Put a fact into the receipt; numbers of several batches are added."""
        held = self.notes.get(name, 0)
        self.notes[name] = value if isinstance(value, str) else round(held + value, 6)

    def wait(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def empty(self, shape: tuple[int, ...]) -> DeviceArray:
        """An array of float32 to be filled: on the device if it has room beside its work, else in main memory."""
        place = self.device
        if place == "cuda" and 4 * math.prod(shape) > _SHARE_OF_FREE * torch.cuda.mem_get_info()[0]:
            place = "cpu"
        return DeviceArray(torch.empty(shape, dtype=torch.float32, device=place))

    def rows(self, make: Callable[[], Arrays], names: tuple[str, ...]) -> dict[str, AnyArray]:
        """Arrays of these names, which `make` reduces states to: made now, or by whoever writes the shard."""
        return later(make, names) if self.runs_ahead else dict(make())

    def tensor(self, array: NDArray[Any]) -> torch.Tensor:
        """A tensor on the worker's device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
