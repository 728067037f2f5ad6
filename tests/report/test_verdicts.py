"""Claims by model in the overview: which verdict stands where, and what the columns say together."""

from __future__ import annotations

from dataclasses import replace

from sample_report import sample_run

from workflows.analysis.presentation import Claim
from workflows.report.site.links import claim_anchor
from workflows.report.verdicts import verdict_table
from workflows.report.write import write_report


def claim(name: str, model: str, verdict: str) -> Claim:
    suffix = "" if model == "photo-mixture" else f", {model}"
    return Claim(
        name + suffix,
        f"statement of {name}",
        verdict,
        model=model,
        study="correlation",
        base=name,
        label=model,
    )


CLAIMS = (
    claim("A", "photo-dit", "holds"),
    claim("A", "photo-mixture", "fails"),
    claim("B", "photo-mixture", "fails"),
    claim("B", "photo-dit", "fails"),
    claim("B", "photo-if", "holds"),
    claim("C", "photo-mixture", "holds"),
    claim("C", "photo-if", "fails"),
    claim("D", "photo-if", "not resolved"),
    claim("D", "photo-mixture", "holds"),
    claim("B", "photo-dit", "holds"),  # of a second, smaller result: the first one speaks
)


def test_a_row_a_claim_and_a_column_a_model_with_the_closed_form_first():
    table = verdict_table(CLAIMS)
    assert table.models == ("photo-mixture", "photo-dit", "photo-if")
    assert [(name, statement) for name, statement, _ in table.rows] == [
        (name, f"statement of {name}") for name in "ABCD"
    ]
    assert {name: {m: c.verdict for m, c in row.items()} for name, _, row in table.rows}["B"] == {
        "photo-mixture": "fails", "photo-dit": "fails", "photo-if": "holds",
    }  # fmt: skip


def test_the_sentences_say_where_trained_networks_differ_from_the_closed_form():
    assert verdict_table(CLAIMS).sentences == (
        "Fail on a closed form and hold on a trained network: A (photo-dit); B (photo-if).",
        "Hold on a closed form and fail on a trained network: C (photo-if).",
        "Fail on both: B (photo-dit).",
    )
    networks = [claim for claim in CLAIMS if claim.model != "photo-mixture"]
    assert verdict_table(networks).sentences == ()  # there is nothing to compare with


def test_one_model_needs_no_table():
    assert verdict_table([c for c in CLAIMS if c.model == "photo-dit"]) is None
    assert verdict_table([Claim("X", "of no model", "holds")]) is None


def test_claims_of_one_study_that_differ_in_what_they_measure_are_rows_of_their_own():
    """Ids with a comma of their own were taken for ids of several results."""
    claims = [
        Claim(f"CF5a~, {of}{end}", "s", verdict, model=model, base=f"CF5a~, {of}")
        for of, verdict in (("pca-64", "holds"), ("classifier", "fails"))
        for model, end in (("photo-mixture", ""), ("photo-dit", ", Photo DiT"))
    ]
    assert [name for name, _, _ in verdict_table(claims).rows] == ["CF5a~, pca-64", "CF5a~, classifier"]


def test_every_verdict_is_beside_the_paper_and_leads_to_its_claim(tmp_path):
    run = sample_run()
    section = replace(run.sections[1], claims=CLAIMS[:6])
    assert section.study == "correlation"
    write_report(replace(run, sections=(section,)), tmp_path)
    beside = (tmp_path / "pages" / "beside.html").read_text(encoding="utf-8")
    study = (tmp_path / "pages" / "study-correlation.html").read_text(encoding="utf-8")
    assert "Fail on both: B (photo-dit)." in beside
    assert 'id="claims-by-model"' in (tmp_path / "index.html").read_text(encoding="utf-8")
    for shown in CLAIMS[:6]:
        anchor = claim_anchor(shown.id)
        assert f'href="study-correlation.html#{anchor}"' in beside and f'id="{anchor}"' in study
        # The id and the model stand in columns of their own.
        assert f'>{shown.base}</th><td class="text">{shown.model}</td>' in study
    alone = replace(run, sections=(replace(section, claims=CLAIMS[:1]),))
    write_report(alone, tmp_path / "one")
    assert 'id="claims-by-model"' not in (tmp_path / "one" / "index.html").read_text(encoding="utf-8")
