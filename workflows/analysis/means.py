"""The mean of one number a sample, with its interval, over the samples that have it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from taba_core.stats.estimate import Estimate
from taba_core.stats.values import ValueMean

Values = NDArray[np.float64]


def mean_of(values: Values, kept: NDArray[np.bool_], replicates: int) -> Estimate:
    """Mean and standard deviation over the kept samples, (2,), with bootstrap replicates by sample id."""
    from taba_core.stats.reduce import from_arrays, reduce
    from taba_core.stats.resample import estimates

    ids = np.flatnonzero(kept & np.isfinite(values))
    reduced = reduce(
        from_arrays({"value": values[ids]}),
        len(ids),
        {"value": ValueMean("value")},
        scheduler="sync",
        sample_ids=ids,
    )
    of = estimates(reduced["value"], num_replicates=replicates)
    return Estimate.stack([of["mean"], of["std"]])
