"""Units of work on pictures, those one sees: plain areas, and distances to the eye. Latents are decoded for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from taba_core.models import perceptual
from taba_core.models.base import card_of
from taba_core.spec import PerceptualDistance, PlainRegions
from taba_core.stats.regions import plain_mask
from workflows.decoding import decoded_rgb, latent_view

if TYPE_CHECKING:
    from taba_core.store import Store
    from workflows.warm_models import Arrays, WarmModels


def regions(
    worker: WarmModels, store: Store, artifact: PlainRegions, shard: int, variables: tuple[str, ...]
) -> Arrays:
    """Plain areas of the images."""
    group, card = store.open_artifact(artifact.source), card_of(artifact.source.model)
    if card.domain == "latent":
        decoded = group.read_shard(shard, ("decoded",))["decoded"]
        image = latent_view(decoded, *card.sample_shape[1:])
    else:
        image = group.read_shard(shard, ("image",))["image"]
    # A threshold meant for [0, 1] is twice as large on the model's [-1, 1].
    threshold = artifact.threshold * (2 if artifact.value_range == "0..1" else 1)
    return {"region": plain_mask(image, threshold).astype(np.uint8)}


def perceptual_distances(
    worker: WarmModels, store: Store, artifact: PerceptualDistance, shard: int, variables: tuple[str, ...]
) -> Arrays:
    """LPIPS of the images and their reconstructions; of latent models of both decoded to 8-bit RGB."""
    root = artifact.root()
    latent = card_of(root.model).domain == "latent"
    shown = "decoded" if latent else "image"
    image = store.open_artifact(root).read_shard(shard, (shown,))[shown]
    back = store.open_artifact(artifact.source).read_shard(shard, ("reconstruction",))["reconstruction"]
    if latent:
        back = decoded_rgb(worker.model(root.model), worker.tensor(back))
    pictures = (worker.tensor(_picture(array)) for array in (image, back))
    return {"lpips": perceptual.distances(*pictures, weights=artifact.weights).cpu().numpy()}


def _picture(array: NDArray[Any]) -> NDArray[np.float32]:
    """8-bit RGB as [-1, 1]; images of a pixel model as they are."""
    return (array / 127.5 - 1).astype(np.float32) if array.dtype == np.uint8 else array
