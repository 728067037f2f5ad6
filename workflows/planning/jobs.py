"""What a user asked for: studies, store, models, settings; everything that can be refused is refused here."""

from __future__ import annotations

from dataclasses import dataclass, replace

from taba_core.artifacts.training import Training
from taba_core.conventions import no_time_of_the_clean_image
from taba_core.errors import UsageError
from taba_core.models.base import card_with_options, model_notes
from taba_core.store import Store
from workflows.analysis.study import PAPER, Study, find_studies, read_settings
from workflows.configuration.context import Context
from workflows.configuration.given_images import images_notes
from workflows.configuration.numerics import settings_on
from workflows.planning.plan import Plan, make_plan

# Several models by one name. Each is asked for the studies that the paper made with a model of it, or for all ("").
GROUPS_OF_MODELS: dict[str, dict[str, str]] = {
    PAPER: {name: name for name in ("adm-32", "adm-64", "adm-256", "ldm", "dit", "if")},
    "box": {
        "photo-mixture": "",
        "photo-adm": "adm-64",
        "photo-ldm": "ldm",
        "photo-dit": "dit",
        "photo-flow": "dit",
        "photo-if": "if",
    },
}


@dataclass(frozen=True)
class Asked:
    """What a user typed: study names, store, model, method, `--set` texts, and weights in place of the fetched ones.

    `group` is the name that stood for several models, "" for a model named itself; `as_in_paper` keeps only the
    studies the paper made with that model of its own; `budget` is the most bytes to store, as text; `device` is what
    networks are evaluated on, cpu or cuda.
    """

    studies: list[str]
    store: str
    model: str
    method: str
    assignments: list[str]
    weights: str | None = None
    group: str = ""
    as_in_paper: str = ""
    budget: str | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Job:
    """One model's part of what was asked, checked."""

    asked: Asked
    context: Context
    studies: list[Study]

    @property
    def trainings(self) -> list[Training]:
        """Trainings whose networks the job asks, each once."""
        return list(dict.fromkeys(spec for study in self.studies for spec in study.trainings(self.context)))

    def plan(self, store: Store | None) -> Plan:
        """What the job misses in a store; see `workflows.planning.plan.make_plan`."""
        return make_plan(self.context, self.studies, store, self.asked.device)


def default_model(names: list[str], usual: str) -> str:
    """The model that is asked where the user names none: the usual one, or that of studies that train their own."""
    trained = {study.trained_model for study in find_studies(names)}
    return trained.pop() if len(trained) == 1 and "" not in trained else usual


def each_model(asked: Asked, models: list[str]) -> list[Asked]:
    """The same question of several models, in order and without repeats; a group (`paper`, `box`) means its models.

    Raises:
      UsageError: one weights file for several models.
    """
    parts: dict[str, Asked] = {}
    for model in models:
        if model in GROUPS_OF_MODELS:
            parts |= {
                name: replace(asked, model=name, group=model, as_in_paper=like)
                for name, like in GROUPS_OF_MODELS[model].items()
            }
        else:
            parts[model] = replace(asked, model=model)
    if asked.weights is not None and len(parts) > 1:
        raise UsageError(f"--weights {asked.weights} goes with one --model; {len(parts)} were given.")
    return list(parts.values())


def check(asked: Asked) -> Job:
    """A job without its store; nothing is written, weights may be elsewhere.

    Raises:
      UsageError: unknown names or impossible values.
    """
    chosen = find_studies(asked.studies)
    card = card_with_options(asked.model, None)
    settings = settings_on(asked.device, card, read_settings(asked.assignments))
    context = Context(asked.model, asked.method, settings, asked.weights, asked.store)
    context.chosen.check()
    context.chosen.check_guidance(context.guidance)
    context.chosen.check_rules(context.conventions)
    if context.conventions.first_time == "zero" and context.card.schedule.kind != "flow":
        raise UsageError(no_time_of_the_clean_image())
    if asked.as_in_paper:
        chosen = [study for study in chosen if asked.as_in_paper in study.paper_models]
    for study in chosen:
        study.requests(context)
    return Job(asked, context, chosen)


def check_all(parts: list[Asked], *, write: bool) -> tuple[list[Job], Store | None]:
    """Every model's job and the store they share; all are checked before the store is touched.

    Raises:
      UsageError: unknown names, impossible values, models that cannot run here (`write`), or nothing to do.
      StoreError: a store that is not taba's, or not this version's.
    """
    jobs = [job for job in map(check, parts) if job.studies]
    if not jobs:
        names = ", ".join(parts[0].studies)
        raise UsageError(
            f"{names}: the paper made none of them with these models; name the model with --model."
        )
    path = jobs[0].asked.store
    if write:
        for job in jobs:
            if not all(study.trained_model for study in job.studies):
                job.context.check_runnable()
            for study in job.studies:
                study.check_runnable(job.context)
        return jobs, Store.open(path, mode="a")
    return jobs, Store.open(path, mode="r") if Store.is_there(path) else None


def notes_of(jobs: list[Job]) -> list[str]:
    """What a user should know of the models asked for before anything is computed, each line once."""
    notes: list[str] = []
    for context in (job.context for job in jobs):
        notes += model_notes(context.model_spec)
        notes += images_notes(context.given_images, context.settings.num_samples)
    return list(dict.fromkeys(notes))
