"""The folder a report is: complete, strict, the same bytes for the same run, and pages that need no other file."""

import dataclasses
import json
import warnings

import pytest
from read_pages import Page, broken_links, pages_of
from sample_report import sample_run

from taba_core.errors import WorkError
from workflows.analysis.presentation import Claim, Run, Section
from workflows.report.files import write_bytes
from workflows.report.write import write_report


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("report")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph or font is a warning
        assert write_report(sample_run(), path) == (path / "index.html", [])
    return path


@pytest.fixture(scope="module")
def pages(folder):
    return pages_of(folder)


def strict(path):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def files_of(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_every_item_has_its_files_and_nothing_else_is_left(folder):
    tables = {
        f"tables/{name}.{ext}" for name in ("table2", "table3", "table4") for ext in ("csv", "md", "tex")
    }
    figures = {f"figures/{name}.{ext}" for name in ("fig1", "fig3", "fig4") for ext in ("webp", "pdf")}
    shared = ("items", "beside", "methods", "provenance", "glossary", "cite")
    studies = ("correlation", "regions", "step-error", "forward-fix")
    pages = {f"pages/{name}.html" for name in (*shared, *(f"study-{study}" for study in studies))}
    assets = {f"assets/{name}" for name in ("site.css", "site.js", "search.js")}
    assert set(files_of(folder)) == tables | figures | pages | assets | {
        "index.html",
        "results.json",
        "claims.json",
        "failures.json",
    }


def test_pages_of_an_earlier_report_are_removed_and_files_of_others_are_not(tmp_path):
    run = sample_run()
    write_report(dataclasses.replace(run, sections=run.sections[:1]), tmp_path)
    assert (tmp_path / "pages" / "study-regions.html").is_file()
    (tmp_path / "notes.html").write_text("somebody's own")
    # Earlier versions drew figures as PNG.
    earlier = tmp_path / "figures" / "fig1.png"
    earlier.parent.mkdir(exist_ok=True)
    earlier.write_bytes(b"a picture")
    write_report(dataclasses.replace(run, sections=run.sections[:2]), tmp_path)
    assert not earlier.exists() and earlier.with_suffix(".webp").exists()
    write_report(dataclasses.replace(run, sections=()), tmp_path)
    assert not (tmp_path / "pages" / "study-regions.html").exists() and (tmp_path / "notes.html").exists()


def test_a_second_report_is_byte_identical(folder, tmp_path):
    write_report(sample_run(), tmp_path)
    first, second = files_of(folder), files_of(tmp_path)
    assert [name for name in first if first[name] != second[name]] == []


def test_pdf_fonts_are_embedded(folder):
    content = (folder / "figures" / "fig4.pdf").read_bytes()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content
    assert b"CreationDate" not in content


def test_results_are_one_record_per_number_in_the_papers_order(folder):
    records = strict(folder / "results.json")
    # Cells: 3 models x 4, 3 rows x 4, 8 rows x 4; figure 4 adds two rows.
    assert len(records) == 12 + 12 + 32 + 2
    assert list(dict.fromkeys(r["study"] for r in records)) == [
        "correlation",
        "step-error",
        "regions",
        "forward-fix",
    ]
    expected = {"study", "item", "row", "column", "value", "ci95", "spread", "n", "T", "floor", "theory"}
    assert all(expected | {"conventions", "unit", "paper"} <= set(record) for record in records)
    latent = next(r for r in records if (r["item"], r["row"], r["column"]) == ("table2", "ADM-64", "latent"))
    assert (latent["value"], latent["n"], latent["T"], latent["floor"]) == (0.3874, 192, 50, 0.252)
    assert latent["paper"]["value"] == 0.126
    assert latent["paper"]["provenance"] == "secondary"


def test_a_cells_own_n_overrides_the_tables(folder):
    records = strict(folder / "results.json")
    assert {r["n"] for r in records if r["item"] == "table4" and r["column"] == "fid"} == {96}


def test_nan_is_null_in_results_and_claims(folder):
    records = strict(folder / "results.json")
    missing = [r for r in records if r["item"] == "fig4" and r["column"] == "step 2"]
    assert [r["value"] for r in missing] == [None]
    claims = {claim["id"]: claim for claim in strict(folder / "claims.json")}
    assert claims["C3"]["numbers"] == {"gap": None}
    assert claims["C2"]["study"] == "correlation"
    fields = {"id", "base", "study", "model", "result", "statement", "verdict", "numbers", "explanation"}
    assert set(claims["C2"]) == fields


def test_pages_are_well_formed_and_every_link_leads_somewhere(folder, pages):
    for name, page in pages.items():
        assert len(page.ids) == len(set(page.ids)), name
    assert broken_links(folder, pages) == []


def test_the_pages_show_every_figure_and_describe_it(pages):
    shown = [
        image for name, page in pages.items() if "study-" in name for image in page.images if "src" in image
    ]
    assert {image["src"] for image in shown} == {
        f"../figures/{name}.webp" for name in ("fig1", "fig3", "fig4")
    }
    assert all(image["alt"] and int(image["width"]) and int(image["height"]) for image in shown)


def test_the_pages_show_floor_paper_proxy_provenance_and_notes(pages):
    for name, words in (
        ("study-correlation", ("floor 0.252", "paper 0.126")),
        ("study-forward-fix", ("proxy for FID", "n = 96", "Inception weights are missing")),
        ("provenance", ("taba run paper --store runs/demo", "versions · torch")),
    ):
        for said in words:
            assert said in pages[f"pages/{name}.html"].text, said


def test_studies_are_listed_in_the_papers_order(pages):
    links = [
        link for link in pages["index.html"].links if link.startswith("pages/study-") and "#" not in link
    ]
    expected = [
        f"pages/study-{name}.html" for name in ("correlation", "step-error", "regions", "forward-fix")
    ]
    assert list(dict.fromkeys(links[:4])) == expected


def test_documents_of_a_study_are_written_and_linked(tmp_path):
    section = Section("s", "S", "?", documents={"submission-mine": {"method": "mine"}})
    write_report(Run("One document", (section,)), tmp_path)
    assert strict(tmp_path / "submission-mine.json") == {"method": "mine"}
    pages = pages_of(tmp_path)
    assert (
        "../submission-mine.json" in pages["pages/study-s.html"].links and broken_links(tmp_path, pages) == []
    )


@pytest.mark.parametrize(
    ("verdict", "css", "sign"),
    [("holds", "holds", "✓"), ("fails", "fails", "✗"), ("not resolved", "unresolved", "?")],
)
def test_a_verdict_is_told_by_word_and_sign_not_by_colour_alone(tmp_path, verdict, css, sign):
    claim = Claim("C1", "a < b", verdict)
    path, _ = write_report(Run("One claim", (Section("s", "S", "?", claims=(claim,)),)), tmp_path)
    text = (tmp_path / "pages" / "study-s.html").read_text(encoding="utf-8")
    assert f'<span class="badge {css}"><span aria-hidden="true">{sign}</span> {verdict}</span>' in text
    assert f"1 {verdict}" in Page.read(path).text


def test_a_run_without_finished_studies_still_gives_pages(tmp_path):
    write_report(Run("Nothing yet", ()), tmp_path)
    assert broken_links(tmp_path, pages_of(tmp_path)) == []
    assert strict(tmp_path / "results.json") == []


def test_text_from_a_run_is_escaped(tmp_path):
    run = dataclasses.replace(
        sample_run(), title="<script>alert(1)</script>", provenance={"command": "a < b & c"}
    )
    write_report(run, tmp_path)
    texts = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")}
    assert not [name for name, text in texts.items() if "<script>" in text]
    assert "a &lt; b &amp; c" in texts["provenance.html"]


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "blocked").write_text("a file where a folder should be")
    with pytest.raises(WorkError, match=r"cannot write .*blocked/report\.json"):
        write_bytes(tmp_path / "blocked" / "report.json", b"")


def test_a_failed_write_leaves_the_old_file_and_no_leftovers(tmp_path, monkeypatch):
    target = tmp_path / "index.html"
    write_bytes(target, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(WorkError, match="No space left on device"):
        write_bytes(target, b"new")
    assert files_of(tmp_path) == {"index.html": b"old"}
