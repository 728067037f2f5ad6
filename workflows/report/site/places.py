"""Every table and figure of the paper: where it is in the report, or what would fill it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from taba_core.models.catalog import list_cards
from workflows.analysis.presentation import Figure, Run, Section, Table
from workflows.report.site.sources import source

if TYPE_CHECKING:
    from workflows.analysis.study import Study

# Models that a study asks of a user who names none, where the default one cannot fill it.
_MODELS = {"edits": "photo-dit", "compressibility": "photo-dit", "stochastic-edits": "photo-dit"}
Item = Table | Figure


def paper_places(run: Run) -> list[dict[str, Any]]:
    """Tables 1 to 13 and Figures 1 to 23 in order: number, title, study, the items that show it, or how to fill it."""
    of_alias, sections = _studies_by_alias(), {section.study: section for section in run.sections}
    places = []
    for key, entry in source("paper_items").items():
        study = of_alias[key]
        section = sections.get(study.name)
        shown = items_of(key, section) if section else []
        places.append(
            {
                "key": key,
                "name": name_of(key),
                "title": entry["title"],
                "study": study.name,
                "items": shown,
                "why": "" if shown else _why_not(key, entry, study, section),
                "command": command(run, study.name),
                "papers": paper_command(run, study),
                "data": entry.get("data", ""),
            }
        )
    return places


def name_of(key: str) -> str:
    """Table 7 of table7, Figure 12 of fig12."""
    kind, number = re.fullmatch(r"(table|fig)(\d+)", key).groups()  # type: ignore[union-attr]
    return f"{'Table' if kind == 'table' else 'Figure'} {number}"


def paper_key(item: str) -> str:
    """The key of the paper's table or figure that an item belongs to: fig4 of fig4a-3f2a; "" of others."""
    match = re.match(r"(table|fig)(\d+)(?![0-9])", item)
    return match.group(0) if match else ""


def number_of(item: str) -> str:
    """Table 2 of an item that is the paper's own Table 2, of any result; "" of its companions and of all others."""
    own = re.fullmatch(r"((?:table|fig)\d+)[a-z]?(-[0-9a-f]{12})?", item)
    return name_of(own[1]) if own else ""


def items_of(key: str, section: Section) -> list[Item]:
    """The items of a section that show one of the paper's, and not what accompanies it."""
    ends = {"", *(f"-{result.key}" for result in section.results)}
    pattern = re.compile(rf"{key}[a-z]?(-.*)?")
    matching = [i for i in (*section.tables, *section.figures) if (m := pattern.fullmatch(i.id)) and m]
    exact = [i for i in matching if (pattern.fullmatch(i.id)[1] or "") in ends]  # type: ignore[index]
    return exact or matching


def others(run: Run) -> list[tuple[Section, list[Item]]]:
    """Of every study the tables and figures that the paper does not have."""
    shown = {item.id for place in paper_places(run) for item in place["items"]}
    left = [
        (section, [i for i in (*section.tables, *section.figures) if i.id not in shown])
        for section in run.sections
    ]
    return [(section, items) for section, items in left if items]


def command(run: Run, study: str, models: str = "") -> str:
    """What fills a study on this store."""
    model = models or _MODELS.get(study, "")
    return f"taba run {study} --store {run.store}" + (f" --model {model}" if model else "")


def paper_command(run: Run, study: Study) -> str:
    """What fills a study with the paper's own models, "" where it has none; their weights come first."""
    known = {card.name: card for card in list_cards()}
    models = [name for name in study.paper_models if name in known]
    if not models or study.trained_model:
        return ""
    chosen = " ".join(f"--model {name}" for name in models)
    return f"taba fetch {' '.join(models)} && taba run {study.name} --store {run.store} {chosen}"


def _why_not(key: str, entry: Mapping[str, Any], study: Study, section: Section | None) -> str:
    if section is None:
        return f"Study {study.name} was not run in this store."
    if section.failure is not None:
        return f"Study {study.name} was run, but its part of the report could not be made."
    models = ", ".join(result.label for result in section.results)
    only = entry.get("only", "")
    return f"Study {study.name} was run on {models or 'no model'}, which does not fill {name_of(key)}. {only}".strip()


def _studies_by_alias() -> dict[str, Study]:
    from workflows.analysis.study import studies

    return {alias: study for study in studies().values() for alias in study.aliases}


def drawn_figures(run: Run, failed: Iterable[str]) -> list[str]:
    """Ids of all figures that have a picture."""
    lost = set(failed)
    return [f.id for section in run.sections for f in section.figures if f.id not in lost]
