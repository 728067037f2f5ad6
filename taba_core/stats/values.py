"""Statistics of numbers that each sample, or pair of images, already has: means, quantiles, extremes, examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from taba_core.errors import UsageError
from taba_core.stats.base import (
    COUNT,
    SAMPLE,
    Array,
    Block,
    Resampling,
    RowStatistic,
    SampleStatistic,
    State,
    Statistic,
    Weights,
    as_float64,
    flat,
    mean_and_std,
    ratio,
)
from taba_core.stats.inputs import Input, entries, features, number


@dataclass(frozen=True)
class ValueMean(RowStatistic):
    """Mean and spread of one number a sample: LPIPS, DreamSim, CLIP-T, any metric of pairs (Tables 5-7, 12).

    Values (scalars): mean, the tables' value; std over samples, the tables' "+-", not a standard error.
    """

    variable: str

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The one variable, (n,)."""
        return (number(self.variable),)

    def rows(self, block: Block) -> dict[str, Array]:
        """The numbers."""
        return {"value": block[self.variable]}

    def terms(self, rows: Mapping[str, Array]) -> Mapping[str, Array]:
        """Add the squares."""
        return {"value": rows["value"], "square": np.square(rows["value"])}

    def summarise_sums(self, sums: Mapping[str, Array], count: Array) -> dict[str, Array]:
        """Average over samples."""
        mean, std = mean_and_std(count, sums["value"], sums["square"])
        return {"mean": mean, "std": std}


@dataclass(frozen=True)
class Quantiles(SampleStatistic):
    """Quantiles of one number a sample, by linear interpolation (numpy's default).

    No sum of parts gives a quantile, so the n numbers are kept: 16 bytes a sample.

    Values: quantile (len(levels),).
    """

    variable: str
    levels: tuple[float, ...] = (0.25, 0.5, 0.75)

    def __post_init__(self) -> None:
        if not self.levels or not all(0 <= level <= 1 for level in self.levels):
            raise UsageError(f"levels={self.levels}: quantiles lie at levels from 0 to 1, such as 0.5.")

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The one variable, (n,)."""
        return (number(self.variable),)

    def rows(self, block: Block) -> dict[str, Array]:
        """The numbers."""
        return {"value": block[self.variable]}

    def weighted(self, state: State, weights: Weights) -> dict[str, Array]:
        """Quantiles of the numbers, each repeated as often as its weight says; NaN where none is left."""
        order = np.argsort(state["value"], kind="stable")
        value = state["value"][order]
        out = []
        for weight in as_float64(weights(state[SAMPLE]))[:, order]:
            upto = np.cumsum(weight)
            if not upto[-1]:
                out.append(np.full(len(self.levels), np.nan))
                continue
            place = np.asarray(self.levels) * (upto[-1] - 1)
            low, high = (value[np.searchsorted(upto, f(place), "right")] for f in (np.floor, np.ceil))
            out.append(low + (high - low) * (place - np.floor(place)))
        return {"quantile": np.stack(out)}


@dataclass(frozen=True)
class ValueRange(Statistic):
    """Smallest and largest entry of a variable over all samples: what a set is scaled to [0, 1] by, as
    images are before their alignment over training is measured (paper, App. O).

    Values (scalars): low, high. Exact; no interval, because extremes of n samples say nothing of the next.
    """

    resampling: ClassVar[Resampling] = "none"
    mark: ClassVar[str] = COUNT
    variable: str

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The one variable, (n, ...)."""
        return (entries(self.variable, values="number"),)

    def partial(self, block: Block) -> State:
        """Extremes of a block."""
        x = flat(block[self.variable])
        return {
            COUNT: np.asarray(len(x), dtype=np.int64),
            "low": np.asarray(x.min()),
            "high": np.asarray(x.max()),
        }

    def merge(self, a: State, b: State) -> State:
        """Extremes of both."""
        self.check_state(a, b)
        if not a or not b:
            return dict(a or b)
        low, high = np.minimum(a["low"], b["low"]), np.maximum(a["high"], b["high"])
        return {COUNT: np.asarray(a[COUNT] + b[COUNT]), "low": np.asarray(low), "high": np.asarray(high)}

    def summarise(self, state: State) -> dict[str, Array]:
        """The extremes."""
        return {"low": state["low"], "high": state["high"]}


@dataclass(frozen=True)
class TopExamples(Statistic):
    """The samples with the largest (or smallest) score, ties by the smallest id (Figures 14, 22).

    The score is a term of another statistic, such as `TopExamples(ReconstructionError(), "mae")`; a term of several
    numbers a sample counts as their sum. State: k scores and ids.

    Values: id (k,), score (k,), best first; with fewer than k samples -1 and NaN at the end. A score that is NaN
    (an empty region) comes last and is never listed.
    """

    resampling: ClassVar[Resampling] = "none"
    mark: ClassVar[str] = COUNT
    of: RowStatistic
    term: str
    k: int = 8
    largest: bool = True

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UsageError(f"k={self.k}: give at least one example.")

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Those of the statistic that scores."""
        return self.of.inputs

    def partial(self, block: Block) -> State:
        """Scores of a block."""
        terms = self.of.terms({name: as_float64(v) for name, v in self.of.rows(block).items()})
        if self.term not in terms:
            raise UsageError(f"{type(self.of).__name__} has no term {self.term}; it has: {', '.join(terms)}.")
        score = flat(terms[self.term]).sum(axis=1)
        return self._best(len(score), np.asarray(block[SAMPLE], dtype=np.int64), score)

    def merge(self, a: State, b: State) -> State:
        """The best of both."""
        self.check_state(a, b)
        if not a or not b:
            return dict(a or b)
        joined = (np.concatenate([a[name], b[name]]) for name in ("id", "score"))
        return self._best(int(a[COUNT] + b[COUNT]), *joined)

    def summarise(self, state: State) -> dict[str, Array]:
        """Ids and scores, filled up to k."""
        missing = self.k - len(state["id"])
        ids = np.concatenate([state["id"], np.full(missing, -1, dtype=np.int64)])
        return {"id": ids, "score": np.concatenate([state["score"], np.full(missing, np.nan)])}

    def _best(self, count: int, ids: Array, score: Array) -> State:
        kept = np.flatnonzero(~np.isnan(score))
        order = kept[np.lexsort((ids[kept], -score[kept] if self.largest else score[kept]))][: self.k]
        return {COUNT: np.asarray(count, dtype=np.int64), "id": ids[order], "score": score[order]}


@dataclass(frozen=True)
class CosineSimilarity(RowStatistic):
    """Cosine of the features of a pair: DINO of source and edit, CLIP of image and text (Tables 6, 7, 12).

    A pair with a zero vector has no cosine and is left out. CLIPScore = 2.5 max(cosine, 0) follows from the stored
    cosines (Hessel et al. 2021).

    Values (scalars): mean, std over pairs, clip_score (mean of 2.5 max(cos, 0)), pairs.
    """

    reference: str = "features_real"
    estimate: str = "features"

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Two variables of one shape, (n, d) or (n, ...)."""
        return (features(self.reference), features(self.estimate))

    def rows(self, block: Block) -> dict[str, Array]:
        """Cosine of every pair, NaN where undefined."""
        u, v = flat(block[self.reference]), flat(block[self.estimate])
        lengths = np.sqrt(np.square(u).sum(axis=1) * np.square(v).sum(axis=1))
        return {"cosine": np.clip(ratio((u * v).sum(axis=1), lengths), -1.0, 1.0)}

    def terms(self, rows: Mapping[str, Array]) -> Mapping[str, Array]:
        """Cosines with their squares, 0 with count 0 where undefined."""
        has = np.isfinite(rows["cosine"])
        cosine = np.where(has, rows["cosine"], 0.0)
        return {
            "cosine": cosine,
            "square": np.square(cosine),
            "positive": np.maximum(cosine, 0.0),
            "pairs": has,
        }

    def summarise_sums(self, sums: Mapping[str, Array], count: Array) -> dict[str, Array]:
        """Average over pairs."""
        mean, std = mean_and_std(sums["pairs"], sums["cosine"], sums["square"])
        score = 2.5 * ratio(sums["positive"], sums["pairs"])
        return {"mean": mean, "std": std, "clip_score": score, "pairs": sums["pairs"]}
