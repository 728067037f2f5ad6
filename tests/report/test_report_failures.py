"""A part of the report that cannot be made is named in its place, on the page and in the files; the rest is written."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from read_pages import Page, broken_links, pages_of
from sample_report import sample_run
from test_report_files import files_of, strict

from taba_core.errors import WorkError
from workflows.__main__ import main
from workflows.analysis.presentation import Run
from workflows.analysis.study import studies
from workflows.report import plots, write
from workflows.report.site import build
from workflows.report.write import write_report

RUN = sample_run()
TABLES = [table.id for section in RUN.sections for table in section.tables]
FIGURES = [figure.id for section in RUN.sections for figure in section.figures]


def broken(*_):
    raise ValueError("no <such> channel")


def with_broken_figure(run: Run, name: str) -> Run:
    return dataclasses.replace(
        run,
        sections=tuple(
            dataclasses.replace(
                section,
                figures=tuple(
                    dataclasses.replace(figure, draw=broken) if figure.id == name else figure
                    for figure in section.figures
                ),
            )
            for section in run.sections
        ),
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole")
    _, failures = write_report(sample_run(), path)
    assert failures == [] and strict(path / "failures.json") == []
    return files_of(path)


@pytest.fixture
def quick(monkeypatch, whole):
    """Figures are drawn but not turned into files again: every figure's file is one that was made."""
    content = {suffix: whole[f"figures/fig1{suffix}"] for suffix in (".webp", ".pdf")}
    monkeypatch.setattr(write, "figure_files", lambda drawing: content)


def names_it(folder, failures, kind, name):
    """One failure, told in failures.json, in its place on the page of its study and on the overview."""
    assert [(failure.kind, failure.id, failure.error) for failure in failures] == [
        (kind, name, "ValueError: no <such> channel")
    ]
    (entry,) = strict(folder / "failures.json")
    assert (entry["kind"], entry["id"]) == (kind, name)
    assert "in broken" in entry["traceback"]
    path = f"pages/study-{entry['study']}.html"
    assert (
        f"This {kind} could not be made: ValueError: no &lt;such&gt; channel." in (folder / path).read_text()
    )
    pages = pages_of(folder)
    assert broken_links(folder, pages) == []
    assert f"{path}#{name}" in pages["index.html"].links
    assert "1 part of this report could not be made" in pages["index.html"].text
    return pages[path]


def pictures_of(folder):
    """The pictures that the pages of studies show."""
    pages = pages_of(folder).items()
    return [i for name, page in pages if "study-" in name for i in page.images if "src" in i]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_that_fails_loses_nothing_else(tmp_path, whole, quick, name):
    write_report(sample_run(), tmp_path)
    _, failures = write_report(with_broken_figure(RUN, name), tmp_path)
    page = names_it(tmp_path, failures, "figure", name)
    assert name in page.ids and len(pictures_of(tmp_path)) == len(FIGURES) - 1
    gone = {
        f"figures/{name}{suffix}" for suffix in (".webp", ".pdf")
    }  # an earlier report's picture would be a lie
    assert set(files_of(tmp_path)) == set(whole) - gone
    assert (tmp_path / "results.json").read_bytes() == whole["results.json"]  # its numbers need no drawing


@pytest.mark.parametrize("maker", ["to_csv", "to_markdown", "to_latex_table"])
@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_fails_loses_nothing_else(tmp_path, monkeypatch, whole, quick, name, maker):
    write_report(sample_run(), tmp_path)
    make = getattr(write, maker)
    monkeypatch.setattr(write, maker, lambda table: broken() if table.id == name else make(table))
    _, failures = write_report(sample_run(), tmp_path)
    page = names_it(tmp_path, failures, "table", name)
    assert name in page.ids and len(pictures_of(tmp_path)) == len(FIGURES)
    gone = {f"tables/{name}{suffix}" for suffix in (".csv", ".md", ".tex")}
    assert set(files_of(tmp_path)) == set(whole) - gone
    kept = [record for record in json.loads(whole["results.json"]) if record["item"] != name]
    assert strict(tmp_path / "results.json") == kept


def test_a_table_that_only_the_page_cannot_show_is_named_there(tmp_path, monkeypatch, quick):
    shown = build.table_view
    monkeypatch.setattr(build, "table_view", lambda t, *a: broken() if t.id == "table3" else shown(t, *a))
    _, failures = write_report(sample_run(), tmp_path)
    names_it(tmp_path, failures, "table", "table3")
    assert (tmp_path / "tables" / "table3.csv").is_file()


def test_a_folder_that_cannot_be_written_is_no_failure_of_a_figure(tmp_path, quick):
    (tmp_path / "figures").write_text("a file where a folder should be")
    with pytest.raises(WorkError, match="cannot write"):
        write_report(sample_run(), tmp_path)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 16])
def test_pictures_of_any_channel_count_can_be_shown(channels):
    generator = np.random.default_rng(channels)
    states = generator.normal(size=(3, channels, 8, 8)).clip(-1, 1).astype(np.float32)
    for tiles in (
        plots.image_tiles(states),
        plots.latent_tiles(states)[0],
        plots.latent_tiles(plots.principal_channels(states))[0],
        plots.mask_tiles(states, states[:, 0] > 0),
    ):
        assert tiles.shape == (3, 8, 8, 3) and np.isfinite(tiles).all()
        assert 0 <= tiles.min() < tiles.max() <= 1
    expected = (states.astype(np.float64) + 1) / 2
    shown = np.moveaxis(plots.image_tiles(states), -1, 1)
    if channels == 1:  # grey
        np.testing.assert_allclose(shown, np.repeat(expected, 3, axis=1))
    else:  # the first channels; a missing blue is the middle of the range
        np.testing.assert_allclose(shown[:, : min(channels, 3)], expected[:, :3])
        assert channels != 2 or (shown[:, 2] == 0.5).all()


def test_principal_components_of_two_channels_by_hand():
    """Channels a and -a: the first component is sqrt(2) a up to sign, the second 0."""
    a = np.arange(-2.0, 2.0).reshape(1, 1, 2, 2) + 0.5
    found = plots.principal_channels(np.concatenate([a, -a], axis=1))
    np.testing.assert_allclose(np.abs(found[:, :1]), np.abs(np.sqrt(2) * a))
    np.testing.assert_allclose(found[:, 1:], 0, atol=1e-12)
    np.testing.assert_allclose(plots.principal_channels(a), a)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("failures") / "store"
    arguments = (
        "--model gaussian --executor local --no-report --set num_samples=4 --set num_inference_steps=2"
    )
    arguments += " --set bootstrap_replicates=100"
    with pytest.raises(SystemExit) as end:
        main(["run", "correlation", "location", "--store", str(path), *arguments.split()])
    assert not end.value.code
    return path


def test_a_study_that_cannot_be_presented_is_named_and_keeps_its_claims(tmp_path, monkeypatch, store, capsys):
    study = studies()["correlation"]
    monkeypatch.setattr(type(study), "present", broken)
    with pytest.raises(SystemExit) as end:
        main(["report", "--store", str(store), "--output", str(tmp_path)])
    assert end.value.code == 1  # the report was what was asked for
    line = "study correlation could not be made (ValueError: no <such> channel)."
    assert line in capsys.readouterr().err
    text = (tmp_path / "pages" / "study-correlation.html").read_text(encoding="utf-8")
    assert "This study could not be made: ValueError: no &lt;such&gt; channel." in text
    assert {"study-correlation", "failure-correlation"} <= set(Page(text).ids)
    pages = pages_of(tmp_path)
    assert {"study-location", "fig3"} <= set(pages["pages/study-location.html"].ids)
    assert broken_links(tmp_path, pages) == []
    assert "correlation" in {claim["study"] for claim in strict(tmp_path / "claims.json")}
    assert {record["study"] for record in strict(tmp_path / "results.json")} == {"location"}


@pytest.mark.slow
def test_a_run_whose_report_has_a_failed_figure_ends_well_and_says_so(monkeypatch, store, capsys):
    """Its numbers are what was asked for; the next report tries again, as nothing says that this one is complete."""
    draw = plots.tile_grid
    monkeypatch.setattr(plots, "tile_grid", broken)
    arguments = "--model gaussian --executor local --set num_samples=4 --set num_inference_steps=2"
    arguments += " --set bootstrap_replicates=100"
    for repaired in (False, True):
        if repaired:
            monkeypatch.setattr(plots, "tile_grid", draw)
        with pytest.raises(SystemExit) as end:
            main(["run", "correlation", "--store", str(store), *arguments.split()])
        assert not end.value.code
        output = capsys.readouterr()
        assert "report: " in output.out and "claims, each tested" in output.out
        told = "report: figure fig2 of study correlation could not be made (ValueError: no <such> channel)."
        assert (told in output.err) == (not repaired)
        assert (store / "report" / "figures" / "fig2.webp").exists() == repaired
