"""Measured times beside a stored result: they are the ledger's, because they differ from run to run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taba_core.store import Store
from workflows.analysis.costs import times_of

if TYPE_CHECKING:
    import xarray as xr

SECONDS_BY_SHARD = "seconds_by_shard"  # attribute: by row, seconds an image of each shard


def with_times(store: Store, result: xr.Dataset) -> xr.Dataset:
    """The result with `seconds` of an image by row, and the times of every shard in its attributes."""
    import xarray as xr

    rows = [str(name) for name in result["row"].values]
    artifacts = dict(result.attrs["artifacts"])
    times = times_of(store, {row: artifacts[f"latent/{row}"] for row in rows})
    machine = "; ".join(sorted({t.machine for t in times.values() if t.machine}))
    seconds = xr.DataArray(
        [times[row].seconds for row in rows],
        dims=("row",),
        attrs={"units": "s", "long_name": "wall seconds of the inversion of an image", "machine": machine},
    )
    by_shard = {row: list(times[row].by_shard) for row in rows}
    return result.assign(seconds=seconds).assign_attrs({SECONDS_BY_SHARD: by_shard})
