"""What a unit has made and nobody has asked for in main memory yet: states on a device, and rows of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


class DeviceArray:
    """A tensor, which stays where it is, and its copy in main memory, which is made once, when it is asked for.

    Attributes:
      tensor: on any device, complete: nothing that is still to run changes it.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    @functools.cached_property
    def host(self) -> NDArray[Any]:
        """Its values; on the CPU the same memory, from a device one copy beside what the device does meanwhile."""
        if self.tensor.device.type != "cuda":
            return self.tensor.cpu().numpy()
        pinned = torch.empty(self.tensor.shape, dtype=self.tensor.dtype, pin_memory=True)
        with torch.cuda.device(self.tensor.device):
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                pinned.copy_(self.tensor, non_blocking=True)
            stream.synchronize()
        return pinned.numpy()


class LaterArray:
    """One of the arrays that `make` returns, which is called once for all of them, when the first is asked for."""

    def __init__(self, make: Callable[[], Arrays], name: str) -> None:
        self._make, self._name = make, name

    @property
    def host(self) -> NDArray[Any]:
        """Its values."""
        return self._make()[self._name]


Held = NDArray[Any] | DeviceArray | LaterArray


def in_memory(value: Held) -> NDArray[Any]:
    """The values of what is held, in main memory."""
    return value if isinstance(value, np.ndarray) else value.host


def all_in_memory(held: Mapping[str, Held]) -> Arrays:
    """Several of them."""
    return {name: in_memory(value) for name, value in held.items()}


def later(make: Callable[[], Arrays], names: tuple[str, ...]) -> dict[str, Held]:
    """The arrays of these names that `make` returns, made when the first of them is asked for."""
    once = functools.cache(make)
    return {name: LaterArray(once, name) for name in names}
