"""The pages in a browser: no error, no overflow on a desk or a phone, keyboard, contrast, search, print."""

from __future__ import annotations

from dataclasses import replace

import pytest
from browser import browser_path, open_tab
from sample_report import fix_table, sample_run

from workflows.analysis.presentation import Run, Section, StoredResult
from workflows.report.write import write_report

pytestmark = pytest.mark.skipif(
    browser_path() is None,
    reason="no Chromium or Chrome is installed, so pages are not opened; test_site_pages.py reads them without one",
)
WIDTHS = (1280, 390)

# Text, its colour against what lies behind it, by the formula of WCAG 2.1; what is folded away is unfolded first.
CONTRAST = """
(() => {
  document.querySelectorAll('details').forEach((part) => { part.open = true; });
  const channel = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const parse = (text) => { const n = text.match(/[0-9.]+/g).map(Number); return [n[0], n[1], n[2], n[3] ?? 1]; };
  const over = (top, below) => [0, 1, 2].map((i) => top[3] * top[i] + (1 - top[3]) * below[i]);
  const behind = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const low = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.checkVisibility() || element.closest('script, style')) continue;
    const back = behind(element);
    const ink = over(parse(getComputedStyle(element).color), back);
    const [a, b] = [luminance(ink), luminance(back)].sort((x, y) => y - x);
    seen += 1;
    if ((a + 0.05) / (b + 0.05) < 4.5) low.push(texts.currentNode.data.trim().slice(0, 40));
  }
  return { seen, low };
})()
"""
# What is wider than the window and in no box that scrolls, and what scrolls but cannot be reached by keyboard.
LAYOUT = """
(() => ({
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  unreachable: [...document.querySelectorAll('*')].filter((e) => e.scrollWidth > e.clientWidth + 1
    && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.tabIndex < 0).map((e) => e.className),
  small: [...document.querySelectorAll('main a, main summary, main button')].filter((e) => e.checkVisibility()
    && !e.textContent.trim() && !e.querySelector('img')).length,
}))()
"""


@pytest.fixture(scope="module")
def tab():
    with open_tab() as opened:
        yield opened


@pytest.fixture(scope="module")
def paths(site):
    return [site / "index.html", *sorted((site / "pages").glob("*.html"))]


@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_opens_without_an_error_and_fits_the_window(tab, paths, width):
    tab.size(width)
    for path in paths:
        _, errors = tab.load(path)
        assert errors == [], path.name
        for fold in ("open = true", "open = false"):
            tab.run(f"document.querySelectorAll('main details').forEach((part) => {{ part.{fold}; }})")
            told = tab.run(LAYOUT)
            assert told == {"overflow": 0, "unreachable": [], "small": 0}, (path.name, told)


def test_the_first_page_opens_within_a_second(tab, site):
    tab.size(WIDTHS[0])
    assert min(tab.load(site / "index.html")[0] for _ in range(3)) <= 1.0


@pytest.mark.parametrize("width", WIDTHS)
def test_text_stands_out_from_what_lies_behind_it(tab, paths, width):
    tab.size(width)
    for path in paths:
        tab.load(path)
        told = tab.run(CONTRAST)
        assert told["seen"] > 20 and told["low"] == [], (path.name, told)


def test_the_contrast_that_is_measured_is_the_formulas(tab, tmp_path):
    page = tmp_path / "grey.html"
    page.write_text(
        "<!DOCTYPE html><body style='background:#fff'><p style='color:#767676'>a</p><p style='color:#777'>b</p>"
    )
    tab.load(page)
    # #767676 on white is 4.54, #777777 is 4.48.
    assert tab.run(CONTRAST) == {"seen": 2, "low": ["b"]}


def focused(tab):
    return tab.run(
        "document.activeElement.className || document.activeElement.id || document.activeElement.tagName"
    )


def test_the_keyboard_reaches_the_content_folds_and_boxes(tab, site):
    tab.size(WIDTHS[1])
    tab.load(site / "pages" / "study-correlation.html")
    tab.press("Tab")
    assert focused(tab) == "skip"
    tab.press("Enter", "\r")
    assert tab.run("location.hash") == "#main"
    reached = set()
    for _ in range(60):
        tab.press("Tab")
        reached.add(tab.run("document.activeElement.closest('main') ? document.activeElement.tagName : ''"))
    assert {"A", "SUMMARY", "DIV"} <= reached  # links, folds, and boxes that scroll
    tab.run("document.querySelector('details.query > summary').focus()")
    tab.press("Enter", "\r")
    assert tab.run("document.querySelector('details.query').open")


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("table 2", "study-correlation.html#table2"),
        ("Fig. 12", "study-regions.html#fig12"),
        ("figure 4", "study-step-error.html#fig4a"),
        ("table 7", "items.html#place-table7"),
        ("C2a", "study-correlation.html#claim-C2a"),
        ("floor", "glossary.html#term-floor"),
    ],
)
def test_a_number_typed_into_the_search_leads_to_its_place(tab, site, asked, found):
    tab.size(WIDTHS[0])
    for start in (site / "index.html", site / "pages" / "cite.html"):
        tab.load(start)
        tab.run(f"document.querySelector('#search').value = {asked!r}")
        tab.run("document.querySelector('#search').dispatchEvent(new Event('input', {bubbles: true}))")
        assert tab.run("document.querySelector('#found a').href").endswith(f"/pages/{found}")
        tab.run("document.querySelector('#search').focus()")
        tab.press("Enter", "\r")
        tab.until(f"location.href.endsWith('/pages/{found}')")


def test_a_picture_is_enlarged_by_a_click_and_escape_closes_it(tab, site):
    tab.size(WIDTHS[0])
    tab.load(site / "pages" / "study-regions.html")
    tab.run("document.querySelector('a.enlarge').click()")
    assert tab.run("document.querySelector('dialog').open")
    assert tab.run("document.querySelector('dialog img').alt") == tab.run(
        "document.querySelector('a.enlarge img').alt"
    )
    tab.press("Escape")
    assert not tab.run("document.querySelector('dialog').open")


def test_a_link_into_a_folded_part_opens_it(tab, site):
    tab.load(site / "pages" / "beside.html", "#numbers-9")
    assert tab.run("document.getElementById('numbers-9').open")


def test_columns_sort_by_number_and_rows_keep_the_names_of_their_groups(tab, tmp_path):
    result = StoredResult("gaussian-methods-1", "gaussian", "Gaussian field", 192, 50)
    section = Section("methods", "Methods", "Which?", tables=(fix_table(),), results=(result,))
    write_report(replace(sample_run(), sections=(section,)), tmp_path)
    tab.load(tmp_path / "pages" / "study-methods.html")
    column = "[...document.querySelectorAll('table[data-sortable] tbody tr')].map((r) => Number(r.cells[1].dataset.v))"
    head = "document.querySelectorAll('table[data-sortable] thead tr:last-child th')[1]"
    for order, sign in (("ascending", 1), ("descending", -1)):
        tab.run(f"{head}.querySelector('button').click()")
        values = tab.run(column)
        assert len(values) == 8 and values == sorted(values, key=lambda v, sign=sign: sign * v)
        assert tab.run(f"{head}.getAttribute('aria-sort')") == order
    groups = tab.run("[...document.querySelectorAll('.of-group')].map((e) => e.textContent)")
    assert sorted(groups) == ["forward level exact"] * 4 + ["forward level matched"] * 4


def test_without_scripts_everything_still_reads(tab, site):
    tab.size(WIDTHS[0])
    try:
        tab.call("Emulation.setScriptExecutionDisabled", value=True)
        tab.open(site / "pages" / "study-regions.html")
        text = tab.run("document.body.innerText")
        handlers = tab.run("typeof openTarget")
    finally:
        tab.call("Emulation.setScriptExecutionDisabled", value=False)
    assert handlers == "undefined"  # no script of the page was run
    assert "Standard deviation" in text and "Claims" in text and "Find" not in text


def test_the_printed_page_has_the_content_and_not_the_lists_beside_it(tab, site):
    tab.load(site / "index.html")
    tab.call("Emulation.setEmulatedMedia", media="print")
    try:
        parts = "[...document.querySelectorAll('.toc, .search, .step, h1')]"
        shown = f"{parts}.filter((e) => e.checkVisibility()).map((e) => e.className || e.tagName)"
        assert {name.split()[0] for name in tab.run(shown)} == {"H1", "step"}
    finally:
        tab.call("Emulation.setEmulatedMedia", media="")


def test_a_report_of_nothing_opens_too(tab, tmp_path):
    write_report(Run("Nothing yet", ()), tmp_path)
    _, errors = tab.load(tmp_path / "index.html")
    assert errors == [] and tab.run(LAYOUT)["overflow"] == 0
