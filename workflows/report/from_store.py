"""From a store's results to its report: every finished study presents itself, the report package writes files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from taba_core.errors import UsageError
from taba_core.store import Store
from taba_core.store.address import is_remote
from taba_core.store.template import mark_as_no_data
from taba_core.verdicts import Verdict
from workflows.analysis.run_log import run_log
from workflows.analysis.study import studies

if TYPE_CHECKING:
    import xarray as xr

    from workflows.analysis.presentation import Failure, Run, Section, StoredResult
    from workflows.analysis.study import Study

_STAMP = ".stamp"
_LAYOUT = "site 3"  # raise it when the pages change: a report of another layout is made anew


def write_store_report(path: str | Path, output: Path | None, *, force: bool) -> tuple[Path, list[Failure]]:
    """Write the report of a store; skipped if it already shows exactly these results and `force` is off.

    Returns:
      Path of index.html, and the parts that could not be made; a report with such parts is made anew next time.
    Raises:
      UsageError: no store, or a store without results.
    """
    store = Store.open(path)
    if output is None and is_remote(path):
        raise UsageError(
            f"--store {path} is remote, and a report is written to a directory: add --output FOLDER."
        )
    folder = output or store.path / "report"
    names = store.results()
    if not names:
        raise UsageError(
            f"{path} holds no results yet; run a study first: taba run correlation --store {path}."
        )
    stamp = _stamp(store, names)
    index = folder / "index.html"
    if not force and index.exists() and (folder / _STAMP).exists() and (folder / _STAMP).read_text() == stamp:
        return index, []
    from workflows.report.files import remove, write_text
    from workflows.report.write import write_report

    remove(folder / _STAMP)
    index, failures = write_report(collect(store, names, str(path)), folder)
    if not failures:
        write_text(folder / _STAMP, stamp)
    if output is None:
        mark_as_no_data(store.place / "report")
    return index, failures


def collect(store: Store, names: list[str], path: str = "STORE") -> Run:
    """All results of a store as one presentable run. Results of another study version are left out.

    Args:
      path: the store as commands and code on the pages are to name it.
    """
    from workflows.analysis.presentation import Run
    from workflows.report.model_groups import describe

    by_study: dict[str, list[xr.Dataset]] = {}
    for name in names:
        result = store.read_result(name)
        assert result is not None
        result.attrs["name"] = name
        by_study.setdefault(str(result.attrs["study"]), []).append(result)
    sections = []
    for study in studies().values():
        current = [r for r in by_study.get(study.name, []) if r.attrs["study_version"] == study.version]
        if current:
            sections.append(section_of(study, store, sorted(current, key=_result_order), path))
    log = run_log(store)
    every = sorted((r for results in by_study.values() for r in results), key=_result_order)
    facts = {
        str(r.attrs["model"]): (str(r.attrs["model_title"]), r.attrs.get("model_spec", {})) for r in every
    }
    models = sorted({title for title, _ in facts.values()})
    return Run(
        title="There and Back Again: noise, images and DDIM inversions",
        summary=f"{len(sections)} {'study' if len(sections) == 1 else 'studies'} on {', '.join(models)}. Measured "
        "numbers carry 95 % intervals where n allows one; every claim is an inequality tested on its interval.",
        sections=tuple(sections),
        store=path,
        models=tuple(describe(name, title, spec) for name, (title, spec) in facts.items()),
        provenance={"store": store.place.name} | {"runs": {_run_title(entry): entry for entry in log}},
    )


def section_of(study: Study, store: Store, results: list[xr.Dataset], path: str) -> Section:
    """A study's part of the report; where it cannot be presented, what went wrong, and its claims if they can be."""
    from workflows.analysis.presentation import Failure, Section
    from workflows.report.queries import queries_of

    try:
        section = study.present([study.annotate(store, result) for result in results])
        section = replace(section, results=_behind(results))
        stored = {result.attrs["name"]: result for result in results}
        return replace(section, queries=queries_of(section, stored, path))
    except Exception as error:  # whatever is wrong with one study, the others are shown
        failure = Failure.of("study", study.name, study.name, study.title, error)
    try:
        return replace(study.section(results), results=_behind(results), failure=failure)
    except Exception:  # the claims are stored with what could not be presented
        return Section(study.name, study.title, study.question, study.paper_section, failure=failure)


def _behind(results: Sequence[xr.Dataset]) -> tuple[StoredResult, ...]:
    """The results of a section as its pages name them."""
    from workflows.analysis.findings import row_labels
    from workflows.analysis.presentation import StoredResult

    return tuple(
        StoredResult(str(r.attrs["name"]), str(r.attrs["model"]), label, int(r.attrs["n"]), int(r.attrs["T"]))
        for r, label in zip(results, row_labels(results), strict=True)
    )


def _run_title(entry: dict[str, Any]) -> str:
    return f"{entry.get('started', '')} {entry.get('model', '')}: {entry.get('command', '')}"


def _result_order(result: xr.Dataset) -> tuple[Any, ...]:
    # The largest run of each model first: it gets the plain figure ids.
    return (
        result.attrs["model"] != "photo-mixture",
        result.attrs["model"],
        -result.attrs["n"],
        result.attrs["name"],
    )


def _stamp(store: Store, names: list[str]) -> str:
    runs = run_log(store)
    text = json.dumps(
        [_LAYOUT, names, version("taba"), [(s.name, s.version) for s in studies().values()], runs]
    )
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def print_headline(path: str | Path, asked: Sequence[str]) -> None:
    """Print from the written report what answers the question: the first table and the verdicts of asked studies.

    Args:
      asked: names of the studies; correlation's table (the paper's Table 2) speaks for all if it is among them.
    """
    folder = Path(path) / "report"
    rows = json.loads((folder / "results.json").read_text())
    tables = {path.stem for path in (folder / "tables").glob("*.md")}
    first = {row["study"]: row["item"] for row in reversed(rows) if row["item"] in tables}
    order = [study for study in ("correlation", *asked) if study in asked and study in first]
    chosen = [study for study in order if study != "model-card"] or order
    if chosen:
        print(f"\n{(folder / 'tables' / (first[chosen[0]] + '.md')).read_text().strip()}")
    claims = [claim for claim in json.loads((folder / "claims.json").read_text()) if claim["study"] in asked]
    if claims:
        print("\nclaims, each tested on its 95 % interval:")
    several = len({claim["model"] for claim in claims}) > 1
    for verdict in get_args(Verdict):
        chosen = [claim for claim in claims if claim["verdict"] == verdict]
        lines = _by_model(chosen) if several else ["; ".join(claim["id"] for claim in chosen)] * bool(chosen)
        for index, line in enumerate(lines):
            print(f"  {'' if index else verdict:<13} {line}")


def _by_model(claims: Sequence[Mapping[str, Any]]) -> list[str]:
    """The claims' own ids, a line for each model: the line names what may follow an id in a report."""
    by_model: dict[str, dict[str, None]] = {}
    for claim in claims:
        by_model.setdefault(claim["model"], {})[claim["base"]] = None
    return [f"{model}: {'; '.join(ids)}" for model, ids in by_model.items()]
