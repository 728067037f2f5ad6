"""What inversions cost where they ran: from stored counts and the receipts of their shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from workflows.inputs import Inputs


@dataclass(frozen=True)
class InversionCosts:
    """Evaluations and seconds of one inversion.

    Attributes:
      least, most: evaluations of an image.
      seconds: wall seconds an image; NaN where no receipt tells.
      by_shard: the same of each shard.
      machine: processors it was computed on.
    """

    least: int
    most: int
    seconds: float
    by_shard: tuple[float, ...]
    machine: str


def inversion_costs(inputs: Inputs, name: str) -> InversionCosts:
    """Costs of the inversion that was asked for under `name`.

    A shard that was computed twice counts as it was computed last.
    """
    group = inputs.store.open_artifact(inputs.artifact(name))
    evaluations = inputs.head(name, "evaluations", inputs.num_samples)
    told = {r.shard: r.info for r in group.ledger.receipts() if "inversion_seconds" in r.info}
    images = {shard: int(np.diff(group.shard_range(shard))[0]) for shard in told}
    by_shard = tuple(float(told[shard]["inversion_seconds"]) / images[shard] for shard in sorted(told))
    total = sum(float(info["inversion_seconds"]) for info in told.values())
    return InversionCosts(
        least=int(evaluations.min()),
        most=int(evaluations.max()),
        seconds=total / sum(images.values()) if told else float("nan"),
        by_shard=by_shard,
        machine=", ".join(sorted({str(info.get("processor", "?")) for info in told.values()})),
    )
