"""ADM: the pixel U-Nets of OpenAI's improved-diffusion and guided-diffusion, as diffusers' `UNet2DModel`.

Weights are the original `.pt` state dicts (adm_weights); the architecture is the card's `network` (adm_flags).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taba_core.errors import UsageError
from taba_core.models.adm_flags import NORM_GROUPS, AdmFlags, adm_flags
from taba_core.models.adm_weights import check_fit, origins, to_diffusers
from taba_core.models.cards import Card
from taba_core.models.network import Network
from taba_core.models.profile import Profile
from taba_core.models.state_dict_file import read_state_dict

# Axes: B samples in a batch, C = 3 channels, H rows, W columns.


def load(card: Card, source: Path | None, *, device: str, profile: Profile) -> Network:
    """An ADM network from its weight file.

    Args:
      card: a card of family adm, with the architecture flags in `network`.
      source: OpenAI's `.pt` file.
      device: cpu, cuda or cuda:N.
      profile: numerical profile.
    Raises:
      UsageError: no file, a file that is not this network's, or flags that cannot be.
      WorkError: the weights hold NaN or infinite values.
    """
    flags = _flags_of(card)
    if source is None or source.is_dir():
        given = "none were given" if source is None else f"'{source}' is a directory"
        raise UsageError(f"the weights of {card.name} are one .pt file, and {given}. Give the file itself.")
    return network_of(card, load_unet(source, flags, card.name), device=device, profile=profile)


def network_of(card: Card, unet: torch.nn.Module, *, device: str, profile: Profile) -> Network:
    """The denoiser of a U-Net that is at hand (`build_unet`, `load_unet`); the module is moved and cast in place.

    Raises:
      UsageError: flags that cannot be, or a device this machine does not have.
    """
    flags = _flags_of(card)
    prepared = profile.prepare(unet, card.precision, device)

    def predict(x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        # t stays a floating-point tensor: the 4000-step models are asked at quarters of a timestep.
        return prepared(x, t, cond["class_id"] if flags.class_cond else None, return_dict=False)[0]

    names = [str(index) for index in range(flags.num_classes)] if flags.class_cond else ()
    return Network.of_card(card, predict, device=device, profile=profile, class_names=names)


def load_unet(path: Path, flags: AdmFlags, model: str = "this network") -> torch.nn.Module:
    """The U-Net of a weight file in float32 on the CPU, complete and checked.

    Args:
      path: OpenAI's `.pt` file.
      flags: its architecture.
      model: its name, for messages.
    Raises:
      UsageError, WorkError: as `load`.
    """
    with torch.device("meta"):  # nothing is initialised that the file will fill anyway
        unet = build_unet(flags)
    origin = origins({name: tuple(value.shape) for name, value in unet.state_dict().items()}, flags)
    state = read_state_dict(path)
    check_fit(path, model, state, origin, flags)
    unet.load_state_dict(to_diffusers(state, origin, flags), strict=True, assign=True)
    return unet


def build_unet(flags: AdmFlags) -> Any:
    """The `UNet2DModel` of these flags, with torch's initial weights."""
    from diffusers import UNet2DModel
    from diffusers.models.attention_processor import Attention

    unet: Any = UNet2DModel(**unet_config(flags))
    # UNet2DModel has one head width for all levels; ADM-64 has four heads of every width. No tensor's shape
    # depends on the number of heads, so a wrong number would load silently.
    for name, module in unet.named_modules():
        if isinstance(module, Attention):
            channels = module.to_q.in_features
            module.heads = flags.heads(channels, upwards=name.startswith("up_blocks"))
            module.sliceable_head_dim = module.heads
            module.scale = (channels / module.heads) ** -0.5
    return unet


def unet_config(flags: AdmFlags) -> dict[str, Any]:
    """Constructor arguments of the `UNet2DModel` of these flags; heads are left at one (see `build_unet`)."""
    down, up = ("DownBlock2D", "UpBlock2D")
    if flags.resblock_updown:
        down, up = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
    attention = [flags.has_attention(level) for level in range(flags.num_levels)]
    resample = "resnet" if flags.resblock_updown else "conv"
    return dict(
        sample_size=flags.image_size,
        in_channels=3,
        out_channels=6 if flags.learn_sigma else 3,
        block_out_channels=flags.block_channels,
        layers_per_block=flags.num_res_blocks,
        down_block_types=tuple("AttnDownBlock2D" if has else down for has in attention),
        up_block_types=tuple("AttnUpBlock2D" if has else up for has in reversed(attention)),
        downsample_type=resample,
        upsample_type=resample,
        downsample_padding=1,
        resnet_time_scale_shift="scale_shift" if flags.use_scale_shift_norm else "default",
        norm_num_groups=NORM_GROUPS,
        attn_norm_num_groups=NORM_GROUPS,  # else the middle attention loses its norm under scale_shift
        norm_eps=1e-5,
        attention_head_dim=None,
        dropout=flags.dropout,
        num_class_embeds=flags.num_classes if flags.class_cond else None,
        freq_shift=0,
        flip_sin_to_cos=True,
    )


def _flags_of(card: Card) -> AdmFlags:
    flags = adm_flags(card.name, card.network)
    if card.sample_shape != (3, flags.image_size, flags.image_size):
        raise UsageError(
            f"the card of {card.name} has sample_shape {list(card.sample_shape)} and network flag "
            f"image_size={flags.image_size}; they must agree as [3, image_size, image_size]."
        )
    if flags.class_cond != (card.conditional == "class"):
        raise UsageError(
            f"the card of {card.name} is conditional: {card.conditional} and has network flag "
            f"class_cond={str(flags.class_cond).lower()}; class goes with true, none with false."
        )
    return flags
