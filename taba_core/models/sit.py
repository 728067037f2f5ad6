"""SiT, the class-conditional latent transformer of a flow (Ma et al. 2024; the published SiT-XL/2).

The publisher's code runs from noise at t = 0 to an image at t = 1 and predicts x_0 - eps. Here s = 1 - t, and the
velocity is eps - x_0: the network is asked at 1 - s, and its output is negated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taba_core.models.cards import Card
from taba_core.models.network import Network, Predict
from taba_core.models.pipeline_dir import check_directory
from taba_core.models.profile import Profile
from taba_core.models.sit_files import SiTSize, sit_classes, sit_files, sit_size
from taba_core.models.sit_network import SiTNetwork
from taba_core.models.state_dict_file import check_tensors, read_state_dict
from taba_core.models.unet import check_conditioning, class_labels, load_codec, pipeline_directory

# Axes: B samples in a batch, C channels, H rows, W columns.


def load(card: Card, source: Path | None, *, device: str, profile: Profile) -> Network:
    """Load a SiT network and its autoencoder.

    Classifier-free guidance guides all four channels of the latent; the publisher's sampler guides the first three.

    Args:
      card: a card of family sit, with the architecture in `network` and a timestep_scale of 1 / N, so that the
        network's time is s.
      source: a folder with the publisher's file (or one of its training code, whose moving average is taken) and the
        autoencoder in `vae/`.
      device: cpu, cuda or cuda:N.
      profile: numerical profile.

    Raises:
      UsageError: an incomplete folder, a file that is not this network's, or a card that describes none.
      WorkError: the weights hold NaN or infinite values.
    """
    directory = pipeline_directory(card, source)
    check_directory(card, directory)
    check_conditioning(card, directory, "class")
    size = sit_size(card)
    network = load_network(sit_files(directory), size, card.name)
    names = sit_classes(size)
    return Network.of_card(
        card,
        _predict(profile.prepare(network, card.precision, device), size.num_classes),
        device=device,
        profile=profile,
        class_names=names,
        codec=load_codec(card, directory, device=device, profile=profile),
        null_class=size.num_classes,
    )


def load_network(path: Path, size: SiTSize, model: str = "this network") -> SiTNetwork:
    """The network of the publisher's weight file in float32 on the CPU, complete and checked.

    Raises:
      UsageError, WorkError: as `load`.
    """
    with torch.device("meta"):  # nothing is initialised that the file will fill anyway
        network = SiTNetwork(size)
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    state = read_state_dict(path, prefer="ema")
    check_tensors(path, model, state, expected)
    network.load_state_dict({name: state[name].float() for name in expected}, strict=True, assign=True)
    return network


def _predict(network: Callable[..., Any], num_classes: int) -> Predict:
    def predict(x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        labels = class_labels(cond, num_classes, num_classes)
        output: Tensor = network(x, 1 - t, labels)
        return -output

    return predict
