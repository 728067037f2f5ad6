"""Vision transformers of the transformers package from folders of the cache; nothing is looked for elsewhere."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from taba_core.errors import WorkError
from taba_core.metrics.hub_folder import HubFolder

if TYPE_CHECKING:
    from torch import Tensor

# Class of the transformers package by what config.json calls the network, and what it is made with.
_CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "clip": ("CLIPModel", {}),
    # Its pooler is no part of DINO: the published weights have none.
    "vit": ("ViTModel", {"add_pooling_layer": False}),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", {}),
}


def network_of(folder: HubFolder, device: str) -> Any:
    """The network of a folder in float32, loaded once for each content. Raises WorkError: the folder cannot be used."""
    if reason := folder.why_not():
        raise WorkError(f"{folder.network}: {reason}")
    return _network(str(folder.path()), folder.model_type, folder.identity(), device)


@functools.lru_cache(maxsize=3)
def _network(path: str, model_type: str, identity: str, device: str) -> Any:
    import torch

    from taba_core.models.loading import loading

    with loading():
        import transformers

        name, options = _CLASSES[model_type]
        network = getattr(transformers, name).from_pretrained(
            path, local_files_only=True, dtype=torch.float32, **options
        )
    return network.eval().to(device)


def class_token(folder: HubFolder, images: Tensor) -> Tensor:
    """The class token after the last layer norm, float32 (n, width), of prepared images."""
    import torch

    with torch.no_grad():
        states: Tensor = network_of(folder, str(images.device))(pixel_values=images).last_hidden_state
    return states[:, 0]
