"""Tables as CSV, Markdown and LaTeX; numbers as text; the paper's values."""

import csv
import io
import json
import re

import pytest
from sample_report import correlation_table, fix_table, region_table

from workflows.analysis.presentation import Cell, Claim, Column, PaperValue, Run, Section, Table
from workflows.analysis.published import paper_rows, paper_value
from workflows.report.notation import format_any, format_number, to_html, to_latex
from workflows.report.tables import cell_text, to_csv, to_latex_table, to_markdown

TABLES = [correlation_table(), region_table(), fix_table()]


def one_cell(cell, **fields):
    return Table("t", "Title", "Question?", ("row",), (Column("c", "Label"),), ((cell,),), **fields)


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.2524, 3, "0.252"),
        (-0.25, 2, "−0.25"),
        (0.00048, 3, "4.8e-4"),  # three decimals would show 0.000 for something that is not zero
        (-0.00048, 3, "−4.8e-4"),
        (0.0, 3, "0.000"),
        (0.0006, 3, "0.001"),
        (50, 0, "50"),
        (float("nan"), 3, "n/a"),
    ],
)
def test_a_number_keeps_its_digits_and_never_rounds_to_a_false_zero(value, digits, text):
    assert format_number(value, digits) == text


def test_claim_numbers_are_readable():
    assert format_any(38400) == "38\u202f400"
    assert format_any([0.123456, float("nan")]) == "[0.1235, n/a]"


@pytest.mark.parametrize(
    ("text", "page", "latex"),
    [
        ("x̂_T", "<i>x̂</i><sub>T</sub>", r"$\hat{x}_{T}$"),
        ("ᾱ_t", "<i>ᾱ</i><sub>t</sub>", r"$\bar{\alpha}_{t}$"),
        ("ᾱ", "ᾱ", r"$\bar{\alpha}$"),
        ("10^{-4}", "10<sup>-4</sup>", r"$\mathrm{10}^{-4}$"),
        ("std_p < 1", "std<sub>p</sub> &lt; 1", r"$\mathrm{std}_{p}$ \textless{} 1"),
        ("photo_mixture", "photo_mixture", r"photo\_mixture"),
        ("x0_rule", "x0_rule", r"x0\_rule"),
        ("ñ é", "ñ é", "ñ é"),
        ("<b>&", "&lt;b&gt;&amp;", r"\textless{}b\textgreater{}\&"),
    ],
)
def test_plain_mathematics_becomes_html_and_latex(text, page, latex):
    assert to_html(text) == page
    assert to_latex(text) == latex


def test_latex_escapes_every_special_character():
    assert to_latex("50% & $5 #1 a_bc {x}") == r"50\% \& \$5 \#1 a\_bc \{x\}"
    assert to_latex(r"~ ^ \ |") == r"\textasciitilde{} \textasciicircum{} \textbackslash{} \textbar{}"


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.id)
def test_latex_is_balanced_and_every_row_has_every_column(table):
    text = to_latex_table(table)
    bare = re.sub(r"\\[{}$]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    begins, ends = re.findall(r"\\begin{(\w+)}", text), re.findall(r"\\end{(\w+)}", text)
    assert begins == ends[::-1] == ["table", "tabular"]
    rules = [text.index(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")]
    assert rules == sorted(rules)
    body = text[rules[1] : rules[2]].splitlines()[1:]
    rows = [line for line in body if line.endswith(r"\\") and r"\multicolumn" not in line]
    assert len(rows) == len(table.rows)
    for row in rows:
        assert len(re.findall(r"(?<!\\)&", row)) == len(table.columns)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.id)
def test_markdown_columns_align(table):
    lines = [line for line in to_markdown(table).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(table.rows)
    bars = {tuple(m.start() for m in re.finditer(r"(?<!\\)\|", line)) for line in lines}
    assert len(bars) == 1
    assert len(bars.pop()) == len(table.columns) + 2


def test_csv_holds_full_precision_and_leaves_what_was_not_computed_empty():
    rows = list(csv.DictReader(io.StringIO(to_csv(correlation_table()))))
    assert float(rows[1]["latent"]) == 0.3874
    assert float(rows[1]["latent_low"]) == 0.3874 - 0.009
    assert float(rows[1]["latent_paper"]) == 0.126
    assert rows[0]["latent_paper"] == ""  # the paper did not run photo-mixture
    assert rows[2]["excess"] == ""  # NaN: not computed


def test_a_dash_is_not_defined_and_na_is_not_computed():
    assert "| – " not in to_markdown(one_cell(Cell(float("nan"))))
    assert "n/a" in to_markdown(one_cell(Cell(float("nan"))))
    assert "–" in to_markdown(one_cell(Cell(None)))


def test_every_context_stands_beside_its_number():
    paper = PaperValue(0.4, 0.02, "probable", "why")
    cell = Cell(0.5, (0.4, 0.6), 0.1, 0.25, 0.45, paper, digits=2, unit="nats", n=96)
    text = to_markdown(one_cell(cell, n=192, T=50, seed=420, conventions="levels exact"))
    assert "0.50 nats ± 0.10 [0.40, 0.60] (floor 0.25; theory 0.45; paper 0.40 ± 0.02 (p); n = 96)" in text
    assert "n = 192; T = 50; seed = 420; levels exact" in text
    assert "(p) digits quoted from the paper; which cell they belong to is inferred" in text


def test_a_context_the_row_states_is_not_repeated():
    def shown(row):
        table = Table("t", "Title", "", (row,), (Column("c", "Label"),), ((Cell(0.5, digits=1, n=96, T=5),),))
        return to_markdown(table), to_latex_table(table)

    for text in shown("T = 5"):
        assert "n = 96" in text and "n = 96, T = 5" not in text
    for text in shown("T = 50"):  # another T than the cell's
        assert "n = 96, T = 5" in text


def test_a_proxy_is_named_in_every_format():
    for text in (to_markdown(fix_table()), to_latex_table(fix_table())):
        assert "Fréchet distance (proxy for FID)" in text


# ------------------------------------------------------------------------------------------------
# The paper's values


def test_paper_values_are_found_by_exact_names_only():
    value = paper_value("table2", "ADM-64", "Latent")
    assert (value.value, value.provenance) == (0.126, "secondary")
    assert paper_value("2", "ADM-64", "latent") == value
    assert paper_value("table3", "IF", "std_non_plain").value == 0.72
    for row in ("photo-mixture", "adm-64", "ADM-6", "ADM-256"):
        assert paper_value("table2", row, "Latent") is None
    assert paper_value("table99", "ADM-64", "Latent") is None


def test_paper_values_are_in_base_units():
    # Table 9 prints 4.832 in units of 1e-4; the floor 2/n at n = 4096 is 4.88e-4.
    value = paper_value("table9", "ADM-64 (T=1000) / Noise (upper bound)", "KL")
    assert value.value == 4.832e-4
    assert value.note.startswith("printed as 4.832 in units of 0.0001")


@pytest.mark.parametrize(
    ("table", "row", "column", "provenance"),
    [
        ("5", "IF / Plain", "Latent, DDIM Inv. [PNG bits per pixel]", "certain"),
        ("7", "DDIM Inv.", "KL", "certain"),  # its unit is inferred, its cell is not
        ("7", "Gaussian Noise", "KL", "probable"),
        ("7", "DPMSolver-1", "MAE", "probable"),
        ("3 / Appendix I", "threshold", "tau", "secondary"),
    ],
)
def test_provenance_follows_from_the_note(table, row, column, provenance):
    assert paper_value(table, row, column).provenance == provenance


def test_the_reference_rows_keep_the_papers_order():
    rows = list(dict.fromkeys(entry.row for entry in paper_rows("table2")))
    assert rows == ["ADM-32", "ADM-64", "IF", "LDM", "DiT", "SDXL"]


# ------------------------------------------------------------------------------------------------
# The data model refuses what no renderer could show


def test_tables_refuse_missing_cells_and_repeated_names():
    columns = (Column("a", "A"), Column("a", "B"))
    with pytest.raises(ValueError, match=r"t: column names must be unique, got \['a', 'a'\]"):
        Table("t", "", "", ("row",), columns, ((Cell(1.0), Cell(2.0)),))
    with pytest.raises(ValueError, match=r"t: cells are \(1, 2\), labels are \(1, 1\)"):
        Table("t", "", "", ("row",), columns[:1], ((Cell(1.0), Cell(2.0)),))
    with pytest.raises(ValueError, match="rows must be unique"):
        Table("t", "", "", ("row", "row"), columns[:1], ((Cell(1.0),), (Cell(2.0),)))
    with pytest.raises(ValueError, match="names a file"):
        Table("../t", "", "", (), (), ())


def test_claims_and_provenance_have_known_values():
    with pytest.raises(ValueError, match="verdict 'true'; use one of holds, fails, not resolved"):
        Claim("C2", "statement", "true")
    with pytest.raises(ValueError, match="provenance 'rumour'"):
        PaperValue(1.0, None, "rumour")


def test_two_items_of_a_report_never_share_a_file():
    section = Section("a", "A", "?", tables=(correlation_table(),))
    with pytest.raises(ValueError, match="share the id table2"):
        Run("title", (section, Section("b", "B", "?", tables=(correlation_table(),))))


def test_a_cell_is_found_by_its_group_and_row():
    table = fix_table()
    assert table.cell("forward level matched / K = 2 (4 %)", "fid").digits == 2
    with pytest.raises(KeyError, match="no cell"):
        table.cell("K = 2 (4 %)", "fid")


def test_importing_the_data_model_loads_nothing_heavy():
    import subprocess
    import sys

    code = (
        "import sys, json, workflows.analysis.presentation, workflows.analysis.published\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    modules = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert not {"torch", "ray", "matplotlib", "xarray", "numpy", "jinja2"} & set(modules)


def test_a_cell_says_only_those_of_its_choices_that_the_table_does_not():
    def shown(own, common="levels=exact, network_time=target"):
        return cell_text(Cell(0.5, n=64, conventions=own), "", common).own

    assert shown("levels=exact, network_time=target, profile=fast") == "n = 64, profile=fast"
    assert shown("levels=shifted, network_time=target") == "n = 64, levels=shifted"
    # All that it states stands there too, and the table states more: its own are said in full.
    assert shown("levels=exact") == "n = 64, levels=exact"
    assert shown("levels=exact", "") == "n = 64, levels=exact"
    assert shown(None) == "n = 64"
