"""Whether a numerical profile moves what is asked: `fast` is refused where a published number would show it."""

from __future__ import annotations

from collections.abc import Sequence

from taba_core.errors import UsageError
from taba_core.store import Store
from workflows.configuration.drift import EXACT, MOST, STATISTICS, drift_of, needs_drift, too_far
from workflows.configuration.numerics import profile_of
from workflows.planning.jobs import Job

GATED = "fast"


def check_drift(jobs: Sequence[Job], store: Store) -> list[str]:
    """Notes on profiles whose drift nobody has measured.

    Raises:
      UsageError: `fast` would move a statistic of a study by more than a tenth of half its interval.
    """
    notes = []
    for job in jobs:
        spec = job.context.model_spec
        if not needs_drift(spec) or profile_of(job.context)[0] != GATED:
            continue
        drift = drift_of(store, spec)
        if drift is None:
            compiled = " --compiled" if spec.options["compile"] else ""
            weights = "" if job.context.weights is None else f" --weights {job.context.weights}"
            notes.append(
                f"{job.context.title}: how far profile {GATED} moves its statistics is not measured; taba bench "
                f"profile-drift --model {job.asked.model}{weights}{compiled} --store {job.asked.store} measures it."
            )
            continue
        for study in job.studies:
            n = next(iter(study.requests(job.context).values())).samples
            far = too_far(drift, study.profile_statistics, n)
            if far:
                shares = ", ".join(f"{STATISTICS[name]} by {drift.share(name, n):.2g}" for name in far)
                raise UsageError(
                    f"profile={GATED}: it would move numbers of study {study.name} of {job.context.title} by more than "
                    f"{MOST:g} of half their 95 % interval at n={n}: {shares}. Use --set model.profile=reference, or "
                    f"--set model.profile={EXACT}."
                )
    return notes
