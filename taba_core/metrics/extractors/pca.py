"""Principal components of small photographs: features that second moments of pixels decide."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from taba_core.metrics.extractor import Extractor

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 16
NUM_CROPS = 4096  # of the embedded photographs, from which the components are taken
SEED = 0


class PrincipalComponents(Extractor):
    """Coordinates of a picture, averaged to 16x16, along the 64 leading components of crops of the ten photographs.

    The coordinates are those of pixels in [-1, 1] less the mean crop. The components are orthonormal; each has a
    positive entry of largest magnitude.
    """

    name = "pca-64"
    title = "PCA-64 of pixels"
    stands_for = "Inception-v3"
    num_features = 64
    least_side = SIDE

    def rows(self, pictures: Tensor) -> Tensor:
        """Coordinates, float32 (n, 64), of uint8 RGB pictures (n, 3, H, W); they are computed in float64."""
        import torch
        import torch.nn.functional as F

        small = F.adaptive_avg_pool2d(pictures.double() / 127.5 - 1, SIDE).flatten(1)
        mean, components = (torch.as_tensor(array, device=pictures.device) for array in _basis())
        return ((small - mean) @ components.T).float()


@functools.cache
def _basis() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean crop (768,) and the components (64, 768)."""
    from taba_core.blas import use_one_blas_thread
    from taba_core.models.crops import real_crops
    from taba_core.models.photos import load_photos

    use_one_blas_thread()
    crops = real_crops(load_photos(), np.arange(NUM_CROPS), seed=SEED, size=SIDE)
    x = crops.reshape(len(crops), -1).astype(np.float64)
    mean = x.mean(axis=0)
    _, vectors = np.linalg.eigh((x - mean).T @ (x - mean))
    components = vectors.T[::-1][: PrincipalComponents.num_features]
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
    return mean, components * np.sign(largest)
