"""Arrays that a unit has made: in main memory, still on a device, or made when their values are first asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


class DeviceArray:
    """A tensor on a device. Its copy in main memory is made once, when the values are first asked for.

    Attributes:
      tensor: on any device. It is complete: no work that is still queued on the device changes it.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    @functools.cached_property
    def host(self) -> NDArray[Any]:
        """The values: on the CPU the same memory; from a GPU one copy, which does not wait for other work there."""
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
    """One of several arrays that the function `make` returns together, when the first of them is asked for."""

    def __init__(self, make: Callable[[], Arrays], name: str) -> None:
        self._make, self._name = make, name

    @property
    def host(self) -> NDArray[Any]:
        """Its values."""
        return self._make()[self._name]


AnyArray = NDArray[Any] | DeviceArray | LaterArray


def in_memory(value: AnyArray) -> NDArray[Any]:
    """The values of an array of either kind, in main memory."""
    return value if isinstance(value, np.ndarray) else value.host


def all_in_memory(arrays: Mapping[str, AnyArray]) -> Arrays:
    """Several of them."""
    return {name: in_memory(value) for name, value in arrays.items()}


def later(make: Callable[[], Arrays], names: tuple[str, ...]) -> dict[str, AnyArray]:
    """The arrays of these names that `make` returns, made when the first of them is asked for."""
    once = functools.cache(make)
    return {name: LaterArray(once, name) for name in names}
