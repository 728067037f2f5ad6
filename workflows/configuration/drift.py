"""How far a numerical profile moves statistics from those under `exact`: measured once, kept in the store.

`taba bench profile-drift --store STORE` samples and inverts the same noise under both profiles. The difference of a
statistic is that of paired runs, so a few images tell it. A statistic's 95 % interval narrows with the root of n, so
the same drift is a larger share of the interval of a study with more images.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from taba_core.model_spec import ModelSpec

if TYPE_CHECKING:
    from taba_core.store import Store
    from taba_core.store.place import Place

EXACT = "exact"
MOST = 0.1  # of half an interval: more than that would show in a published number
FOLDER = "drift"
STATISTICS: Mapping[str, str] = {
    "correlation": "correlation of latents (Table 2)",
    "lag1": "signed lag-1 of latents",
    "error": "absolute error, plain (Table 3)",
    "std": "standard deviation, plain (Table 3)",
}


class Moved(NamedTuple):
    """A statistic under `exact`, under the profile, and half of its 95 % interval at the n of the measurement."""

    exact: float
    value: float
    half: float


class Drift(BaseModel):
    """What one profile does to one model.

    Attributes:
      model, fingerprint: the network.
      profile, compiled: the profile's name, and whether the network was compiled.
      n, T: images and steps of the measurement.
      device: where it was made.
      errors: RMS of the difference of one evaluation over the RMS of the prediction under `exact`, at the levels
        .02, .25, .5, .75 and .98 of the schedule.
      statistics: by name in `STATISTICS`.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    fingerprint: str
    profile: str
    compiled: bool
    n: int = Field(ge=2)
    T: int = Field(ge=1)
    device: str
    errors: tuple[float, ...]
    statistics: dict[str, Moved]

    def share(self, statistic: str, n: int) -> float:
        """|value - exact| over half of the interval that the statistic has at n images."""
        moved = self.statistics[statistic]
        half = moved.half * math.sqrt(self.n / n)
        return abs(moved.value - moved.exact) / half if half else math.inf * (moved.value != moved.exact or 0)

    def text(self, n: int) -> str:
        """One line for under a table of n images."""
        shares = ", ".join(f"{name} {self.share(name, n):.2g}" for name in self.statistics)
        return (
            f"drift of {self.profile} from {EXACT} in half-intervals at this n: {shares}; an evaluation differs by "
            f"{min(self.errors):.1e} to {max(self.errors):.1e} (measured with n={self.n}, T={self.T})"
        )


def drift_name(spec: ModelSpec) -> str:
    """The file of the drift of a network under its profile."""
    # As keys call the profile: what was measured of an earlier arithmetic of its is not taken for it.
    identity = [spec.name, spec.fingerprint, spec.options["profile"], spec.options["compile"]]
    return hashlib.blake2b(json.dumps(identity).encode(), digest_size=8).hexdigest() + ".json"


def write_drift(store: Store, spec: ModelSpec, drift: Drift) -> None:
    """Keep what was measured of a spec; by whoever holds the store's lease."""
    from taba_core.store.place import json_bytes

    folder = _folder(store)
    folder.make()
    (folder / drift_name(spec)).write_atomic(json_bytes(drift.model_dump(mode="json")))


def drift_of(store: Store, spec: ModelSpec) -> Drift | None:
    """What was measured of a spec; None where nothing was, or there is nothing to measure: closed forms, `exact`."""
    if not needs_drift(spec):
        return None
    name = drift_name(spec)
    held = _folder(store).read_existing([name])
    return Drift.model_validate_json(held[name]) if name in held else None


def _folder(store: Store) -> Place:
    from taba_core.store.files import LEDGER_DIRECTORY

    return store.place / LEDGER_DIRECTORY / FOLDER


def needs_drift(spec: ModelSpec) -> bool:
    """Whether a network is evaluated under another profile than `exact`, or compiled."""
    return "profile" in spec.options and (spec.options["profile"] != EXACT or bool(spec.options["compile"]))


def drift_line(store: Store, spec: ModelSpec, n: int) -> str:
    """What is printed under a table of n images; "" where there is no drift."""
    if not needs_drift(spec):
        return ""
    drift = drift_of(store, spec)
    return f"drift from {EXACT} not measured" if drift is None else drift.text(n)


def too_far(drift: Drift, statistics: Iterable[str], n: int) -> list[str]:
    """The statistics that a profile moves by more than `MOST` of half their interval at n images."""
    return [name for name in statistics if drift.share(name, n) > MOST]
