"""What inversions took where they ran, from the receipts of their shards.

Times differ from run to run, so they are in no stored result: a report reads them from the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from taba_core.store import ArtifactGroup, Store


@dataclass(frozen=True)
class InversionTimes:
    """Wall seconds of one inversion.

    Attributes:
      seconds: of an image; NaN where no receipt tells.
      by_shard: the same of each shard.
      machine: processors it was computed on.
    """

    seconds: float = float("nan")
    by_shard: tuple[float, ...] = ()
    machine: str = ""


def inversion_times(group: ArtifactGroup) -> InversionTimes:
    """Times of an inversion; a shard that was computed twice counts as it was computed last."""
    told = {r.shard: r.info for r in group.ledger.receipts() if "inversion_seconds" in r.info}
    if not told:
        return InversionTimes()
    spans = {shard: group.shard_range(shard) for shard in sorted(told)}
    images = {shard: stop - start for shard, (start, stop) in spans.items()}
    seconds = {shard: float(told[shard]["inversion_seconds"]) for shard in images}
    return InversionTimes(
        seconds=sum(seconds.values()) / sum(images.values()),
        by_shard=tuple(seconds[shard] / images[shard] for shard in images),
        machine=", ".join(sorted({str(info.get("processor", "?")) for info in told.values()})),
    )


def times_of(store: Store, names: Mapping[str, str]) -> dict[str, InversionTimes]:
    """Times by key, of the artifacts of these names; none of an artifact that is gone."""
    groups = {group.name: group for group in store.artifacts()}
    return {
        key: inversion_times(groups[name]) if name in groups else InversionTimes()
        for key, name in names.items()
    }
