"""The index that the search box reads: a line a place, with the words that find it."""

from __future__ import annotations

import json
from typing import Any

from workflows.analysis.presentation import Run
from workflows.report.site.links import (
    GLOSSARY,
    ITEMS,
    PAGES,
    claim_anchor,
    model_page,
    path_of,
    study_page,
    term_anchor,
)
from workflows.report.site.places import name_of, paper_key, paper_places
from workflows.report.site.sources import source


def search_script(run: Run) -> str:
    """A script that sets the index: pages opened from a disk may not read other files, but scripts they may."""
    lines = [_line(title, page) for page, title in PAGES.items()]
    for place in paper_places(run):
        shown = place["items"]
        target = (study_page(place["study"]), shown[0].id) if shown else (ITEMS, f"place-{place['key']}")
        lines.append(_line(f"{place['name']}. {place['title']}", *target, words=place["key"]))
    for section in run.sections:
        page = study_page(section.study)
        lines.append(_line(f"Study {section.study}: {section.title}", page))
        for item in (*section.tables, *section.figures):
            key = paper_key(item.id)
            told = f"{name_of(key)}: {item.title}" if key else item.title
            lines.append(_line(told, page, item.id, words=item.id))
        for claim in section.claims:
            told = f"Claim {claim.base}{f' ({claim.label})' if claim.label else ''}: {claim.statement}"
            lines.append(_line(told, page, claim_anchor(claim.id), words=claim.base))
    lines += [_line(f"Model {model.title}", model_page(model.name), words=model.name) for model in run.models]
    lines += [
        _line(f"Term: {entry['term']}", GLOSSARY, term_anchor(entry["term"]), words=entry["term"])
        for entry in source("glossary")
    ]
    # ASCII only, so that no setting of a browser can misread the file.
    return f"window.tabaSearch = {json.dumps(lines, separators=(',', ':'))};\n"


def _line(text: str, page: str, anchor: str = "", words: str = "") -> dict[str, Any]:
    line = {"t": text, "h": path_of(page) + (f"#{anchor}" if anchor else "")}
    return line | ({"k": words.lower()} if words else {})
