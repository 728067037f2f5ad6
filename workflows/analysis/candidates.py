"""Among how many states a nearest one is sought, and how many are read at once: what mappings of studies share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from taba_core.stats.attractors import equal_divisions

# The paper's number of divisions, and the n from which they hold enough candidates.
DIVISIONS, DIVIDED_FROM = 8, 2048
_ENTRIES = 1 << 21  # of a block of states: 16 MB in float64


def divided(num_samples: int) -> NDArray[np.int64]:
    """Division of each sample, (n,): the paper's eighths where these hold enough candidates, else one."""
    return equal_divisions(num_samples, DIVISIONS if num_samples >= DIVIDED_FROM else 1)


def samples_per_read(sample_shape: tuple[int, ...]) -> int:
    """Samples of a block of the pairwise reduction, by the size of a state: it bounds memory and changes nothing."""
    return int(np.clip(_ENTRIES // np.prod(sample_shape), 16, 512))
