"""The row of one's own method as a file: what the method is, what it scored, what another needs to make it again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from taba_core.store import Store
from workflows.analysis.presentation import Cell, Column
from workflows.analysis.run_log import last_run_of
from workflows.studies.methods.rows import OWN_ROW
from workflows.studies.methods.tables import table7_row

if TYPE_CHECKING:
    import xarray as xr

FORMAT = "taba submission 1"
MADE_OF = "own_row"  # attribute: what the row of one's own method was made of
_IMAGES = ("generation", "regions", "edits/images")
_OF_RUN = ("command", "started", "versions", "code", "machine", "device")


def with_origin(store: Store, result: xr.Dataset) -> xr.Dataset:
    """The result with what its own row was made of: method, spec and key of its artifacts, the run that made them."""
    if OWN_ROW not in result["row"].values:
        return result
    named = {
        what: name
        for what, name in dict(result.attrs["artifacts"]).items()
        if what in _IMAGES or what.rpartition("/")[2] == OWN_ROW
    }
    groups = {group.name: group.artifact for group in store.artifacts()}
    inversion = groups.get(named[f"latent/{OWN_ROW}"])
    run = last_run_of(store, str(result.attrs["study"]), str(result.attrs["model"]))
    origin = {
        # Where the user's file lies is nobody else's matter.
        "inversion": {} if inversion is None else inversion.model_dump(exclude={"method_location"}),
        "artifacts": named,
        "run": {key: run[key] for key in _OF_RUN if key in run},
    }
    return result.assign_attrs({MADE_OF: origin})


def submissions(results: Sequence[xr.Dataset]) -> dict[str, Any]:
    """Files by name, one for each method, options and hash of a user's file among the results that have an own row.

    The first of a method is `submission-METHOD`; those of other options or of an edited file add the key of their first
    result.
    """
    of_method: dict[str, list[xr.Dataset]] = {}
    for result in results:
        if made_of := result.attrs.get(MADE_OF):
            spec = made_of["inversion"]
            which = (result.attrs["method"], spec.get("method_options"), spec.get("method_fingerprint"))
            of_method.setdefault(repr(which), []).append(result)
    files: dict[str, Any] = {}
    for same in of_method.values():
        name = "submission-" + re.sub(r"[^A-Za-z0-9_.-]", "-", str(same[0].attrs["method"]))
        if name in files:
            name += "-" + _key(same[0])
        files[name] = _submission(same)
    return files


def _submission(results: Sequence[xr.Dataset]) -> dict[str, Any]:
    first = results[0].attrs[MADE_OF]["inversion"]
    return {
        "format": FORMAT,
        "method": str(results[0].attrs["method"]),
        "options": first.get("method_options"),
        "module_hash": first.get("method_fingerprint") or None,
        "results": [_scored(result) for result in results],
    }


def _scored(result: xr.Dataset) -> dict[str, Any]:
    attrs, made_of = result.attrs, result.attrs[MADE_OF]
    told = ("model", "model_title", "model_spec", "n", "T", "seed", "images", "conventions", "settings")
    return {
        "result": str(attrs.get("name", "")),
        **{key: attrs[key] for key in told if key in attrs},
        "table7": _columns(table7_row(result, OWN_ROW)),
        "gaussian_noise": _columns(table7_row(result, None)),
        **made_of,
    }


def _columns(cells: Sequence[tuple[Column, Cell]]) -> dict[str, Mapping[str, Any]]:
    return {
        column.name: {
            "label": column.label,
            "value": cell.value,
            "ci95": cell.ci95,
            "spread": cell.spread,
            "floor": cell.floor,
            "unit": cell.unit,
            "n": cell.n,
            "T": cell.T,
            "proxy": column.proxy,
        }
        for column, cell in cells
    }


def _key(result: xr.Dataset) -> str:
    return str(result.attrs["name"]).rsplit("-", 1)[-1]
