"""How well does an edit keep what was not to change? Errors of the unedited area, as PIE-Bench takes them."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from taba_core.errors import UsageError

# Axes: n images, C channels, H rows, W columns.

Preset = Literal["pie", "clean"]
_WINDOW = 11  # pixels of the Gaussian window, of sigma 1.5
Values = NDArray[np.float64]


def background_errors(
    source: NDArray[np.uint8], edit: NDArray[np.uint8], background: NDArray[np.bool_], preset: Preset = "pie"
) -> dict[str, Values]:
    """Errors of an edit in the area that was not to change, each (n,); NaN where there is no such area.

    With images f and s in [0, 1] and B = 1 in the background:

    - mse: mean of (B f - B s)^2, over all pixels (pie, as the benchmark's code takes it: it shrinks with the share of
      the background) or over those of the background alone (clean);
    - psnr: 10 log10(1 / mse), in dB; infinite where the background is the source's;
    - ssim: Gaussian window of sigma 1.5, of B f and B s with a mean over all windows (pie: black counts as alike), or
      of the images with a mean over windows whose centre lies in the background (clean); NaN of images below 11 pixels.

    Args:
      source, edit: 8-bit RGB, (n, C, H, W).
      background: (n, H, W).
    Raises:
      UsageError: shapes that do not fit.
    """
    if source.shape != edit.shape or background.shape != (len(source), *source.shape[2:]):
        raise UsageError(
            f"images of shapes {source.shape} and {edit.shape} and areas of {background.shape} do not fit together."
        )
    found: dict[str, Values] = {name: np.full(len(source), np.nan) for name in ("mse", "psnr", "ssim")}
    for i in np.flatnonzero(background.any(axis=(1, 2))):
        B = background[i]
        s, f = (images[i].astype(np.float64) / 255.0 for images in (source, edit))
        square = np.square(s - f) * B
        mse = square.mean() if preset == "pie" else square.sum() / (B.sum() * len(s))
        found["mse"][i] = mse
        with np.errstate(divide="ignore"):
            found["psnr"][i] = -10.0 * np.log10(mse)
        if min(B.shape) >= _WINDOW:
            found["ssim"][i] = _ssim(s, f, B, preset)
    return found


def _ssim(s: Values, f: Values, B: NDArray[np.bool_], preset: Preset) -> float:
    from skimage.metrics import structural_similarity

    options = {
        "data_range": 1.0,
        "channel_axis": 0,
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
    }
    if preset == "pie":
        return float(structural_similarity(s * B, f * B, **options))
    _, similar = structural_similarity(s, f, full=True, **options)
    return float(similar[:, B].mean())
