"""What a function of `workflows.compute.kinds` works on: one batch of the samples of one artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from taba_core.artifacts.base import Artifact
from taba_core.found import import_modules
from taba_core.models.base import card_of
from taba_core.models.grids import timestep_grid
from workflows.compute.arrays import AnyArray, Arrays
from workflows.compute.workbench import Workbench

if TYPE_CHECKING:
    from taba_core.models.cards import Card


@dataclass(frozen=True)
class Batch:
    """The samples [start, stop) of an artifact, and the worker that computes them.

    A network sees these samples at once; they are a batch of the sample source, whatever the size of a shard, so the
    bits of a sample do not depend on the shard it is stored in.
    """

    worker: Workbench
    artifact: Any
    start: int
    stop: int
    variables: tuple[str, ...]

    @property
    def ids(self) -> NDArray[np.int64]:
        """Sample ids, int64 (B,)."""
        return np.arange(self.start, self.stop, dtype=np.int64)

    @property
    def model(self) -> Any:
        """The samples' own model without guidance, loaded once for each worker: the one whose codec decodes them."""
        return self.worker.model(self.artifact.samples.model)

    def denoiser(self, guidance_scale: float) -> Any:
        """The network of the artifact's predictions at a guidance scale; see `Workbench.denoiser`."""
        return self.worker.denoiser(self.artifact.predictor, guidance_scale)

    @property
    def card(self) -> Card:
        """The card of the samples' own model."""
        return card_of(self.artifact.samples.model)

    def grid(self, num_inference_steps: int) -> Any:
        """The timestep grid of T steps of the network that predicts."""
        return timestep_grid(card_of(self.artifact.predictor), num_inference_steps)

    def read(self, source: Artifact, *variables: str) -> Arrays:
        """Variables of a source, of these samples: from memory where this unit has just made them, else stored."""
        return self.worker.read(source, self.start, self.stop, variables)

    def cond(self) -> dict[str, torch.Tensor]:
        """What the network that predicts reads beside states: the stored conditions of these samples."""
        samples = self.artifact.samples
        return self.worker.condition(
            self.artifact.predictor, self.read(samples, *samples.condition_variables)
        )

    def tensor(self, array: NDArray[Any]) -> torch.Tensor:
        """A tensor on the worker's device."""
        return self.worker.tensor(array)


Compute = Callable[[Batch], Mapping[str, AnyArray]]
_COMPUTE: dict[type[Artifact], Compute] = {}


def computes(kind: type[Artifact]) -> Callable[[Compute], Compute]:
    """Decorator: the function computes the variables of artifacts of that kind.

    It returns at least the variables that the batch asks for, (B, ...) each.
    """

    def register(function: Compute) -> Compute:
        _COMPUTE[kind] = function
        return function

    return register


@cache
def function_of(kind: type[Artifact]) -> Compute:
    """The function that computes a kind. Raises TypeError: there is none."""
    import_modules("workflows.compute.kinds")
    if kind not in _COMPUTE:
        raise TypeError(f"no function in workflows.compute.kinds computes artifacts of kind {kind.kind!r}")
    return _COMPUTE[kind]
