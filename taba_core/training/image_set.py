"""Images of a data set as parts of a source: drawn whole and as they are, without crops and without mirroring.

That is how improved-diffusion trains on CIFAR-10 and ImageNet. It goes through the images in a new order at every
epoch; here each row draws its image among all of them, which makes a row a function of (seed, step, row).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taba_core import rng
from taba_core.training.crops import Crops
from taba_core.training.draws import StepDraws

# Axes: n images of a set, B images drawn, S pixels of a side.


class Pixels(Protocol):
    """The pixels of n images."""

    def __len__(self) -> int: ...

    def rows(self, ids: Tensor) -> Tensor:
        """Images by number, uint8 (B, 3, S, S), on the device of the ids."""
        ...

    def expect(self, ids: Tensor) -> None:
        """Be told which images are asked for next."""
        ...


class HeldPixels:
    """Pixels in the memory of a device.

    Args:
      pixels: uint8 (n, 3, S, S).
    """

    def __init__(self, pixels: NDArray[np.uint8], device: torch.device) -> None:
        self._pixels = torch.from_numpy(pixels).to(device)

    def __len__(self) -> int:
        return len(self._pixels)

    def rows(self, ids: Tensor) -> Tensor:
        """Images by number, uint8 (B, 3, S, S)."""
        return self._pixels[ids]

    def expect(self, ids: Tensor) -> None:
        """Nothing to do."""


class MappedPixels:
    """Pixels in files that are mapped into memory; the operating system holds what of them it has room for.

    Args:
      parts: uint8 arrays (n_i, 3, S, S) that follow one another.
    """

    def __init__(self, parts: Sequence[NDArray[np.uint8]]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="images")
        self._next: tuple[NDArray[np.int64], Future[NDArray[np.uint8]]] | None = None

    def __len__(self) -> int:
        return int(self._starts[-1])

    def rows(self, ids: Tensor) -> Tensor:
        """Images by number, uint8 (B, 3, S, S), on the device of the ids."""
        wanted, ahead = ids.cpu().numpy(), self._next
        known = ahead is not None and np.array_equal(ahead[0], wanted)
        found = ahead[1].result() if ahead is not None and known else self._read(wanted)
        return torch.from_numpy(found).to(ids.device)

    def expect(self, ids: Tensor) -> None:
        """Read these images while the network computes."""
        wanted = ids.cpu().numpy()
        self._next = (wanted, self._reader.submit(self._read, wanted))

    def _read(self, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        out = np.empty((len(ids), *self._parts[0].shape[1:]), dtype=np.uint8)
        for row, number in enumerate(ids.tolist()):
            part = bisect_right(self._starts, number) - 1
            out[row] = self._parts[part][number - self._starts[part]]
        return out


class ImageSet:
    """The images of one part of a data set.

    Args:
      pixels: of its images.
      labels: class of each, int64 (n,).
      names: of the classes.
      device: where images are made.
    """

    def __init__(
        self,
        pixels: Pixels,
        labels: NDArray[np.int64],
        names: tuple[str, ...],
        device: torch.device,
    ) -> None:
        self.pixels, self.names, self.device = pixels, names, device
        self._labels = torch.from_numpy(labels).to(device)

    def __len__(self) -> int:
        return len(self.pixels)

    def drawn(self, draws: StepDraws, step: int, size: int) -> Crops:
        """The images of a step: row b is number floor(u n), u the uniform number of (seed, "image", step, b)."""
        drawn = self.at(draws.integers(step, "image", len(self)), size)
        self.pixels.expect(draws.integers(step + 1, "image", len(self)))
        return drawn

    def counted(
        self, ids: Sequence[int] | NDArray[np.integer], size: int, *, seed: int, stream: str
    ) -> Crops:
        """Images by counter: row i is drawn by (seed, stream, ids[i]), on every device."""
        number = rng.integers(ids, len(self), seed=seed, stream=f"training-images/{stream}")
        return self.at(torch.from_numpy(number).to(self.device), size)

    def at(self, ids: Tensor, size: int) -> Crops:
        """Images by number, (B, 3, S, S) in [-1, 1], with their classes.

        Raises:
          ValueError: another size than theirs.
        """
        pixels = self.pixels.rows(ids)
        if pixels.shape[-1] != size:
            raise ValueError(f"images of {pixels.shape[-1]} pixels a side are asked for at {size}.")
        images = pixels.float() / 127.5 - 1.0
        return Crops(images, self._labels[ids], torch.full_like(ids, size, dtype=torch.float64))
