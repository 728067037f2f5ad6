"""All pages of a report as text: the overview, one of every study and model, and those across studies."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from workflows.analysis.presentation import PROVENANCE_MEANING, Failure, Run, Section
from workflows.report.notation import format_any, to_html
from workflows.report.site import beside, models, places, scorecard
from workflows.report.site.items import BADGE, badge, claim_view, figure_view, flat, table_view
from workflows.report.site.links import (
    BESIDE,
    CITE,
    GLOSSARY,
    INDEX,
    ITEMS,
    METHODS,
    PAGES,
    PROVENANCE,
    Links,
    model_page,
    path_of,
    study_page,
    term_anchor,
)
from workflows.report.site.overview import argument
from workflows.report.site.search import search_script
from workflows.report.site.sources import source
from workflows.report.tables import PROVENANCE_MARK
from workflows.report.verdicts import verdict_table

_FOLDER = Path(__file__).parent
_ASSETS = ("site.css", "site.js")


def build_site(run: Run, folder: Path, failures: list[Failure]) -> dict[str, str]:
    """Every file of the site by its path in the report's folder, the overview last.

    Pages link to the pictures and tables beside them (`folder`/figures, `folder`/tables) and to nothing else on the
    disk. What is among `failures` is named in its place; parts that only a page cannot show are added to them.
    """
    writer = _Writer(run, folder, failures, _environment())
    # Studies come first: what cannot be shown there is not shown elsewhere.
    pages = {study_page(section.study): writer.study(section) for section in run.sections}
    pages |= {model_page(model.name): writer.model(model) for model in run.models}
    pages |= {
        ITEMS: writer.items(),
        BESIDE: writer.beside(),
        METHODS: writer.methods(),
        PROVENANCE: writer.provenance(),
        GLOSSARY: writer.glossary(),
        CITE: writer.render(CITE, PAGES[CITE], version=version("taba")),
        INDEX: writer.index(),
    }
    assets = {f"assets/{name}": (_FOLDER / "assets" / name).read_text(encoding="utf-8") for name in _ASSETS}
    assets["assets/search.js"] = search_script(run)
    return assets | {path_of(page): text for page, text in pages.items()}


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["maths"] = lambda text: _code(Markup(to_html(text)))
    environment.filters["shown"] = format_any
    environment.filters["code"] = _code
    return environment


def _code(text: str | Markup) -> Markup:
    """Text, or HTML, with what stands between backquotes as code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


@dataclass(frozen=True)
class _Writer:
    run: Run
    folder: Path
    failures: list[Failure]
    environment: jinja2.Environment

    def render(self, page: str, title: str, template: str = "", **content: Any) -> str:
        """A page, from the template of its name or another."""
        made = self.environment.get_template(f"{template or page}.html.j2")
        marks = [(PROVENANCE_MARK[name], name, text) for name, text in PROVENANCE_MEANING.items()]
        common = {
            "run": self.run,
            "link": Links(page),
            "page": page,
            "pages": [(title, page) for page, title in PAGES.items()],
            "marks": marks,
        }
        return made.render(title=title, **common, **content)

    def index(self) -> str:
        lost = {failure.id for failure in self.failures if failure.kind == "figure"}
        steps = argument(self.run, places.drawn_figures(self.run, lost))
        shown = [step["figure"] for step in steps if step.get("figure")]
        sizes = {figure.id: self._size(figure) for figure in shown}
        verdicts = [claim.verdict for claim in self.run.claims]
        return self.render(
            INDEX,
            self.run.title,
            steps=steps,
            sizes=sizes,
            failures=self.failures,
            tally=[(badge(name), verdicts.count(name)) for name in BADGE if name in verdicts],
            verdicts=verdict_table(self.run.claims),
            model_groups=models.by_group(self.run.models),
        )

    def _size(self, figure: Any) -> tuple[int, int]:
        view = figure_view(figure, self.folder)
        return view["width"], view["height"]

    def study(self, section: Section) -> str:
        page = study_page(section.study)
        parts = self.environment.get_template("parts.html.j2").make_module({"link": Links(page)})
        sortable = section.study == scorecard.STUDY
        queries = section.queries
        contents = [
            *(
                self._item(
                    "table",
                    t,
                    section,
                    parts,
                    lambda t=t: parts.full_table(table_view(t, queries.get(t.id)), sortable),
                )
                for t in section.tables
            ),
            *(
                self._item(
                    "figure",
                    f,
                    section,
                    parts,
                    lambda f=f: parts.figure(figure_view(f, self.folder, queries.get(f.id))),
                )
                for f in section.figures
            ),
        ]
        claims = [claim_view(claim) for claim in section.claims]
        text = " ".join([section.question, *(str(item["html"]) for item in contents)])
        return self.render(
            page,
            section.title,
            "study",
            section=section,
            contents=contents,
            claims=claims,
            command=places.command(self.run, section.study) if section.results else "",
            results=[(result.label, result.name) for result in section.results],
            provenance=flat(section.provenance),
            terms=terms_in(text),
        )

    def _item(
        self, kind: Any, item: Any, section: Section, parts: Any, make: Callable[[], Any]
    ) -> dict[str, Any]:
        """A table or figure as the page shows it, or what is shown in its place."""
        known = [failure for failure in self.failures if (failure.kind, failure.id) == (kind, item.id)]
        if not known:
            try:
                return {"id": item.id, "heading": parts.heading(item.title), "html": make()}
            except Exception as error:  # whatever is wrong with one part, the others are shown
                known = [Failure.of(kind, item.id, section.study, item.title, error)]
                self.failures.extend(known)
        return {"id": item.id, "heading": parts.plain(item.title), "html": parts.failed(known[0])}

    def model(self, model: Any) -> str:
        studies = models.studies_of(self.run, model)
        for study in studies:
            study["tables"] = [table_view(table) for table in study["tables"] if not self._failed(table)]
            study["figures"] = [figure for figure in study["figures"] if not self._failed(figure)]
        return self.render(
            model_page(model.name),
            model.title,
            "model",
            model=model,
            facts_of=[(name, format_any(value)) for name, value in model.facts],
            studies=studies,
            tally=models.tally(self.run, model),
        )

    def _failed(self, item: Any) -> bool:
        return any(failure.id == item.id for failure in self.failures)

    def items(self) -> str:
        return self.render(
            ITEMS,
            PAGES[ITEMS],
            places=places.paper_places(self.run),
            others=places.others(self.run),
            ran={section.study for section in self.run.sections},
        )

    def beside(self) -> str:
        table = verdict_table(self.run.claims)
        return self.render(
            BESIDE,
            PAGES[BESIDE],
            claims=beside.claim_rows(self.run),
            sentences=table.sentences if table else (),
            numbers=beside.recovered_numbers(self.run),
            known={model.name for model in self.run.models},
        )

    def methods(self) -> str:
        cards = scorecard.scorecards(self.run)
        for card in cards:
            card["table"] = table_view(card["table"]) if card["table"] else None
            drawn = [figure for figure in card["pictures"] if not self._failed(figure)]
            card["pictures"] = [figure_view(figure, self.folder) for figure in drawn]
        return self.render(
            METHODS, PAGES[METHODS], cards=cards, command=places.command(self.run, scorecard.STUDY)
        )

    def provenance(self) -> str:
        told: Mapping[str, Any] = self.run.provenance
        return self.render(
            PROVENANCE,
            PAGES[PROVENANCE],
            provenance=flat({name: value for name, value in told.items() if name != "runs"}),
            runs=[(title, flat(entry)) for title, entry in told.get("runs", {}).items()],
            results=[(section, result) for section in self.run.sections for result in section.results],
        )

    def glossary(self) -> str:
        entries = [entry | {"anchor": term_anchor(entry["term"])} for entry in source("glossary")]
        return self.render(GLOSSARY, PAGES[GLOSSARY], entries=entries)


def terms_in(html: str) -> list[tuple[str, str]]:
    """The terms of the glossary that a page uses, with their anchors."""
    text = re.sub(r"<details.*?</details>", " ", html, flags=re.DOTALL)
    text = re.sub(r"<sub>(.*?)</sub>", r"_\1", re.sub(r"<sup>(.*?)</sup>", r"^\1", text))
    text = re.sub(r"<[^>]*>", "", text)
    return [
        (entry["term"], term_anchor(entry["term"]))
        for entry in source("glossary")
        if any(word in text for word in entry["words"])
    ]
