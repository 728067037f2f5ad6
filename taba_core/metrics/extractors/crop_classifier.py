"""What a classifier of crops reads: features that were learned, and which photograph a picture is taken for."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taba_core.errors import WorkError
from taba_core.metrics.extractor import Extractor
from taba_core.metrics.measure import PackagedFile

if TYPE_CHECKING:
    from torch import Tensor

# Axes: n pictures, P = 10 photographs.

WEIGHTS = PackagedFile("crop-classifier")


class CropClassifier(Extractor):
    """The 64 numbers from which a small network tells crops of the ten photographs apart (`metrics.crop_classifier`).

    A stand-in for networks that were trained on many images: this one knows ten, and what tells these apart.
    """

    name = "crop-classifier"
    title = "crop classifier"
    stands_for = "Inception-v3, DINO"
    files = (WEIGHTS,)
    num_features = 64
    least_side = 16

    def rows(self, pictures: Tensor) -> Tensor:
        """Features, float32 (n, 64), of uint8 RGB pictures (n, 3, H, W), brought to 32x32 by means over boxes.

        A picture of 16x16 is thereby enlarged: every pixel stands four times.

        Raises:
          WorkError: the weights that come with taba are missing or damaged.
        """
        import torch

        from taba_core.metrics.crop_classifier import rows_of

        weights = {name: torch.as_tensor(array, device=pictures.device) for name, array in _weights().items()}
        return rows_of(weights, pictures)

    def probabilities(self, features: ArrayLike) -> NDArray[np.float64]:
        """Probability of each photograph, (n, P), that the network gives pictures with these features (n, 64).

        The photographs are in the order of their names, as `load_photos` gives them. Raises WorkError: as `rows`.
        """
        weights = _weights()
        logits = np.asarray(features, dtype=np.float64) @ weights["head.weight"].T + weights["head.bias"]
        shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.asarray(shares / shares.sum(axis=-1, keepdims=True))

    def posterior(self, pictures: Tensor) -> NDArray[np.float64]:
        """`probabilities` of uint8 RGB pictures (n, 3, H, W), (n, P). Raises WorkError: as `rows`."""
        return self.probabilities(self.rows(pictures).cpu().numpy())


def _weights() -> dict[str, NDArray[np.float64]]:
    reason = WEIGHTS.why_not()
    if reason is not None:
        raise WorkError(f"{CropClassifier.title}: {reason}")
    return _read(WEIGHTS.sha256)


@functools.lru_cache(maxsize=1)
def _read(digest: str) -> dict[str, NDArray[np.float64]]:
    """The weights whose hash is `digest`: half-precision numbers in float64."""
    from safetensors.numpy import load_file

    state: dict[str, Any] = load_file(WEIGHTS.path())
    return {name: array.astype(np.float64) for name, array in state.items()}
