"""The networks of recipes as torch modules, with the initial weights of their original code bases.

The last layers of residual branches start at zero, so that an untrained network predicts zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from taba_core.metrics.crop_classifier import CropNetwork
from taba_core.models.adm import build_unet
from taba_core.models.adm_flags import adm_flags
from taba_core.models.torchvision_import import repair_torchvision
from taba_core.training.recipe import Recipe


def build_network(recipe: Recipe, seed: int, *, vocabulary: int = 0) -> nn.Module:
    """The module of a recipe in float32 on the CPU; its initial weights depend on the seed only.

    Args:
      vocabulary: number of tokens of the captions (family if).
    """
    repair_torchvision()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _BUILDERS[recipe.family](recipe, vocabulary)


class TextNetwork(nn.Module):
    """A text-conditional U-Net with the text encoder that is trained with it."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder


def _adm(recipe: Recipe, vocabulary: int) -> nn.Module:
    return _zero_branches(build_unet(adm_flags(recipe.name, recipe.network)))


def _autoencoder(recipe: Recipe, vocabulary: int) -> nn.Module:
    from diffusers import AutoencoderKL

    module: Any = AutoencoderKL(**recipe.network)
    return module


def _unet(recipe: Recipe, vocabulary: int) -> nn.Module:
    from diffusers import UNet2DModel

    return _zero_branches(UNet2DModel(**recipe.network))


def _dit(recipe: Recipe, vocabulary: int) -> nn.Module:
    """Initialised as DiT's code does: Xavier for all linear maps, zero for modulations and the last layer."""
    from diffusers import DiTTransformer2DModel

    transformer: Any = DiTTransformer2DModel(**recipe.network)
    for module in transformer.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
    projection = transformer.pos_embed.proj
    nn.init.xavier_uniform_(projection.weight.view(projection.weight.shape[0], -1))
    nn.init.zeros_(projection.bias)
    for block in transformer.transformer_blocks:
        _zero(block.norm1.linear)
        for embedder in (
            block.norm1.emb.timestep_embedder.linear_1,
            block.norm1.emb.timestep_embedder.linear_2,
        ):
            nn.init.normal_(embedder.weight, std=0.02)
    _zero(transformer.proj_out_1)
    _zero(transformer.proj_out_2)
    return transformer


def _text_unet(recipe: Recipe, vocabulary: int) -> nn.Module:
    from diffusers import UNet2DConditionModel
    from transformers import T5Config, T5EncoderModel

    text = T5EncoderModel(T5Config(vocab_size=vocabulary, **(recipe.text or {})))
    return TextNetwork(_zero_branches(UNet2DConditionModel(**recipe.network)), text)


def _classifier(recipe: Recipe, vocabulary: int) -> nn.Module:
    return CropNetwork(**recipe.network)


_BUILDERS = {
    "adm": _adm, "autoencoder": _autoencoder, "ldm": _unet, "dit": _dit, "if": _text_unet, "classifier": _classifier,
}  # fmt: skip


def _zero_branches(unet: Any) -> Any:
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D

    for module in unet.modules():
        if isinstance(module, ResnetBlock2D):
            _zero(module.conv2)
        elif isinstance(module, Attention):
            _zero(module.to_out[0])
    _zero(unet.conv_out)
    return unet


def _zero(layer: Any) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
