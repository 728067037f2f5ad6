"""Precision, recall, density and coverage of generated images by nearest neighbours of features, in two passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from taba_core.errors import UsageError
from taba_core.stats.base import (
    COUNT,
    SAMPLE,
    Array,
    Block,
    Resampling,
    RowStatistic,
    State,
    Statistic,
    flat,
    ratio,
)
from taba_core.stats.estimate import Estimate
from taba_core.stats.inputs import Input, features
from taba_core.stats.reduce import from_arrays, reduce
from taba_core.stats.resample import NUM_REPLICATES, estimates
from taba_core.stats.tree import Reduced


@dataclass(frozen=True, eq=False)
class Points:
    """Features of a whole set, in memory, with their sample ids; equal if the arrays are."""

    ids: NDArray[np.int64]
    features: NDArray[np.float64]

    @classmethod
    def of(cls, features: Array, ids: Array | None = None) -> Points:
        """Points of an array (m, ...); ids 0..m-1 unless given."""
        values = flat(features)
        if not np.isfinite(values).all():
            raise UsageError("features hold values that are not finite; they have no distances.")
        return cls(np.arange(len(values)) if ids is None else np.asarray(ids, dtype=np.int64), values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Points) and all(
            np.array_equal(a, b) for a, b in ((self.ids, other.ids), (self.features, other.features))
        )

    def __hash__(self) -> int:
        return hash((self.ids.tobytes(), self.features.tobytes()))

    def squared_distances(self, others: Array) -> NDArray[np.float64]:
        """||p - q||^2 of every point p to every other q, (m, n): norms less twice the inner product, centred first."""
        centre = self.features.mean(axis=0)
        p, q = self.features - centre, flat(others) - centre
        if p.shape[1] != q.shape[1]:
            raise UsageError(f"points of {p.shape[1]} and {q.shape[1]} features have no distance.")
        squares = np.square(p).sum(axis=1)[:, None] + np.square(q).sum(axis=1) - 2 * (p @ q.T)
        return np.asarray(np.maximum(squares, 0.0))


@dataclass(frozen=True)
class NearestDistances(Statistic):
    """First pass: distances of every point to its k nearest neighbours among the candidates that stream by.

    A candidate with the id of a point is the point itself and no neighbour. State: (m, k) numbers; merging takes the
    k smallest of both, so no order changes a bit.

    Values: distance (m, k), ascending; infinite where there are fewer than k candidates.
    """

    resampling: ClassVar[Resampling] = "none"
    mark: ClassVar[str] = COUNT
    variable: str
    points: Points
    k: int = 3

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UsageError(f"k={self.k}: a neighbourhood has at least one neighbour.")

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The features of the candidates, (n, ...)."""
        return (features(self.variable),)

    def partial(self, block: Block) -> State:
        """The k nearest candidates of a block."""
        ids = np.asarray(block[SAMPLE])
        squares = self.points.squared_distances(block[self.variable])
        squares[self.points.ids[:, None] == ids] = np.inf
        return {COUNT: np.asarray(len(ids), dtype=np.int64), "square": self._smallest(squares)}

    def merge(self, a: State, b: State) -> State:
        """The k nearest of both."""
        self.check_state(a, b)
        if not a or not b:
            return dict(a or b)
        squares = np.concatenate([a["square"], b["square"]], axis=1)
        return {COUNT: np.asarray(a[COUNT] + b[COUNT]), "square": self._smallest(squares)}

    def summarise(self, state: State) -> dict[str, Array]:
        """Distances."""
        return {"distance": np.sqrt(state["square"])}

    def _smallest(self, squares: Array) -> Array:
        missing = max(self.k - squares.shape[1], 0)
        padded = np.pad(squares, ((0, 0), (0, missing)), constant_values=np.inf)
        return np.sort(padded, axis=1)[:, : self.k]


@dataclass(frozen=True)
class Balls:
    """Points with the final radius of each; made by `balls`, from a finished first pass only."""

    points: Points
    radius: tuple[float, ...]


def balls(reduced: Reduced) -> Balls:
    """The manifold of a set: a ball around each point that reaches its k-th nearest neighbour.

    Raises:
      UsageError: not a reduction of `NearestDistances`, over other points, or with fewer than k neighbours.
    """
    statistic = reduced.statistic
    if not isinstance(statistic, NearestDistances) or reduced.n != len(statistic.points.ids):
        raise UsageError("balls are made of a set's own nearest distances, over all its points.")
    radius = reduced.summary()["distance"][:, -1]
    if not np.isfinite(radius).all():
        raise UsageError(f"{reduced.n} points have no {statistic.k} neighbours each; use a smaller k.")
    return Balls(statistic.points, tuple(radius.tolist()))


@dataclass(frozen=True)
class InsideManifold(RowStatistic):
    """Second pass: share of the samples that lie inside the balls of a set, and in how many of them they lie.

    Precision is the share of generated samples inside the balls of real ones, recall the reverse (Kynkaanniemi et al.
    2019, Eq. 1-2: f(phi, Phi) = 1 if |phi - phi'| <= |phi' - NN_k(phi', Phi)| for any phi' in Phi; the border counts).
    Density, of generated samples x_j in the balls of m real ones y_i, is 1 / (k n) sum over j and i of
    1[x_j in B(y_i, NND_k(y_i))] (Naeem et al. 2020, Eq. 3), so it can exceed 1. Whether a sample is inside is an OR
    over balls, and the number of balls a sum, so balls may be checked in parts.

    Values (scalars): share; balls, the mean number of balls that hold a sample: density is balls / k.
    """

    variable: str
    balls: Balls

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The features, (n, ...)."""
        return (features(self.variable),)

    def rows(self, block: Block) -> dict[str, Array]:
        """1 for every sample inside a ball, and the number of balls that hold it."""
        squares = self.balls.points.squared_distances(block[self.variable])
        inside = squares <= np.square(self.balls.radius)[:, None]
        return {"inside": np.asarray(inside.any(axis=0)), "balls": np.asarray(inside.sum(axis=0))}

    def summarise_sums(self, sums: Mapping[str, Array], count: Array) -> dict[str, Array]:
        """Means over the samples."""
        return {"share": ratio(sums["inside"], count), "balls": ratio(sums["balls"], count)}


@dataclass(frozen=True)
class Coverage(RowStatistic):
    """Second pass: share of the real samples whose ball holds at least one generated sample (Naeem et al. 2020, Eq. 4).

    coverage = 1/n sum over real y_i of 1[there is a j with x_j in B(y_i, NND_k(y_i))]. The ball reaches from y_i to its
    k-th nearest other real sample, and its border counts. What streams by are the real samples; the generated ones are
    in memory.

    Values (scalars): share.

    Attributes:
      variable: features of the real samples.
      balls: of these samples, found by their ids.
      generated: the generated samples.

    Raises:
      UsageError: a sample without a ball.
    """

    variable: str
    balls: Balls
    generated: Points

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The features of the real samples, (n, ...)."""
        return (features(self.variable),)

    def rows(self, block: Block) -> dict[str, Array]:
        """1 for every real sample with a generated one in its ball."""
        nearest = self.generated.squared_distances(block[self.variable]).min(axis=0)
        return {"covered": nearest <= np.square(self._radius(np.asarray(block[SAMPLE])))}

    def _radius(self, ids: Array) -> Array:
        known = self.balls.points.ids
        order = np.argsort(known)
        place = order[np.searchsorted(known, ids, sorter=order).clip(max=len(known) - 1)]
        if lacking := ids[known[place] != ids].tolist():
            raise UsageError(
                f"Coverage: sample {lacking[0]} of {self.variable} has no ball; make the balls of these real samples, "
                f"with their ids."
            )
        return np.asarray(self.balls.radius)[place]

    def summarise_sums(self, sums: Mapping[str, Array], count: Array) -> dict[str, Array]:
        """Share of the real samples."""
        return {"share": ratio(sums["covered"], count)}


def precision_recall(
    real: Array, generated: Array, *, k: int = 3, num_replicates: int = NUM_REPLICATES, **options: Any
) -> dict[str, Estimate]:
    """Precision and recall of generated features (m, ...) against real ones (n, ...), both passes.

    The intervals resample the samples that are judged, the balls stay. `options` are those of `reduce`.
    """
    sets = {"real": Points.of(real), "generated": Points.of(generated)}
    found = {
        name: balls(_pass(NearestDistances("x", points, k), points, options)) for name, points in sets.items()
    }
    covered = {"precision": ("generated", "real"), "recall": ("real", "generated")}
    return {
        name: estimates(
            _pass(InsideManifold("x", found[of]), sets[judged], options), num_replicates=num_replicates
        )["share"]
        for name, (judged, of) in covered.items()
    }


def density_coverage(
    real: Array, generated: Array, *, k: int = 5, num_replicates: int = NUM_REPLICATES, **options: Any
) -> dict[str, Estimate]:
    """Density and coverage of generated features (m, ...) against real ones (n, ...) (Naeem et al. 2020, Eq. 3-4).

    Density counts, for every generated sample, the balls of real samples around it; coverage is the share of real
    samples whose ball holds a generated one. k = 5 is the paper's. The intervals resample what is averaged over, the
    generated samples for density and the real ones for coverage; the balls stay. `options` are those of `reduce`.

    Raises:
      UsageError: features that are not finite or not of one size, or not more than k real samples.
    """
    sets = {"real": Points.of(real), "generated": Points.of(generated)}
    found = balls(_pass(NearestDistances("x", sets["real"], k), sets["real"], options))
    inside = _pass(InsideManifold("x", found), sets["generated"], options)
    covered = _pass(Coverage("x", found, sets["generated"]), sets["real"], options)
    return {
        "density": estimates(inside, num_replicates=num_replicates)["balls"] / k,
        "coverage": estimates(covered, num_replicates=num_replicates)["share"],
    }


def _pass(statistic: Statistic, points: Points, options: Mapping[str, Any]) -> Reduced:
    return reduce(from_arrays({"x": points.features}), len(points.ids), {"s": statistic}, **options)["s"]
