"""Real images as a model sees them: squares of its size, encoded where the model works on latents."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from taba_core.artifacts.images import ImageList
from taba_core.artifacts.variable import UNCONDITIONAL
from taba_core.errors import UsageError, WorkError
from taba_core.images.collection import open_images_at
from workflows.compute.arrays import Arrays
from workflows.compute.batch import Batch, computes
from workflows.compute.conditioning import prompts_to_bytes


@computes(ImageList)
def read(batch: Batch) -> Arrays:
    """Images [start, stop) of the folder and their conditions; of a latent model the encoder's mean of each.

    Raises:
      WorkError: a file was changed since the plan was made, or the folder is gone.
    """
    artifact: ImageList = batch.artifact
    span = slice(batch.start, batch.stop)
    try:
        images = open_images_at(artifact.location)
        if artifact.condition is not None:
            images = images.under(artifact.condition)
        images.check_unchanged(artifact.stamp)
        rgb = images.squares(batch.start, batch.stop, batch.card.image_size)
        images.check_unchanged(artifact.stamp)  # nor was a file replaced while they were read
    except UsageError as error:  # all was well when the plan was made: another machine may have the files
        raise WorkError(str(error)) from None
    classes = np.full(len(batch.ids), UNCONDITIONAL, dtype=np.int32)
    if artifact.conditioning == "class":
        classes = np.array(images.classes[span], dtype=np.int32)
    arrays: Arrays = {"class_id": classes}
    if artifact.conditioning == "prompt":
        arrays["prompt"] = prompts_to_bytes(list(images.captions[span]))
    values = rgb.astype(np.float32) / 127.5 - 1
    if batch.card.domain == "latent":
        encoded = batch.model.codec.encode(batch.tensor(values), "mean")
        return {"image": encoded.float().cpu().numpy(), "decoded": rgb, **arrays}
    return {"image": _channels(values, batch.card.sample_shape[0]), **arrays}


def _channels(rgb: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """RGB as it is, or its luminance (Rec. 601) for models of one channel."""
    if count == 3:
        return rgb
    weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)[:, None, None]
    return np.asarray((rgb * weights).sum(axis=1, keepdims=True, dtype=np.float32))
