"""From estimates to a stored result, and from a stored result back to cells, curves and claims.

A number `name` is stored as `name` with `name_low` and `name_high`, the ends of its 95 % interval; claims are
stored as JSON in the attributes. A notebook reads the same dataset the report reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taba_core.conventions import UNGUIDED
from workflows.analysis.presentation import Cell, Claim, PaperValue

if TYPE_CHECKING:
    import xarray as xr

    from taba_core.stats.estimate import Estimate

View = TypeVar("View")
_MANY = 1e7  # images that nobody makes to decide one claim
_GUIDANCE = ("guidance_scale", "inversion_guidance_scale")
# Settings that tell no two results apart: n and T are told anyway, how paths are stored changes no number.
_UNSHOWN = ("num_samples", "num_inference_steps", "trajectories")


class Findings:
    """Collects what a study found, then becomes one dataset."""

    def __init__(self) -> None:
        self._variables: dict[str, tuple[tuple[str, ...], NDArray[Any], dict[str, Any]]] = {}
        self._coords: dict[str, Any] = {}
        self._claims: list[dict[str, Any]] = []

    def coordinate(self, name: str, values: Sequence[Any] | NDArray[Any]) -> None:
        """Label a dimension."""
        self._coords[name] = np.asarray(values)

    def array(self, name: str, values: ArrayLike, dims: Sequence[str] = (), **attrs: Any) -> None:
        """A plain array (a picture, a spread, a floor)."""
        self._variables[name] = (tuple(dims), np.asarray(values), attrs)

    def estimate(self, name: str, estimate: Estimate, dims: Sequence[str] = (), **attrs: Any) -> None:
        """A value with its 95 % interval."""
        low, high = estimate.interval(0.95)
        attrs = {"interval": estimate.kind, **attrs}
        for suffix, values in (("", estimate.value), ("_low", low), ("_high", high)):
            self.array(name + suffix, values, dims, **attrs)

    def claim(
        self, id: str, statement: str, verdict: str, numbers: Mapping[str, Any], explanation: str = ""
    ) -> None:
        """A tested claim; numbers are what its verdict was read from."""
        plain = {k: v.tolist() if isinstance(v, (np.ndarray, np.generic)) else v for k, v in numbers.items()}
        self._claims.append(
            {
                "id": id,
                "statement": statement,
                "verdict": verdict,
                "numbers": plain,
                "explanation": explanation,
            }
        )

    def claim_margins(
        self, id: str, statement: str, margins: Mapping[Any, Estimate], explanation: str = ""
    ) -> None:
        """A claim that holds where every margin, a scalar estimate, is above 0; they and their intervals are kept."""
        from taba_core.stats.verdict import every, positive

        verdict = every(positive(margin) for margin in margins.values())
        numbers = {str(name): interval_numbers("margin", margin) for name, margin in margins.items()}
        self.claim(id, statement, verdict, numbers, explanation)

    def dataset(self) -> xr.Dataset:
        """Everything collected."""
        import xarray as xr

        return xr.Dataset(self._variables, coords=self._coords, attrs={"claims": json.dumps(self._claims)})


def interval_numbers(name: str, estimate: Estimate) -> dict[str, Any]:
    """A scalar estimate as claim numbers: value and interval."""
    low, high = estimate.interval(0.95)
    return {name: float(estimate.value), f"{name}_ci95": [float(low), float(high)]}


def claims_of(result: xr.Dataset, label: str = "", *, first: bool = True) -> tuple[Claim, ...]:
    """The claims stored with a result; those of all but the first result of a study have its label in their ids."""
    study = str(result.attrs["study"])
    return tuple(
        Claim(
            id=entry["id"] + ("" if first else f", {label}"),
            base=entry["id"],
            label=label,
            statement=entry["statement"],
            verdict=entry["verdict"],
            numbers=entry["numbers"],
            explanation=" ".join(filter(None, (entry["explanation"], _images_wanted(entry, result)))),
            study=study,
            model=str(result.attrs["model"]),
            result=str(result.attrs.get("name", "")),
        )
        for entry in json.loads(result.attrs["claims"])
    )


def _images_wanted(entry: Mapping[str, Any], result: xr.Dataset) -> str:
    """How many images would tell an unresolved margin from 0: intervals narrow with the root of their number."""
    if entry["verdict"] != "not resolved":
        return ""
    numbers = entry["numbers"]
    margins = [
        part for part in (numbers, *numbers.values()) if isinstance(part, dict) and "margin_ci95" in part
    ]
    factors = [_half_width(part) / abs(part["margin"]) for part in margins if part["margin"]]
    if not factors or not 1 < max(factors) < np.inf:
        return ""
    wanted = float(f"{result.attrs['n'] * max(factors) ** 2:.1g}")
    if wanted > _MANY:
        return "The margin is so near 0 that no affordable number of images would decide it."
    own = f"{result.attrs['study']}.num_samples"
    option = own if own in result.attrs.get("settings", {}) else "num_samples"
    return (
        f"At this margin about {wanted:,.0f} images would be needed to decide (--set {option}={wanted:.0f})."
    )


def _half_width(part: Mapping[str, Any]) -> float:
    low, high = part["margin_ci95"]
    return float(high - low) / 2


def for_each(
    view: Callable[[str, xr.Dataset, int, Sequence[xr.Dataset]], tuple[View, ...]],
    results: Sequence[xr.Dataset],
    labels: Sequence[str],
) -> tuple[View, ...]:
    """The tables or figures drawn once a result: view(label, result, index, results), put in a row."""
    return tuple(
        item for index, result in enumerate(results) for item in view(labels[index], result, index, results)
    )


def all_claims(results: Sequence[xr.Dataset], labels: Sequence[str]) -> tuple[Claim, ...]:
    """The claims of all results; those of the first keep their ids, the others' name their result."""
    return tuple(
        claim
        for index, (result, label) in enumerate(zip(results, labels, strict=True))
        for claim in claims_of(result, label, first=index == 0)
    )


class Shown(NamedTuple):
    """How a table shows a stored number: decimals, unit, by what it is multiplied, and the floor beside it."""

    digits: int = 3
    unit: str = ""
    scale: float = 1.0
    floor: float | None = None


def cell(
    result: xr.Dataset,
    name: str,
    shown: Shown = Shown(),
    *,
    spread: float | None = None,
    theory: float | None = None,
    paper: PaperValue | None = None,
    **where: Any,
) -> Cell:
    """A table cell of the number `name` at coordinates `where`, with its interval if one is stored.

    `spread`, `theory` and `paper` are in the unit of the table, as the floor is.

    The paper's value stands beside DDIM inversion without guidance only, which is what its tables of one method are
    about.
    """
    scale = shown.scale
    value = float(result[name].sel(where)) * scale
    ci95 = None
    if f"{name}_low" in result:
        ci95 = (
            float(result[f"{name}_low"].sel(where)) * scale,
            float(result[f"{name}_high"].sel(where)) * scale,
        )
    return Cell(
        value,
        ci95=ci95,
        floor=shown.floor,
        spread=spread,
        theory=theory,
        paper=paper if method_text(result) == "DDIM" and not is_guided(result) else None,
        digits=shown.digits,
        unit=shown.unit,
        seed=seed_of([result]),
        **item_context(result),
    )


def item_context(result: xr.Dataset) -> dict[str, Any]:
    """n, T, conventions and drift of the profile of a result, as tables and figures state them."""
    drift = str(result.attrs.get("drift", ""))
    return {
        "n": int(result.attrs["n"]),
        "T": int(result.attrs["T"]),
        "conventions": str(result.attrs["conventions"]) + (f"; {drift}" if drift else ""),
    }


def on_real_images(result: xr.Dataset) -> bool:
    """Whether a result is of real images that somebody gave, not of generated ones."""
    return bool(result.attrs.get("images"))


def is_guided(result: xr.Dataset) -> bool:
    """Whether a result is of a sampler or an inversion under classifier-free guidance; the paper's numbers are not."""
    settings = result.attrs.get("settings", {})
    return any(settings.get(name, UNGUIDED) != UNGUIDED for name in _GUIDANCE)


def images_notes(labels: Sequence[str], results: Sequence[xr.Dataset]) -> tuple[str, ...]:
    """A note under a table for each result of real images: which they are, and what the noise beside them is."""
    return tuple(
        f"{label}: real images ({result.attrs['images']}; n of them are used). They came from no noise; what stands "
        "here for noise is white noise that was drawn for comparison."
        for label, result in zip(labels, results, strict=True)
        if on_real_images(result)
    )


def seed_of(results: Sequence[xr.Dataset]) -> int | None:
    """The seed of the noise that images were generated from, of the first result; None where some are real."""
    return None if any(map(on_real_images, results)) else int(results[0].attrs["seed"])


def each_own(labels: Sequence[str], texts: Sequence[str]) -> str:
    """What a caption says of all results: the one text they share, or every result's own after its label.

    `each_own(["A", "B"], ["k = 20", "k = 5"])` is "k = 20 (A), k = 5 (B)"; results with one text are named together.
    """
    if len(set(texts)) <= 1:
        return "".join(texts[:1])
    of_text = {
        text: [label for label, own in zip(labels, texts, strict=True) if own == text] for text in texts
    }
    return ", ".join(f"{text} ({'; '.join(same)})" for text, same in of_text.items())


def shared_context(results: Sequence[xr.Dataset]) -> dict[str, Any]:
    """`item_context` of a figure of several results: what they share, and nothing of what differs between them."""
    each = [item_context(result) for result in results]
    nothing = {"n": None, "T": None, "conventions": ""}
    return {
        name: each[0][name] if all(one[name] == each[0][name] for one in each) else empty
        for name, empty in nothing.items()
    }


def row_labels(results: Sequence[xr.Dataset]) -> list[str]:
    """One label a result: the model's title, and where titles repeat the settings in which the results differ."""
    titles = [_title(r) for r in results]
    # A setting that came after a result was stored was at what its default is.
    unset = dict.fromkeys(_GUIDANCE, UNGUIDED)
    facts = [{"n": r.attrs["n"], "T": r.attrs["T"], **unset, **dict(r.attrs["settings"])} for r in results]
    labels = list(titles)
    for title in set(titles):
        same = [i for i, t in enumerate(titles) if t == title]
        # Versions differ in the settings they store: a result does not differ in what it does not say.
        told_by_all = [key for key in facts[same[0]] if all(key in facts[i] for i in same)]
        differing = [key for key in told_by_all if len({str(facts[i][key]) for i in same}) > 1]
        shown = [key for key in differing if key.rpartition(".")[2] not in _UNSHOWN]
        for i in same if len(same) > 1 else ():
            told = [f"{key}={_short(facts[i].get(key))}" for key in shown]
            # Results of one setting differ in what no setting says (another version of a model): the key tells.
            labels[i] = ", ".join([title, *(told or [str(results[i].attrs["name"]).rsplit("-", 1)[-1]])])
    return labels


def method_text(result: xr.Dataset) -> str:
    """The inversion method of a result as tables name it."""
    method = str(result.attrs.get("method", "ddim"))
    return "DDIM" if method == "ddim" else method


def _title(result: xr.Dataset) -> str:
    """The model, and its inversion method where that is another than the paper's."""
    method = method_text(result)
    return str(result.attrs["model_title"]) + ("" if method == "DDIM" else f", {method}")


def _short(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def item_id(base: str, index: int, results: Sequence[xr.Dataset]) -> str:
    """Id of a figure drawn once a result: the plain name for the first, the key added for the others."""
    return base if index == 0 else f"{base}-{results[index].attrs['name'].rsplit('-', 1)[-1]}"
