"""How Gaussian is a set of states? The measures that the tables of latents share, and their floors.

Correlation and KL have a floor at finite n and are printed with it; excess r², signed lag-1 correlation and the
KL without its floor are 0 for white noise at every n, the standard deviation is 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from taba_core.errors import UsageError
from taba_core.stats.correlation import LagCorrelation, PatchCorrelation
from taba_core.stats.estimate import Estimate
from taba_core.stats.floor import correlation_floor, kl_floor
from taba_core.stats.moments import EntryKL, GlobalKL, Moments
from workflows.analysis.findings import Findings, Shown
from workflows.analysis.inputs import INDEPENDENT

if TYPE_CHECKING:
    import xarray as xr

    from taba_core.stats.base import Statistic
    from workflows.configuration.context import Context
    from workflows.configuration.settings import Settings

MEASURES = ("correlation", "spread", "excess_r2", "kl", "kl_excess", "kl_global", "lag1", "std")


def gaussianity(variable: str, settings: Settings) -> dict[str, Statistic]:
    """The statistics of one column of states, (n, C, H, W).

    KL is against noise of an independent set: paired with its own noise, a perfect inversion would read less than
    any noise does.
    """
    return {
        "corr": PatchCorrelation(variable, settings.patch_size, settings.top_k),
        "kl": EntryKL(INDEPENDENT, variable),
        "global": GlobalKL(INDEPENDENT, variable),
        "lag": LagCorrelation(variable),
        "moments": Moments(variable),
    }


def patch_features(context: Context) -> int:
    """p, positions of a correlation patch over all channels.

    Raises:
      UsageError: patch_size does not divide the state, or a patch has fewer than top_k pairs.
    """
    size, (channels, height, width) = context.settings.patch_size, context.card.sample_shape
    if height % size or width % size:
        raise UsageError(
            f"patch_size={size} does not divide states of {height}x{width}; use a divisor of both."
        )
    features = channels * size**2
    pairs = features * (features - 1) // 2
    if context.settings.top_k > pairs:
        raise UsageError(
            f"top_k={context.settings.top_k}: a patch of {features} positions has {pairs} pairs; use fewer."
        )
    return features


def named(of: Mapping[str, Mapping[str, Estimate]]) -> dict[str, Estimate]:
    """The estimates of `gaussianity`, by the names of MEASURES."""
    return {
        "correlation": of["corr"]["mean_top"],
        "spread": of["corr"]["spread"],
        "excess_r2": of["corr"]["excess_r2"],
        "kl": of["kl"]["kl"],
        "kl_excess": of["kl"]["kl_excess"],
        "kl_global": of["global"]["kl"],
        "lag1": of["lag"]["value"],
        "std": of["moments"]["std"],
    }


def stacked(
    rows: Mapping[tuple[str, int], Mapping[str, Estimate]],
    groups: Sequence[str],
    counts: Sequence[int],
    measure: str,
) -> dict[str, NDArray[np.float64]]:
    """A measure over groups and counts: value, lower and upper end, each (groups, counts, *shape), by suffix."""
    table = [[rows[group, k][measure] for k in counts] for group in groups]
    bounds = [[estimate.interval(0.95) for estimate in row] for row in table]
    return {
        "": np.array([[e.value for e in row] for row in table]),
        "_low": np.array([[b[0] for b in row] for row in bounds]),
        "_high": np.array([[b[1] for b in row] for row in bounds]),
    }


def find_floors(found: Findings, context: Context) -> None:
    """What white noise reads at this n."""
    s, n = context.settings, context.num_samples
    found.array("correlation_floor", correlation_floor(n, patch_features(context), s.top_k).mean)
    found.array("kl_floor", kl_floor(n) if n >= 4 else np.nan)


def shown_beside_floor(
    result: xr.Dataset, measure: str, scales: Mapping[str, float], digits: Mapping[str, int], unit: str = ""
) -> Shown:
    """How a table shows a measure: by the table's scales and decimals, with its stored floor where it has one."""
    scale = scales.get(measure, 1.0)
    floors = {"correlation": "correlation_floor", "kl": "kl_floor"}
    floor = float(result[floors[measure]]) * scale if measure in floors else None
    return Shown(digits.get(measure, 3), unit, scale, floor)
