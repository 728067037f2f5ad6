"""How many samples a group holds, and the shapes, sizes and numbers of files of its arrays.

A shard is a fixed block of consecutive sample ids with all steps; its inner chunks hold one step each, because
nearly all statistics are per step. Nothing is compressed, so the size of a shard file is known to the byte and
checking a file needs one `stat`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from taba_core.artifacts.base import Artifact
from taba_core.artifacts.variable import PATH, PROMPT_BYTES
from taba_core.errors import UsageError

CHUNK_CRC_BYTES = 4  # crc32c after each inner chunk
INDEX_ENTRY_BYTES = 16  # offset and length of one inner chunk
INDEX_CRC_BYTES = 4


@dataclass(frozen=True)
class Extent:
    """How many samples a group has room for, in shards of how many.

    A group may grow: more samples are more shards of the same size.
    """

    num_samples: int
    samples_per_shard: int

    @classmethod
    def covering(cls, num_samples: int, samples_per_shard: int, limit: int | None = None) -> Extent:
        """Whole shards for that many samples; the last shard is cut where there are no more samples than `limit`."""
        whole = math.ceil(num_samples / samples_per_shard) * samples_per_shard
        return cls(whole if limit is None else min(whole, limit), samples_per_shard)

    @property
    def num_shards(self) -> int:
        """Units of work, and files of each array."""
        return math.ceil(self.num_samples / self.samples_per_shard)

    def ids(self, shard: int) -> tuple[int, int]:
        """Sample ids [start, stop) of a shard."""
        start = shard * self.samples_per_shard
        return start, min(start + self.samples_per_shard, self.num_samples)

    def shards_for(self, samples: int) -> int:
        """How many first shards hold that many first samples."""
        return min(math.ceil(samples / self.samples_per_shard), self.num_shards)


@dataclass(frozen=True)
class Layout:
    """Shapes of one array in the store: whole, inner chunk, shard (all in elements)."""

    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    shard: tuple[int, ...]
    dtype: str

    @property
    def num_shards(self) -> int:
        """Shard files of the array; the last one may hold fewer samples than it has room for."""
        return math.ceil(self.shape[0] / self.shard[0])

    @property
    def shard_bytes(self) -> int:
        """Exact size of every shard file: payload, a checksum per chunk, and the index with its checksum."""
        chunks = math.prod(s // c for s, c in zip(self.shard, self.chunk, strict=True))
        payload = math.prod(self.shard) * np.dtype(self.dtype).itemsize
        return payload + chunks * (CHUNK_CRC_BYTES + INDEX_ENTRY_BYTES) + INDEX_CRC_BYTES

    def samples(self, shard: int) -> tuple[int, int]:
        """Sample ids [start, stop) of a shard."""
        start = shard * self.shard[0]
        return start, min(start + self.shard[0], self.shape[0])


def layout(
    artifact: Artifact,
    variable: str,
    extent: Extent,
    sample_shape: Sequence[int],
    decoded_shape: Sequence[int] | None = None,
) -> Layout:
    """Shapes of a variable: shard = (block, all steps, ...), chunk = (block, 1 step, ...).

    Rows of statistics are one chunk: a step of them is a few bytes.

    Args:
      variable: one of the artifact's.
      extent: number of samples, and samples of a shard.
      sample_shape: (C, H, W) of a state.
      decoded_shape: (3, height, width) of pictures; needed for variables of pictures only.
    Raises:
      UsageError: unknown variable, or a shape that is not three positive sizes.
    """
    described = artifact.variable(variable)
    sizes = dict(zip(("channel", "y", "x"), _three(sample_shape, "sample_shape"), strict=True))
    if "rgb" in described.dims:
        names = ("rgb", "pixel_y", "pixel_x")
        sizes |= dict(zip(names, _three(decoded_shape or (), "decoded_shape"), strict=True))
    steps = artifact.num_steps
    sizes |= {"sample": extent.num_samples, "step": steps, "level": steps + 1}
    sizes |= {"char": PROMPT_BYTES, "region": 2, **artifact.sizes(variable)}
    shape = tuple(sizes[dim] for dim in described.dims)
    # Only where there are no more samples than that, of images that somebody gave, is a shard smaller.
    shard = (min(extent.samples_per_shard, extent.num_samples), *shape[1:])
    one_step = described.dims == PATH
    chunk = tuple(
        1 if dim == "step" and one_step else size for dim, size in zip(described.dims, shard, strict=True)
    )
    return Layout(shape, chunk, shard, described.dtype)


def bytes_of(
    artifact: Artifact,
    variables: Sequence[str],
    extent: Extent,
    sample_shape: Sequence[int],
    decoded_shape: Sequence[int] | None = None,
    first_shards: Mapping[str, int] = MappingProxyType({}),
) -> int:
    """Bytes of all shard files of these variables once complete (coordinates and metadata add a few kB).

    Args:
      first_shards: how many shards are wanted of variables of which not all are.
    """
    layouts = {name: layout(artifact, name, extent, sample_shape, decoded_shape) for name in variables}
    return sum(first_shards.get(name, item.num_shards) * item.shard_bytes for name, item in layouts.items())


def num_files(
    variables: Sequence[str], extent: Extent, first_shards: Mapping[str, int] = MappingProxyType({})
) -> int:
    """Shard files of these variables once complete."""
    return sum(first_shards.get(name, extent.num_shards) for name in variables)


def num_inodes(
    variables: Sequence[str], extent: Extent, first_shards: Mapping[str, int] = MappingProxyType({})
) -> int:
    """Files and directories of an artifact with these variables once complete.

    A group and its metadata; an array each for the variables and the coordinates sample, step, timestep and
    alpha_bar (directory, metadata, shards; one chunk a coordinate); the ledger.
    """
    coordinates = 4
    return 2 + num_files(variables, extent, first_shards) + 2 * len(variables) + 3 * coordinates + 1


def _three(shape: Sequence[int], name: str) -> tuple[int, int, int]:
    if len(shape) != 3 or any(size < 1 for size in shape):
        raise UsageError(f"{name}={tuple(shape)}: three positive sizes (channel, height, width) are needed.")
    return int(shape[0]), int(shape[1]), int(shape[2])
