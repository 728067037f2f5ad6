"""Counter-based randomness: a number belongs to (seed, stream, sample id), never to a process.

The bit source is Philox-4x64 keyed by (seed, stream) with the sample id in the counter, so the value of any
sample can be computed alone, on any machine, in any batch. Normals are the inverse normal CDF of 52-bit
uniforms: one word a number, no rejection, hence no dependence on the library's sampling algorithm.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import scipy  # whose parts are imported when they are used
from numpy.typing import NDArray

from taba_core.errors import UsageError

MAX_SEED = 2**63 - 1


def _key(seed: int, stream: str) -> NDArray[np.uint64]:
    if not 0 <= seed <= MAX_SEED:
        raise UsageError(f"seed={seed} is out of range; use an integer from 0 to 2**63 - 1.")
    digest = hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=16).digest()
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)


def uniform(
    sample_ids: Sequence[int] | NDArray[np.integer], shape: tuple[int, ...], *, seed: int, stream: str
) -> NDArray[np.float64]:
    """Uniform numbers in (0, 1), float64, shape (len(sample_ids), *shape).

    Row i depends on (seed, stream, sample_ids[i]) only.

    >>> both = uniform([3, 5], (2,), seed=0, stream="a")
    >>> bool((uniform([5], (2,), seed=0, stream="a")[0] == both[1]).all())
    True

    Raises:
      UsageError: seed out of range or a negative sample id.
    """
    key = _key(seed, stream)
    count = int(np.prod(shape, dtype=np.int64))
    out = np.empty((len(sample_ids), count), dtype=np.float64)
    for row, sample_id in enumerate(sample_ids):
        if sample_id < 0:
            raise UsageError(f"sample id {sample_id} is negative; ids count from 0.")
        bits = np.random.Philox(key=key, counter=np.array([0, int(sample_id), 0, 0], dtype=np.uint64))
        out[row] = (bits.random_raw(count) >> np.uint64(12)).astype(np.float64)
    out += 0.5
    out *= 2.0**-52
    return out.reshape(len(sample_ids), *shape)


def normal(
    sample_ids: Sequence[int] | NDArray[np.integer], shape: tuple[int, ...], *, seed: int, stream: str
) -> NDArray[np.float32]:
    """Standard normal numbers, float32, shape (len(sample_ids), *shape).

    Row i depends on (seed, stream, sample_ids[i]) only; float64 inside, rounded once.

    >>> noise = normal(range(1000), (3, 8, 8), seed=42, stream="noise")
    >>> noise.shape, bool(abs(noise.std() - 1) < 0.01)
    ((1000, 3, 8, 8), True)

    Raises:
      UsageError: seed out of range or a negative sample id.
    """
    return scipy.special.ndtri(uniform(sample_ids, shape, seed=seed, stream=stream)).astype(np.float32)


def integers(
    sample_ids: Sequence[int] | NDArray[np.integer], high: int, *, seed: int, stream: str
) -> NDArray[np.int64]:
    """One uniform integer in 0..high-1 a sample, shape (len(sample_ids),).

    Raises:
      UsageError: seed out of range, a negative sample id, or high < 1.
    """
    if high < 1:
        raise UsageError(f"high={high}: nothing to draw from; give at least 1.")
    draw = uniform(sample_ids, (), seed=seed, stream=stream)
    return np.minimum((draw * high).astype(np.int64), high - 1)
