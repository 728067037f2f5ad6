"""Measures of pictures that are at hand as arrays: rows of extractors, and distances of pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from taba_core.metrics.extractors.clip import Clip
from taba_core.metrics.image_distance import ImageDistance


def clip_similarity(pictures: NDArray[np.uint8], captions: Sequence[str]) -> NDArray[np.float64]:
    """Cosine of picture i and caption i by CLIP ViT-B/32, (n,), of (n, 3, H, W). Raises WorkError: no weights."""
    import torch

    from taba_core.metrics.extractors.clip import clip_t

    clip = Clip()
    rows = clip.rows(torch.from_numpy(np.ascontiguousarray(pictures)))
    return np.asarray(clip_t(rows, clip.text_rows(captions)).numpy(), dtype=np.float64)


def distance_of_pictures(
    distance: ImageDistance, reference: NDArray[np.uint8], estimate: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """Distance of picture i and its reference, (n,), of 8-bit RGB (n, 3, H, W). Raises WorkError: no weights."""
    import torch

    pairs = (torch.from_numpy((part / 127.5 - 1).astype(np.float32)) for part in (reference, estimate))
    return np.asarray(distance.of(*pairs).numpy(), dtype=np.float64)
