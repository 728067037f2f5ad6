"""What the studies of a job leave out by default, what it would cost, and how to ask for it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from taba_core.store import Store
from workflows.analysis.choices import Choice
from workflows.analysis.study import read_settings
from workflows.configuration.numerics import settings_on
from workflows.planning.jobs import Job
from workflows.planning.plan import Plan, make_plan


@dataclass(frozen=True)
class LeftOut:
    """Work that studies do not do unless they are asked.

    Attributes:
      studies: names of those that leave it out.
      choice: what it is, and the setting that asks for it.
      evaluations: image-NFE that the setting adds to the plan.
    """

    studies: tuple[str, ...]
    choice: Choice
    evaluations: int


def left_out(job: Job, plan: Plan, store: Store | None) -> list[LeftOut]:
    """What the studies of a job leave out, each once, with what it adds to the plan."""
    studies: dict[Choice, list[str]] = {}
    for study in job.studies:
        for choice in study.left_out(job.context):
            studies.setdefault(choice, []).append(study.name)
    return [
        LeftOut(tuple(names), choice, _asked(_with(job, choice, store)) - _asked(plan))
        for choice, names in studies.items()
    ]


def _with(job: Job, choice: Choice, store: Store | None) -> Plan:
    """The plan of a job that also asks for what a choice leaves out."""
    name = choice.setting.partition("=")[0]
    kept = [text for text in job.asked.assignments if text.partition("=")[0].strip() != name]
    settings = settings_on(job.asked.device, job.context.card, read_settings([*kept, choice.setting]))
    return make_plan(replace(job.context, settings=settings), job.studies, store, job.asked.device)


def _asked(plan: Plan) -> int:
    """Image-NFE of all that is asked, made or not. What parts of a unit save does not depend on a choice."""
    return sum(planned.sample_evaluations * planned.num_samples for planned in plan.artifacts)
