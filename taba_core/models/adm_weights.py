"""OpenAI's ADM state dicts in the names and layouts of diffusers' `UNet2DModel`.

Every tensor of the file is used and every parameter of the network is filled, or the file is refused: a
partly filled network gives images that are wrong without looking wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from taba_core.errors import UsageError
from taba_core.models.adm_flags import AdmFlags
from taba_core.models.state_dict_file import check_tensors

Shape = tuple[int, ...]
StateDict = Mapping[str, Tensor]

# Sub-modules of a block: diffusers' name -> OpenAI's.
_RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ATTENTION = {"group_norm": "norm", "to_q": "qkv", "to_k": "qkv", "to_v": "qkv", "to_out.0": "proj_out"}
_DOWN, _UP = _RESIDUAL | _ATTENTION | {"conv": "op"}, _RESIDUAL | _ATTENTION | {"conv": "conv"}
_STEMS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "class_embedding": "label_emb",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_MIDDLE = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MIDDLE_BLOCK = re.compile(r"mid_block\.((?:resnets|attentions)\.\d)\.(.+)")
_QKV = {"to_q": 0, "to_k": 1, "to_v": 2}


@dataclass(frozen=True)
class Origin:
    """Where one parameter of the network comes from.

    Attributes:
      key: OpenAI's name of the tensor.
      shape: that tensor's shape.
      part: 0, 1, 2 for the queries, keys, values of a fused qkv; None for a whole tensor.
      heads: attention heads of a fused qkv.
    """

    key: str
    shape: Shape
    part: int | None = None
    heads: int = 1


def origins(shapes: Mapping[str, Shape], flags: AdmFlags) -> dict[str, Origin]:
    """Where every parameter of a `UNet2DModel` comes from; a bijection onto OpenAI's parameters.

    Args:
      shapes: shape of every parameter of the network, by diffusers' name.
    """
    return {name: _origin(name, shape, flags) for name, shape in shapes.items()}


def to_diffusers(state: StateDict, origin: Mapping[str, Origin], flags: AdmFlags) -> dict[str, Tensor]:
    """The tensors of an OpenAI state dict under diffusers' names, float32.

    A fused qkv has 3C rows. In the legacy order they go head by head, and inside a head queries, keys,
    values of C/heads rows each; in the new order all queries, all keys, all values.
    """
    return {name: _take(state[source.key], source, flags).float() for name, source in origin.items()}


def to_openai(state: StateDict, origin: Mapping[str, Origin], flags: AdmFlags) -> dict[str, Tensor]:
    """The inverse of `to_diffusers`: a network's own parameters in the file format of OpenAI's code."""
    fused: dict[str, dict[int, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    for name, source in origin.items():
        if source.part is None:
            whole[source.key] = state[name].reshape(source.shape)
        else:
            fused.setdefault(source.key, {})[source.part] = state[name]
    shape_of = {source.key: source for source in origin.values()}
    for key, parts in fused.items():
        rows = [parts[part].unflatten(0, (shape_of[key].heads, -1)) for part in range(3)]
        stacked = torch.stack(rows, dim=0 if flags.use_new_attention_order else 1)
        whole[key] = stacked.reshape(shape_of[key].shape)
    return whole


def _take(tensor: Tensor, source: Origin, flags: AdmFlags) -> Tensor:
    if source.part is None:
        return tensor.squeeze(-1) if source.key.endswith("proj_out.weight") else tensor
    if flags.use_new_attention_order:
        rows = tensor.unflatten(0, (3, -1))[source.part]
    else:
        rows = tensor.unflatten(0, (source.heads, 3, -1))[:, source.part].flatten(0, 1)
    return rows.squeeze(-1) if rows.ndim == 3 else rows


def _origin(name: str, shape: Shape, flags: AdmFlags) -> Origin:
    module, _, leaf = name.rpartition(".")
    inner = module.rpartition(".")[2]
    key = f"{_openai_module(module, flags)}.{leaf}"
    if inner in _QKV:
        channels = shape[0]
        heads = flags.heads(channels, upwards=name.startswith("up_blocks"))
        fused: Shape = (3 * channels, channels, 1) if leaf == "weight" else (3 * channels,)
        return Origin(key, fused, _QKV[inner], heads)
    if key.endswith("proj_out.weight"):  # OpenAI's is a 1-D convolution
        return Origin(key, (*shape, 1))
    return Origin(key, shape)


def _openai_module(module: str, flags: AdmFlags) -> str:
    """OpenAI numbers the blocks of all levels in one list, each level L residual blocks and a change of
    resolution; diffusers numbers them by level."""
    if module in _STEMS:
        return _STEMS[module]
    if middle := _MIDDLE_BLOCK.fullmatch(module):
        return f"middle_block.{_MIDDLE[middle[1]]}.{_UP[middle[2]]}"
    found = _BLOCK.fullmatch(module)
    assert found is not None, module
    direction, level, kind, layer = found[1], int(found[2]), found[3], int(found[4])
    L = flags.num_res_blocks
    if direction == "down":
        block = (level + 1) * (L + 1) if kind == "downsamplers" else 1 + level * (L + 1) + layer
        return f"input_blocks.{block}.{int(kind == 'attentions')}.{_DOWN[found[5]]}"
    place = int(kind == "attentions")
    if kind == "upsamplers":
        layer, place = L, 1 + flags.has_attention(flags.num_levels - 1 - level)
    return f"output_blocks.{level * (L + 1) + layer}.{place}.{_UP[found[5]]}"


def check_fit(
    path: Path, model: str, state: StateDict, origin: Mapping[str, Origin], flags: AdmFlags
) -> None:
    """Refuse a state dict that is not exactly this network's.

    Raises:
      UsageError: flags the file contradicts, keys missing or not known, a tensor of another shape, or of a type that
        is not one of floating-point numbers of 16 bits or more.
      WorkError: a weight is NaN or infinite.
    """
    expected = {source.key: source.shape for source in origin.values()}
    found = {key: tuple(tensor.shape) for key, tensor in state.items()}
    remedy = f"Give the file of {model}, or correct `network` in its card."
    if contradictions := _contradictions(found, flags):
        raise UsageError(f"weights '{path}' contradict the card of {model}: {contradictions}. {remedy}")
    check_tensors(path, model, state, expected, remedy)


def _contradictions(found: Mapping[str, Shape], flags: AdmFlags) -> str:
    """Flags that the file itself shows and that differ, as text; a better message than a list of keys."""
    stated: dict[str, int | bool] = {"class_cond": "label_emb.weight" in found}
    if width := found.get("time_embed.0.weight"):
        stated["num_channels"] = width[-1]
    if outputs := found.get("out.2.weight"):
        stated["learn_sigma"] = outputs[0] == 6
    rows, channels = (
        found.get("input_blocks.1.0.emb_layers.1.bias"),
        found.get("input_blocks.1.0.out_layers.3.bias"),
    )
    if rows and channels:
        stated["use_scale_shift_norm"] = rows[0] == 2 * channels[0]
    if any(key.startswith("input_blocks.") for key in found) and flags.num_levels > 1:
        stated["resblock_updown"] = not any(key.endswith(".0.op.weight") for key in found)
    differing = [
        f"{name} is {value} in the file and {getattr(flags, name)} in the card"
        for name, value in stated.items()
        if value != getattr(flags, name)
    ]
    return ", ".join(differing)
