"""Where does the sampling path run between noise, latent and image? (Figure 3)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taba_core.stats.base import Array, Block, RowStatistic, flat, over, ratio
from taba_core.stats.inputs import Input, path, state

NUM_POINTS = 25


@dataclass(frozen=True)
class PathDistance(RowStatistic):
    """Distance of the sampling path to the segment from noise to latent (Figure 3).

    D(t, w) = mean over samples of ||(1-w) x_T + w xhat_T - x_t||_2. With v = xhat_T - x_T, a_t = ||x_t -
    x_T||^2, b_t = <x_t - x_T, v>, c = ||v||^2 it is sqrt(a_t - 2 w b_t + w^2 c) for every w, so a sample
    keeps 2 L + 1 numbers and `weights` can change later without a pass over the data.

    Levels, L of them: `image` as level 0 (unless None), then the steps of `path` in their order 1..T, x_T
      last.

    Values:
      distance: (L, len(weights)); nearest: (L,) the weight with the smallest mean distance.
      to_noise, to_latent: (L,) mean distances to the two ends; share_nearer_latent: (L,) of the samples.
      crossing: share of the path from x_T to level 0 walked when the state is first nearer to the latent than
        to the noise in the mean (claim CF3); NaN if it never is.
    """

    noise: str = "noise"
    latent: str = "latent"
    path: str = "x_t"
    image: str | None = "image"
    weights: tuple[float, ...] = tuple(np.linspace(0, 1, NUM_POINTS).tolist())

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Noise, latent, image (n, C, H, W) and the path (n, T, C, H, W)."""
        ends = (state(self.noise), state(self.latent), path(self.path))
        return ends + (() if self.image is None else (state(self.image),))

    def rows(self, block: Block) -> dict[str, Array]:
        """a (n, L), b (n, L) and c (n,), in float64: a and 2wb - w^2 c nearly cancel close to the segment."""
        noise, latent = flat(block[self.noise]), flat(block[self.latent])
        v = latent - noise
        levels = [] if self.image is None else [np.asarray(block[self.image])]
        levels += [np.asarray(block[self.path][:, step]) for step in range(block[self.path].shape[1])]
        a, b = np.empty((len(v), len(levels))), np.empty((len(v), len(levels)))
        for index, level in enumerate(levels):
            u = flat(level) - noise
            a[:, index], b[:, index] = np.square(u).sum(axis=1), (u * v).sum(axis=1)
        return {"a": a, "b": b, "c": np.square(v).sum(axis=1)}

    def terms(self, rows: Mapping[str, Array]) -> Mapping[str, Array]:
        """Distances of every sample."""
        a, b, c = rows["a"], rows["b"], rows["c"][:, None]
        to_noise, to_latent = np.sqrt(a), np.sqrt(np.maximum(a - 2 * b + c, 0.0))
        w = np.asarray(self.weights)
        squares = a[..., None] - 2 * w * b[..., None] + w**2 * c[..., None]
        return {
            "distance": np.sqrt(np.maximum(squares, 0.0)),
            "to_noise": to_noise,
            "to_latent": to_latent,
            "share_nearer_latent": to_latent < to_noise,
        }

    def summarise_sums(self, sums: Mapping[str, Array], count: Array) -> dict[str, Array]:
        """Mean distances, and where they are smallest."""
        mean = {name: ratio(total, over(count, total)) for name, total in sums.items()}
        nearest = np.asarray(self.weights)[np.argmin(np.nan_to_num(mean["distance"], nan=np.inf), axis=-1)]
        crossing = self._crossing(mean["to_latent"] < mean["to_noise"])
        return {**mean, "nearest": nearest, "crossing": crossing}

    def _crossing(self, nearer: Array) -> Array:
        """Progress (T - t) / T at the first nearer level met on the way down, for (..., L)."""
        downwards = nearer[..., ::-1]
        last = nearer.shape[-1] - 1 + (1 if self.image is None else 0)
        progress = np.argmax(downwards, axis=-1) / last
        return np.where(downwards.any(axis=-1), progress, np.nan)


def path_distance_direct(noise: Array, latent: Array, states: Array, weights: Array) -> NDArray[np.float64]:
    """D(t, w) as it is defined, with every interpolant formed: the slow reference of `PathDistance`.

    Args:
      noise, latent: (n, ...).
      states: (n, L, ...).
      weights: (G,).

    Returns:
      (L, G).
    """
    u, v = flat(noise), flat(latent)
    out = np.empty((states.shape[1], len(weights)))
    for step in range(states.shape[1]):
        x = flat(states[:, step])
        for index, w in enumerate(weights):
            out[step, index] = np.sqrt(np.square((1 - w) * u + w * v - x).sum(axis=1)).mean()
    return out
