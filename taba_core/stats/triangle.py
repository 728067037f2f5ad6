"""The triangle of noise, image and latent: sides, angles, and the most probable one (Table 10, Figures 10, 11).

Vertices in the order of `VERTICES`: image x_0, noise x_T, latent xhat_T. Angles in degrees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from taba_core.stats.angles import (
    NUM_BINS,
    Bins,
    bin_of,
    half_maximum,
    joint_mode,
    most_probable_angles,
    with_third_angle,
)
from taba_core.stats.base import (
    COUNT,
    SAMPLE,
    Array,
    Block,
    MomentStatistic,
    RowStatistic,
    State,
    check_finite,
    flat,
    over,
    ratio,
)
from taba_core.stats.inputs import Input, entries

VERTICES = ("image", "noise", "latent")
SIDES = ("image_latent", "image_noise", "noise_latent")


def sides_and_cosines(
    noise: Array, image: Array, latent: Array
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sides (n, 3) in the order of SIDES and cosines (n, 3) at the VERTICES of n triangles    (paper, Eq. 9).

    cos at x_0 = <x_T - x_0, xhat_T - x_0> / (|x_T - x_0| |xhat_T - x_0|), and so on; NaN where two vertices
    coincide. Arguments are (n, ...) of one shape; sums are float64.
    """
    u, v, w = flat(noise), flat(image), flat(latent)
    to_latent, to_noise, base = w - v, u - v, w - u
    sides = np.sqrt(np.stack([np.square(x).sum(axis=1) for x in (to_latent, to_noise, base)], axis=1))
    inner = [(to_noise * to_latent), (-to_noise * base), (to_latent * base)]
    lengths = np.stack(
        [sides[:, 0] * sides[:, 1], sides[:, 1] * sides[:, 2], sides[:, 0] * sides[:, 2]], axis=1
    )
    cosine = ratio(np.stack([x.sum(axis=1) for x in inner], axis=1), lengths)
    return sides, np.clip(cosine, -1.0, 1.0)


@dataclass(frozen=True)
class Triangle(RowStatistic):
    """Sides and angles of the triangle noise, image, latent of each sample (paper, Eq. 9-10; Table 10).

    The most probable triangle is argmax of H_0(a) H_T(b) H_L(c) over a + b + c = 180, the product of the
    histograms of the three angles over 1-degree bins. The paper treats the angles as independent; the mode of
    the joint histogram of two of them (the third follows) does not.

    `bins`: "rounded" bins are centred on whole degrees, so that three of them add to 180 without bias. In
    "reference" bins [1, 2), ..., [178, 179] every angle counts as its floor: floors of a true triangle add to
    178 to 180, so that the constraint finds a triangle up to 2 degrees too large (and angles below 1 are
    lost). Reproduces the reference; nothing else is changed by it.

    A vertex that coincides with another has no angle; it is left out of the angles' means and histograms.

    Values, 3 each in the order of VERTICES (angles) or SIDES:
      side_mean, side_std; angle_mean, angle_std.
      most_probable: by the product of the marginals; joint_mode: by the joint histogram of rounded angles.
      peak_width, peaks: of the smoothed histogram, see `half_maximum`.
      angle_of_mean_cosine: acos of the mean cosine, which the reference reports as the mean angle.
    """

    noise: str = "noise"
    image: str = "image"
    latent: str = "latent"
    bins: Bins = "rounded"

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Three states of one shape, (n, C, H, W)."""
        return (entries(self.noise), entries(self.image), entries(self.latent))

    def rows(self, block: Block) -> dict[str, Array]:
        """Sides (n, 3) and cosines (n, 3), NaN for no angle."""
        check_finite(block, self.variables)
        sides, cosine = sides_and_cosines(*(block[name] for name in self.variables))
        return {"side": sides, "cosine": cosine}

    def terms(self, rows: Mapping[str, Array]) -> Mapping[str, Array]:
        """Sides, angles and cosines with their squares, and the bin of each angle as an indicator."""
        cosine = rows["cosine"]
        defined = np.isfinite(cosine)
        angle = np.where(defined, _degrees(cosine), 0.0)
        side = rows["side"]
        binned = bin_of(_degrees(cosine), self.bins)
        return {
            "side": side,
            "side2": side**2,
            "cosine": np.where(defined, cosine, 0.0),
            "angle": angle,
            "angle2": angle**2,
            "angles": defined,
            "histogram": binned[..., None] == np.arange(NUM_BINS),
        }

    def weighted_sums(self, state: State, weights: Any) -> tuple[dict[str, Array], Array]:
        """Sums of terms, and the mode of the joint histogram under each weighting.

        The joint histogram is taken to its mode here: a thousand weightings of its 32,761 cells would not fit.
        """
        sums, count = super().weighted_sums(state, weights)
        angles = bin_of(_degrees(state["cosine"]), "rounded")
        sums["joint_mode"] = joint_mode(angles[:, 0], angles[:, 1], weights(state[SAMPLE]))
        return sums, count

    def summarise_sums(self, sums: Mapping[str, Array], count: Array) -> dict[str, Array]:
        """Means and standard deviations over samples, and what the histograms say."""
        side_mean, side_std = _mean_and_std(
            np.broadcast_to(over(count, sums["side"]), sums["side"].shape), sums["side"], sums["side2"]
        )
        angle_mean, angle_std = _mean_and_std(sums["angles"], sums["angle"], sums["angle2"])
        mean_cosine = ratio(sums["cosine"], sums["angles"])
        width, peaks = half_maximum(sums["histogram"])
        return {
            "side_mean": side_mean,
            "side_std": side_std,
            "angle_mean": angle_mean,
            "angle_std": angle_std,
            "most_probable": _each(most_probable_angles, sums["histogram"]),
            "joint_mode": with_third_angle(sums["joint_mode"]),
            "peak_width": width,
            "peaks": peaks,
            "angle_of_mean_cosine": np.degrees(np.arccos(np.clip(mean_cosine, -1.0, 1.0))),
        }


@dataclass(frozen=True)
class AngleHistogram(MomentStatistic):
    """Counts of the three angles and of image and noise angle together, over whole degrees (Figure 11).

    Integers that add: the same state for any order and any split, of a size that does not depend on n.

    Values: histogram (3, 181) in the order of VERTICES; joint (181, 181), rows the angle at the image, columns
      at the noise; most_probable and joint_mode as in `Triangle`.
    """

    noise: str = "noise"
    image: str = "image"
    latent: str = "latent"
    bins: Literal["rounded", "reference"] = "rounded"

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Three states of one shape, (n, C, H, W)."""
        return (entries(self.noise), entries(self.image), entries(self.latent))

    def partial(self, block: Block) -> State:
        """Counts of one block."""
        check_finite(block, self.variables)
        _, cosine = sides_and_cosines(*(block[name] for name in self.variables))
        binned = bin_of(_degrees(cosine), self.bins)
        histogram = np.stack([np.bincount(x[x >= 0], minlength=NUM_BINS) for x in binned.T])
        both = binned[(binned[:, :2] >= 0).all(axis=1)]
        joint = np.zeros((NUM_BINS, NUM_BINS), dtype=np.int64)
        np.add.at(joint, (both[:, 0], both[:, 1]), 1)
        return {
            COUNT: np.asarray(len(cosine), dtype=np.int64),
            "histogram": histogram.astype(np.int64),
            "joint": joint,
        }

    def combine(self, a: State, b: State) -> State:
        """Counts of both."""
        return {name: a[name] + b[name] for name in ("histogram", "joint")}

    def summarise(self, state: State) -> dict[str, Array]:
        """The counts, and the two most probable triangles."""
        joint = state["joint"]
        a, b = np.unravel_index(np.argmax(joint), joint.shape)
        mode = np.array([a, b], dtype=np.float64) if joint.any() else np.full(2, np.nan)
        return {
            "histogram": state["histogram"],
            "joint": joint,
            "most_probable": most_probable_angles(state["histogram"]),
            "joint_mode": with_third_angle(mode),
        }


def _degrees(cosine: Array) -> NDArray[np.float64]:
    return np.asarray(np.degrees(np.arccos(cosine)))


def _each(function: Any, batch: Array) -> Array:
    return np.stack([function(one) for one in batch.reshape(-1, *batch.shape[-2:])]).reshape(
        *batch.shape[:-2], 3
    )


def _mean_and_std(count: Array, total: Array, squares: Array) -> tuple[Array, Array]:
    mean = ratio(total, count)
    deviations = np.maximum(squares - count * np.square(mean), 0.0)
    return mean, np.sqrt(ratio(deviations, np.where(count > 1, count - 1, np.nan)))
