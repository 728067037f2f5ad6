"""Principal components of the channels, for showing latents of more than three channels (Figure 2c)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taba_core.stats.base import COUNT, Array, Block, MomentStatistic, State, as_float64, merge_means
from taba_core.stats.inputs import Input, state


@dataclass(frozen=True)
class ChannelPCA(MomentStatistic):
    """PCA of the C channels over all pixels of all samples: C x C co-moments.

    Each component's entry of largest magnitude is positive, so the signs do not depend on the eigensolver.

    Values:
      mean (C,); components (C, C), rows by falling variance; variance (C,) along them; share (C,) of the
      total.
    """

    variable: str

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The one variable, (n, C, H, W)."""
        return (state(self.variable),)

    def partial(self, block: Block) -> State:
        """Mean and co-moments of the channels over the pixels of a block; count = pixels."""
        x = as_float64(np.moveaxis(np.asarray(block[self.variable]), 1, 0)).reshape(
            block[self.variable].shape[1], -1
        )
        mean = x.mean(axis=1)
        centred = x - mean[:, None]
        return {COUNT: np.asarray(x.shape[1], dtype=np.int64), "mean": mean, "comoment": centred @ centred.T}

    def combine(self, a: State, b: State) -> State:
        """Chan's rule."""
        mean, delta, weight = merge_means(a, b, "mean")
        return {"mean": mean, "comoment": a["comoment"] + b["comoment"] + weight * np.outer(delta, delta)}

    def summarise(self, state: State) -> dict[str, Array]:
        """Eigenvectors of the covariance."""
        variance, vectors = np.linalg.eigh(state["comoment"] / max(int(state[COUNT]) - 1, 1))
        variance, components = np.maximum(variance[::-1], 0.0), vectors.T[::-1]
        largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
        total = variance.sum()
        share = variance / total if total > 0 else np.full_like(variance, np.nan)
        return {
            "mean": state["mean"],
            "components": components * np.sign(largest),
            "variance": variance,
            "share": share,
        }


def project_channels(x: Array, mean: Array, components: Array) -> NDArray[np.float64]:
    """Coordinates along the components, (n, C, H, W) -> (n, K, H, W); each scaled to [0, 1]."""
    centred = as_float64(x) - mean[:, None, None]
    out = np.einsum("kc,nchw->nkhw", components, centred)
    low, high = out.min(axis=(2, 3), keepdims=True), out.max(axis=(2, 3), keepdims=True)
    return np.asarray((out - low) / np.where(high > low, high - low, 1.0))
