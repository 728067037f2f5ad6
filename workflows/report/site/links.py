"""Names of pages, and relative links between them: the folder works from a disk and can be moved."""

from __future__ import annotations

import re
from dataclasses import dataclass

INDEX, ITEMS, BESIDE, METHODS = "index", "items", "beside", "methods"
PROVENANCE, GLOSSARY, CITE = "provenance", "glossary", "cite"
# The pages that every report has, in their order, and their titles.
PAGES = {
    INDEX: "Overview",
    ITEMS: "All tables and figures",
    BESIDE: "Beside the paper",
    METHODS: "Methods",
    PROVENANCE: "Provenance",
    GLOSSARY: "Glossary",
    CITE: "How to cite",
}


def path_of(page: str) -> str:
    """Where a page is, relative to the report's folder."""
    return f"{page}.html" if page == INDEX else f"pages/{page}.html"


def study_page(study: str) -> str:
    """The page of a study."""
    return f"study-{slug(study)}"


def model_page(model: str) -> str:
    """The page of a model."""
    return f"model-{slug(model)}"


def claim_anchor(claim: str) -> str:
    """The anchor of a claim."""
    return f"claim-{slug(claim)}"


def term_anchor(term: str) -> str:
    """The anchor of a term in the glossary."""
    return f"term-{slug(term)}"


def slug(text: str) -> str:
    """A text as a part of an anchor or of a file's name: letters, digits and -._~ only."""
    return re.sub(r"[^A-Za-z0-9._~-]+", "-", text).strip("-")


@dataclass(frozen=True)
class Links:
    """Links as they are written on one page."""

    page: str

    @property
    def root(self) -> str:
        """The way from the page to the report's folder."""
        return "" if self.page == INDEX else "../"

    def to(self, page: str, anchor: str = "") -> str:
        """A page, or a place on it."""
        place = f"#{anchor}" if anchor else ""
        if page == self.page and place:
            return place
        beside = INDEX not in (page, self.page)
        return (f"{page}.html" if beside else self.file(path_of(page))) + place

    def at_study(self, name: str) -> bool:
        """Whether the page is that of a study."""
        return self.page == study_page(name)

    def at_model(self, name: str) -> bool:
        """Whether the page is that of a model."""
        return self.page == model_page(name)

    def file(self, path: str) -> str:
        """A file of the report's folder."""
        return self.root + path

    def study(self, name: str, anchor: str = "") -> str:
        """The page of a study, or a place on it."""
        return self.to(study_page(name), anchor)

    def model(self, name: str) -> str:
        """The page of a model."""
        return self.to(model_page(name))

    def claim(self, study: str, claim: str) -> str:
        """The place of a claim."""
        return self.to(study_page(study), claim_anchor(claim))
