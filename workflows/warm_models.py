"""What a worker keeps between its units of work: a device, and the models that it has loaded."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from taba_core.model_spec import ModelSpec
from workflows.shared_models import SharedModels

Arrays = dict[str, NDArray[Any]]


class WarmModels:
    """Models on one device, each loaded when it is first asked for and then kept."""

    def __init__(self, device: str = "cpu", threads: int = 1) -> None:
        # One thread per worker on CPU: the bits of a product must not depend on the machine's core count.
        torch.set_num_threads(threads)
        self.device = device
        self.notes: dict[str, Any] = {}  # What a task says beside its arrays; it goes into the receipt.
        self._models = SharedModels(device)

    def model(self, spec: ModelSpec) -> Any:
        """The denoiser of a model spec, loaded once. Raises HopelessUnit where it cannot be loaded."""
        return self._models.get(spec)

    def finish(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def tensor(self, array: NDArray[Any]) -> torch.Tensor:
        """A tensor on the worker's device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
