"""What a run did of each plan."""

from __future__ import annotations

from dataclasses import dataclass, field

from taba_core.errors import WorkError


class FailedUnitsError(WorkError):
    """Some units failed for good; everything else is stored. Exit code 3."""

    exit_code = 3


@dataclass
class Report:
    """What a run did of a plan.

    Attributes:
      units, evaluations: that were missing.
      analysed, reused: names of studies.
      seconds: wall time of the run; `stages` of its stages by name.
      on_gpu: whether the workers held devices.
      failed: units that failed for good.
    """

    units: int = 0
    evaluations: int = 0
    analysed: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    seconds: float = 0.0
    on_gpu: bool = False
    stages: dict[str, float] = field(default_factory=dict)
    failed: FailedUnitsError | None = None
