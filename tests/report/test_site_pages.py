"""The pages of a small run: complete, linked, honest about what was not run, and numbers that their code finds."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from read_pages import broken_links, pages_of
from sample_report import correlation_table, sample_run

from workflows.analysis import published
from workflows.analysis.presentation import Cell, Model, Section, StoredResult
from workflows.analysis.study import studies
from workflows.report.model_groups import group_of
from workflows.report.queries import of_item
from workflows.report.site import beside, models, overview, places, scorecard
from workflows.report.site.build import terms_in
from workflows.report.site.sources import evidence, source

PAGES = {
    f"pages/{name}.html"
    for name in (
        "items", "beside", "methods", "provenance", "glossary", "cite", "model-gaussian", "study-correlation",
        "study-regions", "study-step-error", "study-fix",
    )
}  # fmt: skip


@pytest.fixture(scope="module")
def pages(site):
    return pages_of(site)


def test_every_study_and_model_has_a_page_and_no_link_is_broken(site, pages):
    assert set(pages) == {"index.html", *PAGES}
    assert broken_links(site, pages) == []
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) < 25e6


def test_pages_read_without_a_browser(pages):
    """Ids are unique, headings descend one level at a time, pictures are described, boxes that scroll have a name."""
    for name, page in pages.items():
        assert len(page.ids) == len(set(page.ids)), name
        assert page.headings[0] == 1 and page.headings.count(1) == 1, name
        steps = [b - a for a, b in zip(page.headings, page.headings[1:], strict=False)]
        assert all(step <= 1 for step in steps), (name, page.headings)
        assert all(image["alt"] for image in page.images if "src" in image), name
        boxes = [values for tag, values in page.tags if values.get("class") == "scroll"]
        assert all(box["tabindex"] == "0" and box["aria-label"] for box in boxes), name
        assert not [link for link in page.loaded if link.startswith(("http", "//"))], name


def test_nothing_is_hidden_that_only_a_script_would_show(pages):
    for name, page in pages.items():
        hidden = [values.get("class") or values.get("id") for tag, values in page.tags if "hidden" in values]
        assert hidden == ["search", "found"], name


# ------------------------------------------------------------------ overview


def test_the_overview_has_eight_sentences_filled_or_with_the_command_that_fills_them(site, pages):
    page = pages["index.html"]
    assert [f"argument-{i}" for i in range(1, 9)] == [i for i in page.ids if i.startswith("argument-")]
    ran = ("correlation", "regions", "step-error", "fix")
    for study in (entry["study"] for entry in source("argument")):
        linked = f"pages/study-{study}.html" in page.links
        assert linked == (study in ran)
        assert (f"taba run {study} --store {site.parent}" in page.text) == (study not in ran)
    assert {"figures/fig1.webp", "figures/fig2.webp", "figures/fig4a.webp", "figures/table4-sweep.webp"} == {
        image["src"] for image in page.images if "src" in image
    }


def test_the_numbers_of_the_overview_are_those_of_the_tables(site):
    records = json.loads((site / "results.json").read_text())
    text = (site / "index.html").read_text()
    for item, column in (("table2", "latent"), ("table3", "std_plain"), ("table3", "std_non_plain")):
        (record,) = [
            r for r in records if (r["item"], r["row"], r["column"]) == (item, "Gaussian field", column)
        ]
        assert f"{record['value']:.3f}" in text
        ends = record["ci95"]  # so few images give a correlation no interval
        assert None in ends or "[{:.3f}, {:.3f}]".format(*ends) in text
    assert "not run" in text  # no network was asked


def test_every_sentence_names_claims_figures_and_columns_that_its_study_has():
    """A sentence that nothing could fill would say nothing."""
    known = studies()
    for entry in source("argument"):
        assert entry["study"] in known
        assert entry["sentence"].endswith(".") and entry["claims"] and entry["figures"] and entry["numbers"]


def test_verdicts_are_counted_by_group_of_models():
    run = sample_run()
    claims = [
        replace(run.claims[0], model=model, verdict=verdict)
        for model, verdict in (("gaussian", "holds"), ("photo-dit", "fails"), ("photo-ldm", "holds"), ("dit", "holds"))
    ]  # fmt: skip
    told = overview.verdicts_by_group(claims)
    assert [(group["name"], [(b["verdict"], count) for b, count in group["tally"]]) for group in told] == [
        ("Closed-form models", [("holds", 1)]),
        ("Small trained networks", [("holds", 1), ("fails", 1)]),
        ("Real models", [("holds", 1)]),
    ]
    assert group_of("somebody-s-own-network") == "Real models"


# ------------------------------------------------------------------ all tables and figures


def test_every_table_and_figure_of_the_paper_has_a_place(site, pages):
    page = pages["pages/items.html"]
    names = [f"table{i}" for i in range(1, 14)] + [f"fig{i}" for i in range(1, 24)]
    assert [i for i in page.ids if i.startswith("place-")] == [f"place-{name}" for name in names]
    filled = {"table2", "table3", "table4", "table11", "fig1", "fig2", "fig4", "fig12", "fig22"}
    rows = (site / "pages" / "items.html").read_text().split("<tr id=")[1:]
    for row in rows:
        key = re.match(r'"place-(\w+)"', row)[1]
        assert ("was not run in this store" in row) == (key not in filled), key
        assert ("taba run " in row) == (key not in filled)


def test_commands_of_missing_places_are_commands_of_their_studies():
    known = studies()
    for place in places.paper_places(sample_run()):
        assert {place["key"], place["study"]} & {*known[place["study"]].aliases}
        if not place["items"]:
            assert place["command"].startswith(f"taba run {place['study']} --store ")
    assert places.name_of("fig12") == "Figure 12"
    assert places.number_of("fig4a") == places.number_of("fig4b-0123456789ab") == "Figure 4"
    assert places.number_of("table2-unbiased") == places.number_of("samples") == ""


def test_where_a_study_was_run_on_models_that_do_not_fill_an_item_the_row_says_which():
    result = StoredResult("gaussian-mapping-1", "gaussian", "Gaussian field", 8, 10)
    run = replace(sample_run(), sections=(Section("mapping", "M", "?", results=(result,)),))
    (place,) = [place for place in places.paper_places(run) if place["key"] == "fig15"]
    assert (
        "run on Gaussian field, which does not fill Figure 15" in place["why"]
        and "fewer than 64 pixels" in place["why"]
    )
    assert "--model adm-32" in place["papers"] and place["papers"].startswith("taba fetch adm-32")


# ------------------------------------------------------------------ beside the paper


def test_all_claims_stand_beside_the_papers_evidence(site, pages):
    claims = json.loads((site / "claims.json").read_text())
    page = pages["pages/beside.html"]
    assert claims
    for claim in claims:
        assert claim["id"] in page.text
        assert evidence(claim["id"]), claim["id"]
    assert "Table 2 (from a note on a later version)" in page.text


def test_a_recovered_number_has_ours_beside_it_only_at_the_papers_model_n_and_t():
    place = ("2", "ADM-64", "Latent")
    table = correlation_table()  # n = 192, T = 50: the paper's value stands in its cell, at another n and T
    section = Section("correlation", "C", "?", tables=(table,))
    at_paper = replace(table, n=8192, T=100)
    for shown, ours in ((table, False), (at_paper, True)):
        run = replace(sample_run(), sections=(replace(section, tables=(shown,)),))
        (of2,) = [entry for entry in beside.recovered_numbers(run) if entry["number"] == "2"]
        (row,) = [r for r in of2["rows"] if (r["row"], r["column"]) == place[1:]]
        assert row["paper"] == "0.126" and bool(row["ours"]) is ours
        assert ("n = 192, T = 50" in row["why"]) is not ours
        assert all(r["ours"] is None for r in of2["rows"] if r["row"] == "LDM")
    assert published.paper_run(("2", "SDXL", "Noise")) == (10240, 100)
    assert published.paper_run(("5", "IF / Plain", "x")) == (5120, 50)


# ------------------------------------------------------------------ models and methods


def test_a_model_has_its_card_its_claims_and_its_rows(site, pages):
    page = pages["pages/model-gaussian.html"]
    assert "closed-form model" in page.text and "Gaussian field" in page.text
    of_gaussian = [c for c in json.loads((site / "claims.json").read_text()) if c["model"] == "gaussian"]
    linked = {link for link in page.links if "#claim-" in link}
    assert len(linked) == len(of_gaussian)


def test_rows_of_a_model_are_those_of_its_label_or_group_or_columns():
    table = correlation_table()
    results = tuple(StoredResult(f"{m}-correlation-{i}", m, label, 192, 50)
                    for i, (m, label) in enumerate((("adm-64", "ADM-64"), ("dit", "DiT"))))  # fmt: skip
    section = Section("correlation", "C", "?", tables=(table,), results=results)
    assert models.rows_of(table, section, "dit").rows == ("DiT",)
    assert models.rows_of(table, section, "ldm") is None
    grouped = replace(table, row_groups=("", "ADM-64", "DiT"))
    assert models.rows_of(grouped, section, "adm-64").row_groups == ("ADM-64",)
    one = replace(table, rows=("a", "b", "c"), columns=(
        replace(table.columns[0], label="DiT"), *table.columns[1:]))  # fmt: skip
    assert [column.label for column in models.rows_of(one, section, "dit").columns] == ["DiT"]
    # A table that ends in the key of a result is that result's.
    own = replace(table, id="table2-1")
    assert of_item("table2-1", replace(section, tables=(own,))) == results[1:]
    assert models.rows_of(own, replace(section, tables=(table, own)), "dit") is own


def test_the_scorecard_joins_columns_of_the_methods_tables():
    result = StoredResult("gaussian-methods-7", "gaussian", "Gaussian field", 8, 10)
    base = correlation_table()

    def table(name, columns, rows, start):
        cells = tuple(
            tuple(Cell(float(start + i + j)) for j in range(len(columns))) for i in range(len(rows))
        )
        shown = tuple(replace(base.columns[0], name=c, label=c, group="") for c in columns)
        return replace(base, id=name, rows=rows, columns=shown, cells=cells)

    section = Section("methods", "M", "?", results=(result,), tables=(
        table("methods-gaussianity", ("correlation", "std"), ("Gaussian noise", "DDIM"), 10),
        table("methods-accuracy", ("evaluations", "mae"), ("DDIM",), 50),
    ))  # fmt: skip
    (card,) = scorecard.scorecards(replace(sample_run(), sections=(section,)))
    made = card["table"]
    assert [column.name for column in made.columns] == ["evaluations", "correlation", "std", "mae"]
    assert [c.value for c in made.cells[made.rows.index("DDIM")]] == [50.0, 11.0, 12.0, 51.0]
    assert [c.value for c in made.cells[made.rows.index("Gaussian noise")]] == [None, 10.0, 11.0, None]
    assert scorecard.scorecards(sample_run()) == []


# ------------------------------------------------------------------ queries, search, glossary


def test_the_code_under_every_table_and_figure_reads_from_the_store(site):
    """Every line is carried out, and gives the number that the line says."""
    found = drawn = 0
    for path in sorted((site / "pages").glob("study-*.html")):
        for block in re.findall(
            r"<pre><code>(import taba_core.*?)</code></pre>", path.read_text(), re.DOTALL
        ):
            code = block.replace("&#39;", "'").replace("&#34;", '"').replace("&lt;", "<").replace("&gt;", ">")
            opening, _, lines = code.strip().replace("&amp;", "&").partition("float(")
            names: dict[str, object] = {}
            exec(opening, names)
            drawn += not lines and names["result"].attrs["model"] == "gaussian"
            for line in f"float({lines}".splitlines() if lines else ():
                expression, told = line.rsplit(": ", 1)
                value = eval(expression.split("  # ")[0], names)
                assert float(told) == pytest.approx(value, rel=1e-5), line
                found += 1
    assert found > 60
    assert drawn == len(list((site / "figures").glob("*.webp")))


def test_the_numbers_of_a_table_are_found_under_their_own_names(site):
    text = (site / "pages" / "study-correlation.html").read_text().replace("&#39;", "'")
    for name in ("noise", "latent", "image"):
        (line,) = re.findall(rf"float\(result\['correlation_{name}'\]\)  # (.*)", text)
        assert line.startswith("Gaussian field, ")


def test_the_search_index_leads_to_places_that_exist(site, pages):
    script = (site / "assets" / "search.js").read_text()
    lines = json.loads(script.removeprefix("window.tabaSearch = ").removesuffix(";\n"))
    for line in lines:
        path, _, anchor = line["h"].partition("#")
        assert path in pages and (not anchor or anchor in pages[path].ids), line
    by_key = {}
    for line in lines:
        by_key.setdefault(line.get("k"), line["h"])
    assert by_key["table2"] == "pages/study-correlation.html#table2"
    assert by_key["table7"] == "pages/items.html#place-table7"  # study methods was not run
    assert by_key["fig12"] == "pages/study-regions.html#fig12"


def test_terms_of_a_page_are_those_in_its_text_and_lead_to_the_glossary(pages):
    assert ("plain area", "term-plain-area") in terms_in("<p>error in plain areas</p>")
    assert terms_in("<details>plain</details><p class='plain'>x</p>") == []
    assert "glossary.html#term-floor" in pages["pages/study-correlation.html"].links


def test_how_to_cite_names_the_paper_and_this_version(pages):
    from importlib.metadata import version

    text = pages["pages/cite.html"].text
    assert "Staniszewski" in text and "2410.23530" in text and f"version = {{{version('taba')}}}" in text


def test_a_model_of_ones_own_has_the_facts_of_its_card():
    from taba_core.models.catalog import list_cards
    from workflows.report.model_groups import describe

    (card,) = [card for card in list_cards() if card.name == "adm-64"]
    own = card.model_dump(mode="json") | {"name": "mine", "title": "Mine", "train_set": "my photographs"}
    made = describe("mine", "Mine", {"name": "mine", "card": own, "options": {"profile": "exact"}})
    assert isinstance(made, Model)
    assert (
        dict(made.facts)["Trained on"] == "my photographs" and dict(made.facts)["option profile"] == "exact"
    )
