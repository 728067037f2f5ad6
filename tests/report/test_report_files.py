"""The folder a report is: complete, strict, the same bytes for the same run, and a page that stands alone."""

import base64
import dataclasses
import html.parser
import json
import warnings

import pytest
from sample_report import sample_run

from taba_core.errors import WorkError
from workflows.present import Claim, Run, Section
from workflows.report.files import write_bytes
from workflows.report.write import write_report

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(html.parser.HTMLParser):
    """Checks that tags nest, and collects ids, links, images and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.images, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values[name] for name in ("href", "src") if name in values]
        self.images += [values] if tag == "img" else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("report")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph or font is a warning
        assert write_report(sample_run(), path) == (path / "index.html", [])
    return path


@pytest.fixture(scope="module")
def page(folder):
    return Page((folder / "index.html").read_text(encoding="utf-8"))


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
    figures = {f"figures/{name}.{ext}" for name in ("fig1", "fig3", "fig4") for ext in ("png", "pdf")}
    assert set(files_of(folder)) == tables | figures | {
        "index.html",
        "results.json",
        "claims.json",
        "failures.json",
    }


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
    fields = {"id", "study", "model", "result", "statement", "verdict", "numbers", "explanation"}
    assert set(claims["C2"]) == fields


def test_the_page_is_well_formed_and_every_link_leads_somewhere(folder, page):
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids
        elif not link.startswith("data:image/png;base64,"):
            assert (folder / link).is_file(), link  # relative, so the folder can be copied; nothing external


def test_the_page_embeds_its_figures_and_describes_them(folder, page):
    assert len(page.images) == 3
    assert all(image["alt"] for image in page.images)
    codes = [image["src"].removeprefix("data:image/png;base64,") for image in page.images]
    embedded = {base64.b64decode(code, validate=True) for code in codes}
    assert embedded == {path.read_bytes() for path in (folder / "figures").glob("*.png")}


def test_the_page_shows_floor_paper_proxy_provenance_and_notes(page):
    text = " ".join(" ".join(page.words).split())
    for words in (
        "floor 0.252",
        "paper 0.126",
        "proxy for FID",
        "taba run paper --store runs/demo",
        "n = 96",
    ):
        assert words in text
    assert "versions · torch" in text
    assert "Inception weights are missing" in text


def test_sections_follow_the_paper(page):
    studies = [name for name in page.ids if name.startswith("study-")]
    assert studies == ["study-correlation", "study-step-error", "study-regions", "study-forward-fix"]


@pytest.mark.parametrize(
    ("verdict", "css", "sign"),
    [("holds", "holds", "✓"), ("fails", "fails", "✗"), ("not resolved", "unresolved", "?")],
)
def test_a_verdict_is_told_by_word_and_sign_not_by_colour_alone(tmp_path, verdict, css, sign):
    claim = Claim("C1", "a < b", verdict)
    path, _ = write_report(Run("One claim", (Section("s", "S", "?", claims=(claim,)),)), tmp_path)
    text = path.read_text(encoding="utf-8")
    assert f'<span class="badge {css}"><span aria-hidden="true">{sign}</span> {verdict}</span>' in text
    assert f"1 {verdict}" in text


def test_a_run_without_finished_studies_still_gives_a_page(tmp_path):
    Page(write_report(Run("Nothing yet", ()), tmp_path)[0].read_text(encoding="utf-8"))
    assert strict(tmp_path / "results.json") == []


def test_text_from_a_run_is_escaped(tmp_path):
    run = dataclasses.replace(
        sample_run(), title="<script>alert(1)</script>", provenance={"command": "a < b & c"}
    )
    text = write_report(run, tmp_path)[0].read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "a &lt; b &amp; c" in text


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
