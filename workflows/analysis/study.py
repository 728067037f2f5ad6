"""What a study is: the artifacts it asks for, how they are reduced, and how the result is shown.

A study is named after its question. `requests` declares artifacts, `analyse` reduces their stores to one dataset
(kept in the same store), `present` turns that dataset into tables, figures and claims. The three meet only
through stored data, so a report can be written again at any time without the arrays.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from taba_core.artifacts.base import SCHEMA_VERSION
from taba_core.errors import unknown_name
from taba_core.found import import_modules
from workflows.configuration.context import Context
from workflows.configuration.drift import STATISTICS
from workflows.configuration.options import Options
from workflows.configuration.settings import Settings, parse_settings

if TYPE_CHECKING:
    import xarray as xr

    from taba_core.artifacts.request import Request
    from taba_core.artifacts.training import Training
    from taba_core.store import Store
    from workflows.analysis.choices import Choice
    from workflows.analysis.inputs import Inputs
    from workflows.analysis.presentation import Claim, Figure, Section, Table


class Study(ABC):
    """One question of the paper. Subclasses are registered by `@register`."""

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    title: ClassVar[str]
    question: ClassVar[str]
    paper_section: ClassVar[str]
    paper_steps: ClassVar[int] = 100
    # The paper's models it was made with; `--model paper` asks a model only for what the paper did with it.
    paper_models: ClassVar[tuple[str, ...]] = ("adm-32", "adm-64", "adm-256", "ldm", "dit", "if")
    # Takes minutes where the others take seconds: in `paper` and by its name, in no other group.
    costly: ClassVar[bool] = False
    # Asked by its name only, in no group: it needs something that not every model has.
    by_name_only: ClassVar[bool] = False
    # Asks networks that are trained in the store; the model it takes where the user names none.
    trained_model: ClassVar[str] = ""
    # Raise it when the numbers of a finished study would change: stored results of another version are not read.
    version: ClassVar[int] = 1
    # What it reads alone, set as STUDY.OPTION=VALUE; and which settings of the analysis its numbers depend on.
    options: ClassVar[type[Options] | None] = None
    # Whether its options enter the key of its result; they need not where each decides which artifacts there are.
    options_in_key: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ("patch_size", "top_k", "bootstrap_replicates")

    # Of the statistics by whose drift a numerical profile is judged (`workflows.configuration.drift`), its own.
    profile_statistics: ClassVar[tuple[str, ...]] = tuple(STATISTICS)

    @abstractmethod
    def requests(self, context: Context) -> Mapping[str, Request]:
        """Artifacts by the name under which `analyse` finds them."""

    @abstractmethod
    def analyse(self, inputs: Inputs, context: Context) -> xr.Dataset:
        """Reduce the artifacts to everything the tables and figures need, claims included."""

    @abstractmethod
    def present(self, results: Sequence[xr.Dataset]) -> Section:
        """Tables, figures and claims from stored results alone; one result a model (or setting)."""

    def trainings(self, context: Context) -> tuple[Training, ...]:
        """Trainings whose networks the study asks; they are trained before the plan is made."""
        return ()

    def left_out(self, context: Context) -> tuple[Choice, ...]:
        """What the study leaves out under these settings, and how to ask for it; a plan prints it with its hours."""
        return ()

    def check_runnable(self, context: Context) -> None:  # noqa: B027  most studies need nothing of their own
        """Refuse (UsageError) what this study can plan here but not run: something of its own that is missing."""

    def annotate(self, store: Store, result: xr.Dataset) -> xr.Dataset:
        """A stored result with what only a report tells: facts of where it ran, which differ from run to run."""
        return result

    def section(
        self,
        results: Sequence[xr.Dataset],
        *,
        tables: Sequence[Table] = (),
        figures: Sequence[Figure] = (),
        claims: Sequence[Claim] = (),
        documents: Mapping[str, Any] = MappingProxyType({}),
    ) -> Section:
        """This study's part of the report, with the claims stored in the results and those on what a report adds."""
        from workflows.analysis.findings import all_claims, row_labels
        from workflows.analysis.presentation import Section

        return Section(
            self.name,
            self.title,
            self.question,
            self.paper_section,
            tables=tuple(tables),
            figures=tuple(figures),
            claims=(*all_claims(results, row_labels(results)), *claims),
            documents=documents,
        )

    def section_of_each(
        self,
        results: Sequence[xr.Dataset],
        tables_of: Callable[..., tuple[Table, ...]],
        figures_of: Callable[..., tuple[Figure, ...]],
    ) -> Section:
        """This study's part of the report where every table and figure shows one result; see `for_each`."""
        from workflows.analysis.findings import for_each, row_labels

        labels = row_labels(results)
        return self.section(
            results,
            tables=for_each(tables_of, results, labels),
            figures=for_each(figures_of, results, labels),
        )

    def option_key(self, context: Context) -> dict[str, Any]:
        """The options that enter the result's key: all or none. A study may choose some."""
        if self.options is None or not self.options_in_key:
            return {}
        return {"options": context.options(self.options).model_dump(mode="json")}

    def analysis_settings(self, context: Context) -> dict[str, Any]:
        """What only the analysis reads, as it enters the result's key: of settings it does not read the default."""
        read = {name: getattr(context.settings, name) for name in self.reads}
        return {
            key: read.get(name, Settings.model_fields[name].default) for name, key in _ANALYSIS_KEYS.items()
        } | self.option_key(context)

    def result_key(self, context: Context) -> str:
        """Content key of the result: study, version, model, artifacts, conventions, method, analysis."""
        parts = {
            "schema": SCHEMA_VERSION,
            "study": self.name,
            "version": self.version,
            "model": json.loads(context.model_spec.canonical()),
            "artifacts": {
                name: [request.artifact.key, request.samples]
                for name, request in self.requests(context).items()
                if name not in KEPT_TO_LOOK_AT
            },
            "conventions": context.conventions.model_dump(mode="json"),
            "method": context.chosen.key,
            "analysis": self.analysis_settings(context),
        }
        text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    def result_name(self, context: Context) -> str:
        """Group name of the result in the store: <model>-<study>-<key>."""
        return f"{context.name}-{self.name}-{self.result_key(context)}"


PAPER = "paper"
# Names of requests that no number of a result depends on: whole paths, kept for whoever queries the store.
KEPT_TO_LOOK_AT = ("paths", "predictions")
# Groups of studies: the sections and appendices of the paper a group holds (all where there is none).
GROUPS: dict[str, tuple[str, ...]] = {
    PAPER: (),
    "main-text": ("2", "3", "4"),
    "paper-analysis": ("3", "E", "F", "H", "I", "J", "N"),
}
# Settings that the analysis alone reads -> their names in the keys of results.
_ANALYSIS_KEYS = {"patch_size": "patch_size", "top_k": "top_k", "bootstrap_replicates": "replicates"}
_REGISTRY: dict[str, Study] = {}


def register(cls: type[Study]) -> type[Study]:
    """Class decorator: make a study known by its name.

    Raises:
      ValueError: options declared for a study of another name.
    """
    if cls.options is not None and cls.options.study != cls.name:
        raise ValueError(f"study {cls.name}: its options are declared for study {cls.options.study}.")
    _REGISTRY[cls.name] = cls()
    return cls


def studies() -> dict[str, Study]:
    """All studies by name, in the paper's order: those of the modules and packages of `workflows.studies`."""
    import_modules("workflows.studies")
    return {study.name: study for study in sorted(_REGISTRY.values(), key=_place)}


def read_settings(assignments: Sequence[str]) -> Settings:
    """Settings from `--set` texts, options of all studies among them.

    Raises:
      UsageError: as `parse_settings`.
    """
    return parse_settings(assignments, declared_options(studies().values()))


def declared_options(chosen: Iterable[Study]) -> list[type[Options]]:
    """The options that these studies declare."""
    return [study.options for study in chosen if study.options is not None]


def _place(study: Study) -> tuple[bool, bool, bool, str, str]:
    """Those in no group last, costly ones before them; else by section (appendices last), then by the first item."""
    section = study.paper_section
    first = study.aliases[0] if study.aliases else study.name
    return study.by_name_only, study.costly, section[0].isalpha(), section, first


def find_studies(names: list[str]) -> list[Study]:
    """Studies for what a user typed: a name, an alias such as table2 or fig4, or one of GROUPS (`paper` is all).

    Raises:
      UsageError: an unknown name, with the nearest names.
    """
    known = studies()
    by_alias = {alias: study for study in known.values() for alias in (study.name, *study.aliases)}
    chosen: dict[str, Study] = {}
    for name in names:
        if name in GROUPS:
            chosen.update({study.name: study for study in known.values() if in_group(study, name)})
        elif name in by_alias:
            chosen[by_alias[name].name] = by_alias[name]
        else:
            raise unknown_name("study", name, [*by_alias, *GROUPS])
    return [study for name, study in known.items() if name in chosen]


def in_group(study: Study, group: str) -> bool:
    """Whether a study's section ("3.1", "F") is one of the group's ("3", "F"); a costly one is in `paper` only."""
    if study.by_name_only:
        return False
    sections = GROUPS[group]
    return not sections or (not study.costly and study.paper_section.split(".")[0] in sections)
