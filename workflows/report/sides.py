"""What two stores, report folders or submissions are compared by: results with numbers, verdicts and settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from taba_core.errors import UsageError
from taba_core.store import Store
from taba_core.store.address import is_remote, place_of
from taba_core.store.shards import META
from workflows.analysis.run_log import last_run_of
from workflows.analysis.study import studies
from workflows.report.from_store import section_of
from workflows.report.records import figure_records, table_records

Kind = Literal["store", "report folder", "submission"]
_TIMES = ("s", "ms")  # units of times, which differ from run to run
# What the entries of a file must have, by its name.
_WANTED = {
    "results.json": {
        "study",
        "item",
        "row",
        "column",
        "value",
        "ci95",
        "unit",
        "n",
        "T",
        "seed",
        "conventions",
    },
    "claims.json": {"id", "study", "model", "verdict", "numbers"},
}
_OF_SUBMISSION = {"model", "table7", "gaussian_noise", "run"}


class Place(NamedTuple):
    """Where in a report a number is."""

    item: str
    row: str
    column: str


class Number(NamedTuple):
    """A number, a text or None, and the 95 % interval around it."""

    value: Any
    ci95: tuple[float, float] | None


@dataclass(frozen=True)
class Answer:
    """One result: a study of a model under some settings.

    Attributes:
      study, model: what was asked of what; `model` is "" where that is not told.
      key: name of the result in its store, "" elsewhere.
      numbers: by place; measured times are left out.
      verdicts: of claims, by id; claims on times are left out.
      settings: everything that was chosen, by name.
    """

    study: str
    model: str
    key: str
    numbers: Mapping[Place, Number]
    verdicts: Mapping[str, str]
    settings: Mapping[str, str]

    @property
    def label(self) -> str:
        """How a message names it."""
        return f"{self.study} on {self.model}" if self.model else self.study


@dataclass(frozen=True)
class Side:
    """All that one of the two compared places holds.

    Attributes:
      where, kind: path or URL, and what is there.
      answers: its results.
      versions: of taba, of its code and of libraries, by name.
      unread: results that cannot be shown by this version of taba, each with the reason.
    """

    where: str
    kind: Kind
    answers: Sequence[Answer]
    versions: Mapping[str, str] = field(default_factory=dict)
    unread: Sequence[str] = ()


def read_side(where: str) -> Side:
    """What is at a path or URL; nothing there is changed.

    Raises:
      UsageError: neither a store, a report folder nor a submission. StoreError: a store that cannot be understood.
    """
    if not is_remote(where):
        path = Path(where.removeprefix("file://"))
        if path.name in _WANTED and path.is_file():
            path = path.parent
        if path.is_file():
            return _of_submission(where, path)
        if (path / "results.json").is_file():
            return _of_folder(where, path)
    if not (place_of(where) / META).exists():
        raise UsageError(
            f"{where} is neither a store (it has no {META}), nor a report folder (results.json), nor the file of a "
            "submission. Name the --store of a run, the folder that `taba report` wrote, or a submission-METHOD.json."
        )
    return _of_store(where)


# ---------------------------------------------------------------- a store


def _of_store(where: str) -> Side:
    store, answers, unread = Store.open(where, mode="r"), [], []
    versions: dict[str, set[str]] = {}
    for name, attrs in store.result_attrs().items():
        study = studies().get(str(attrs.get("study")))
        if study is None or attrs["study_version"] != study.version:
            unread.append(f"{name}: stored by another version of its study")
            continue
        result = store.read_result(name)
        assert result is not None
        result.attrs["name"] = name
        section = section_of(study, store, [result], where)
        if section.failure:
            unread.append(f"{name}: {section.failure.error}")
        records = [r for table in section.tables for r in table_records(section, table)]
        records += [r for figure in section.figures for r in figure_records(section, figure)]
        claims = [_claim(claim) for claim in section.claims]
        answers.append(
            Answer(
                study.name, str(attrs["model"]), name, _numbers(records), _verdicts(claims), _chosen(attrs)
            )
        )
        run = last_run_of(store, study.name, str(attrs["model"]))
        for package, version in {**run.get("versions", {}), **_of_code(run.get("code", {}))}.items():
            versions.setdefault(package, set()).add(str(version))
    return Side(
        where, "store", answers, {k: ", ".join(sorted(v)) for k, v in sorted(versions.items())}, unread
    )


def _claim(claim: Any) -> dict[str, Any]:
    return {"id": claim.id, "verdict": claim.verdict, "numbers": claim.numbers}


def _of_code(digests: Mapping[str, str]) -> dict[str, str]:
    return {f"code of {name}": digest for name, digest in digests.items()}


def _chosen(attrs: Mapping[str, Any]) -> dict[str, str]:
    """Settings of a stored result, nested ones by the path to them."""
    told = ("n", "T", "seed", "method", "images", "conventions", "drift", "settings", "model_spec")
    return _flat({key: attrs[key] for key in told if key in attrs})


# ---------------------------------------------------------------- files


def _of_folder(where: str, path: Path) -> Side:
    records, claims = _read(path / "results.json"), []
    if (path / "claims.json").is_file():
        claims = _read(path / "claims.json")
    answers = []
    for study in sorted({str(r["study"]) for r in records} | {str(c["study"]) for c in claims}):
        own = [r for r in records if r["study"] == study]
        told = {
            name: ", ".join(sorted({str(r[name]) for r in own if r[name] is not None}))
            for name in ("n", "T", "seed", "conventions")
        }
        # A claim of another model is another claim.
        of_study = [{**c, "id": f"{c['id']} ({c['model']})"} for c in claims if c["study"] == study]
        answers.append(Answer(study, "", "", _numbers(own), _verdicts(of_study), told))
    return Side(where, "report folder", answers)


def _of_submission(where: str, path: Path) -> Side:
    document = _read(path)
    answers, versions = [], {}
    own = {key: document.get(key) for key in ("method", "options", "module_hash")}
    for entry in document["results"]:
        records = [
            {"item": item, "row": "", "column": column, **cell}
            for item in ("table7", "gaussian_noise")
            for column, cell in entry[item].items()
        ]
        settings = _flat(own) | _chosen(entry)
        answers.append(Answer("methods", str(entry["model"]), "", _numbers(records), {}, settings))
        versions |= {**entry["run"].get("versions", {}), **_of_code(entry["run"].get("code", {}))}
    return Side(where, "submission", answers, versions)


def _read(path: Path) -> Any:
    """What a file that taba wrote holds.

    Raises:
      UsageError: it is none of taba's.
    """
    try:
        found = json.loads(path.read_bytes())
        entries = found["results"] if isinstance(found, dict) else found
        wanted = _WANTED.get(path.name, _OF_SUBMISSION)
        whole = isinstance(found, dict) == (wanted is _OF_SUBMISSION)
        known = whole and all(wanted <= entry.keys() for entry in entries)
    except (ValueError, OSError, KeyError, TypeError, AttributeError):
        known = False
    if not known:
        raise UsageError(
            f"{path} is no file of a report or of a submission. Write it again by `taba report`, or name another."
        )
    return found


# ---------------------------------------------------------------- shared


def _numbers(records: Sequence[Mapping[str, Any]]) -> dict[Place, Number]:
    return {
        Place(r["item"], r["row"], r["column"]): Number(
            r["value"], r["ci95"] and (r["ci95"][0], r["ci95"][1])
        )
        for r in records
        if r["unit"] not in _TIMES
    }


def _verdicts(claims: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {
        c["id"]: c["verdict"] for c in claims if not any(name.startswith("seconds") for name in c["numbers"])
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = (
                json.dumps(value, default=str) if isinstance(value, list) else str(value)
            )
    return found
