"""In which steps of the inversion, and where in the image, does the error arise? (Figure 4, Table 11)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from taba_core.errors import UsageError
from taba_core.stats.base import Array, Block, RowStatistic, as_float64, over, ratio, std_from_sums
from taba_core.stats.inputs import Input, mask, path
from taba_core.stats.regions import region_weights, with_all

_STEPS_AT_ONCE = 8  # keeps the float64 temporaries of a sample within a core's cache; does not change a value


@dataclass(frozen=True)
class StepError(RowStatistic):
    """Error of the inversion's predictions per step and region (paper, Eq. 13-15; Figure 4, Table 11).

    For step t and region R, pooled over samples,
      E_R(t) = [sum over R of |eps_t - epshat_t| / number of entries of R] / [sum over all of |eps_t| / (n d)]
      rho_R(t) = std over R of epshat_t / std over R of eps_t
    and E_R[a, b] = sum of E_R(t) for t = a..b. Steps are in the order of the inversion: level 1 first.

    Values; regions are plain, non_plain, all; intervals are the first steps, the rest, all steps:
      error (3, T), std_ratio (3, T), std (3, T) of the inversion's predictions, std_reference (3, T).
      error_per_image (3, T): mean over images of the ratio taken per image; images without the region left
      out. interval_error (3 regions, 3 intervals), interval_error_per_image; first_share (3,) = first / all.

    Attributes:
      first: share of the steps in the first interval, rounded to whole steps, at least one.
    """

    reference: str = "eps_t"
    prediction: str = "eps_hat"
    region: str = "region"
    first: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.first < 1:
            raise UsageError(
                f"first={self.first} is no share of the steps; use a number between 0 and 1, such as 0.1."
            )

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Predictions while sampling and while inverting, (n, T, C, H, W), and the plain mask, (n, H, W)."""
        return (path(self.reference), path(self.prediction), mask(self.region))

    def num_first_steps(self, num_steps: int) -> int:
        """Steps of the first interval."""
        return max(1, round(self.first * num_steps))

    def rows(self, block: Block) -> dict[str, Array]:
        """Sums over the entries of either region at every step of a sample."""
        masks = region_weights(block[self.region])
        eps, eps_hat = block[self.reference], block[self.prediction]
        sums = np.stack([_step_sums(eps[i], eps_hat[i], masks[i]) for i in range(len(masks))])
        channels = eps.shape[2]
        names = ("error", "magnitude", "u", "uu", "v", "vv")
        return {"entries": channels * masks.sum(axis=1), **{name: sums[:, k] for k, name in enumerate(names)}}

    def terms(self, rows: Mapping[str, Array]) -> Mapping[str, Array]:
        """Add the ratio of every image, 0 with count 0 where it lacks the region."""
        entries = with_all(rows["entries"])[:, None, :]
        magnitude = ratio(with_all(rows["magnitude"])[..., 2:], entries[..., 2:])
        per_image = ratio(ratio(with_all(rows["error"]), entries), magnitude)
        has = np.isfinite(per_image)
        return {**rows, "per_image": np.where(has, per_image, 0.0), "images": has}

    def summarise_sums(self, sums: Mapping[str, Array], count: Array) -> dict[str, Array]:
        """Pool over samples, then put regions before steps."""
        entries = with_all(sums["entries"])[..., None, :]
        s = {name: with_all(sums[name]) for name in ("error", "magnitude", "u", "uu", "v", "vv")}
        error = ratio(ratio(s["error"], entries), ratio(s["magnitude"][..., 2:], entries[..., 2:]))
        std = std_from_sums(np.broadcast_to(entries, s["v"].shape), s["v"], s["vv"])
        std_reference = std_from_sums(np.broadcast_to(entries, s["u"].shape), s["u"], s["uu"])
        by_step = {
            "error": error,
            "error_per_image": ratio(sums["per_image"], over(sums["images"], sums["per_image"])),
            "std": std,
            "std_reference": std_reference,
            "std_ratio": ratio(std, std_reference),
        }
        values = {name: np.moveaxis(array, -1, -2) for name, array in by_step.items()}
        intervals = self._intervals(values["error"])
        return {
            **values,
            "interval_error": intervals,
            "interval_error_per_image": self._intervals(values["error_per_image"]),
            "first_share": ratio(intervals[..., 0], intervals[..., 2]),
        }

    def _intervals(self, error: Array) -> Array:
        first = self.num_first_steps(error.shape[-1])
        return np.stack([error[..., :first].sum(-1), error[..., first:].sum(-1), error.sum(-1)], axis=-1)


def _step_sums(eps: Array, eps_hat: Array, mask: Array) -> Array:
    """Sums of |u-v|, |u|, u, u^2, v, v^2 of one sample over channels and pixels of a region: (6, T, 2)."""
    num_steps, channels = eps.shape[:2]
    out = np.empty((6, num_steps, 2))
    for start in range(0, num_steps, _STEPS_AT_ONCE):
        steps = slice(start, min(start + _STEPS_AT_ONCE, num_steps))
        u = as_float64(eps[steps]).reshape(-1, channels, len(mask))
        v = as_float64(eps_hat[steps]).reshape(u.shape)
        for k, entries in enumerate((np.abs(u - v), np.abs(u), u, np.square(u), v, np.square(v))):
            out[k, steps] = entries.sum(axis=1) @ mask
    return out
