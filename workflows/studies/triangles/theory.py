"""The triangle of a Gaussian field in closed form."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workflows.analysis.closed_form import latent_of
from workflows.configuration.context import Context


class TriangleTheory(NamedTuple):
    """Sides (image-latent, image-noise, noise-latent) and angles in degrees (image, noise, latent)."""

    sides: NDArray[np.float64]
    angles: NDArray[np.float64]


def triangle_theory(context: Context, num_inference_steps: int) -> TriangleTheory | None:
    """Roots of the mean squared sides, and the angles of the triangle with these sides; None without closed form.

    A mode of noise z becomes F z in the image and s z in the latent, so |x_0 - x_T|^2 has mean sum (F - 1)^2 over the
    modes, and so on. Sides of states of many entries hardly vary, so this is close to the mean triangle. Only for
    zero-mean data: an image's mean would move one corner.
    """
    found = latent_of(context, num_inference_steps) if context.name == "gaussian" else None
    if found is None:
        return None
    F, s = np.ravel(found[1].sampling_gain), np.ravel(found[1].signal_gain)
    entries = np.prod(context.card.sample_shape) / F.size
    squares = entries * np.array([np.square(x).sum() for x in (F - s, F - 1, s - 1)])
    image_latent, image_noise, noise_latent = squares
    # Law of cosines: at a corner, the two squares that meet there minus the opposite one.
    meeting = [(image_latent, image_noise), (image_noise, noise_latent), (image_latent, noise_latent)]
    cosine = [(a + b - (squares.sum() - a - b)) / (2 * np.sqrt(a * b)) for a, b in meeting]
    return TriangleTheory(np.sqrt(squares), np.degrees(np.arccos(np.clip(cosine, -1, 1))))
