"""DreamSim's three vision transformers, read from the published files, with their low-rank changes merged.

Every `qkv` layer of a branch has the weights W + (alpha / r) B A: W of the network as it was published, A (r, width)
and B (3 width, r) of DreamSim's training (LoRA, Hu et al. 2022). The sum is taken once, when the files are read.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from taba_core.errors import WorkError
from taba_core.metrics.preparation import IMAGENET, OPENAI, Scale, scaled
from taba_core.metrics.vision_transformer import VIT_B16, VisionTransformer

State = dict[str, Tensor]
SIZES = VIT_B16
PROJECTED = 512  # entries of a row of the two CLIPs
# What would make the low-rank change another than W + (alpha / r) B A of the qkv layers, and what it is without.
_PLAIN = {"bias": "none", "use_rslora": False, "use_dora": False, "fan_in_fan_out": False}
_PLAIN_IF_EMPTY = (
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "layers_pattern",
    "layers_to_transform",
)


@dataclass(frozen=True)
class Branch:
    """One of the three networks.

    Attributes:
      scale: means and standard deviations of the channels of its images.
      eps: of its layer norms.
      quick_gelu: whether that is its activation.
      projects: whether it is a CLIP: vectors are normalised first, and a row is the class token after the last norm
        times a projection; else the class token before the last norm.
    """

    scale: Scale
    eps: float
    quick_gelu: bool = False
    projects: bool = True

    def network(self) -> VisionTransformer:
        """Without weights, on torch's meta device."""
        with torch.device("meta"):
            return VisionTransformer(
                SIZES, eps=self.eps, quick_gelu=self.quick_gelu, norm_first=self.projects
            )


# DINO, OpenAI's CLIP, open_clip: the order of an image's rows side by side, in which the low-rank changes are numbered.
BRANCHES = (
    Branch(IMAGENET, eps=1e-6, projects=False),
    Branch(OPENAI, eps=1e-5, quick_gelu=True),
    Branch(OPENAI, eps=1e-5),
)


class DreamSimNetwork(nn.Module):
    """Images to rows whose cosine tells how alike two images are to the eye.

    Args:
      branches: the networks, in the order of `BRANCHES`.
      projections: for each branch (width, entries of its row), None where its row is the class token.
    """

    def __init__(self, branches: list[VisionTransformer], projections: list[Tensor | None]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        for index, projection in enumerate(projections):
            self.register_buffer(f"projection_{index}", projection)

    def forward(self, images: Tensor) -> Tensor:
        """Rows of unit length and mean zero, float64 (n, entries), of images (n, 3, side, side) in [0, 1].

        The branches' rows side by side, less the mean of all their entries, over the norm.
        """
        parts = []
        for index, (branch, network) in enumerate(zip(BRANCHES, self.branches, strict=True)):
            token = network(scaled(images, branch.scale), normed=branch.projects)
            parts.append(token @ self.get_buffer(f"projection_{index}") if branch.projects else token)
        rows = torch.cat(parts, dim=1).double()
        rows = rows - rows.mean(dim=1, keepdim=True)
        return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)


@functools.lru_cache(maxsize=2)
def network_of(files: tuple[Path, ...], identity: str, device: str) -> DreamSimNetwork:
    """The network with the weights of the published files, read once for each content.

    Args:
      files: of the three branches in their order, the configuration of the low-rank changes, and their weights.
      identity: what the content of the files is.
      device: on which it computes.

    Raises:
      WorkError: a file cannot be read, or holds another network.
    """
    *of_branches, config, changes = files
    scale, adapter = _scale(config), _lora(changes)
    branches, projections = [], []
    for index, (branch, file) in enumerate(zip(BRANCHES, of_branches, strict=True)):
        state, projection = _published(branch, file)
        _merge(state, adapter, index, scale, changes)
        network = branch.network()
        network.load_state_dict(state, assign=True)
        branches.append(network)
        projections.append(projection)
    if adapter:
        raise WorkError(_not_it(changes, f"it has {min(adapter)}, which no qkv layer has"))
    return DreamSimNetwork(branches, projections).eval().requires_grad_(False).to(device)


def _published(branch: Branch, file: Path) -> tuple[State, Tensor | None]:
    """Weights of a branch, float32, by the names of its network; and its projection."""
    held = _tensors(file)
    state: Any = held.get("state_dict") if branch.projects else held
    if not isinstance(state, dict):
        raise WorkError(_not_it(file, "it has no state_dict"))
    wanted = {name: tuple(value.shape) for name, value in branch.network().state_dict().items()}
    if branch.projects:
        wanted["proj"] = (SIZES.width, PROJECTED)
    found = {name: tuple(getattr(value, "shape", ())) for name, value in state.items()}
    if wrong := sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)):
        name = wrong[0]
        raise WorkError(
            _not_it(file, f"{name} has shape {found.get(name)}, and it should be {wanted.get(name)}")
        )
    floats = {name: value.float() for name, value in state.items()}
    return floats, floats.pop("proj", None)


def _merge(state: State, adapter: State, index: int, scale: float, file: Path) -> None:
    """W + scale B A in place of W in every qkv layer of a branch; what was used leaves `adapter`."""
    for block in range(SIZES.depth):
        layer = f"blocks.{block}.attn.qkv"
        name = f"base_model.model.extractor_list.{index}.model.{layer}.lora_%s.weight"
        weight = state[f"{layer}.weight"]
        try:
            a, b = (adapter.pop(name % side).float() for side in "AB")
            state[f"{layer}.weight"] = weight + scale * (b @ a)
        except KeyError as error:
            raise WorkError(_not_it(file, f"it lacks {error.args[0]}")) from None
        except RuntimeError:
            raise WorkError(
                _not_it(file, f"A and B of {name % '*'} do not make {tuple(weight.shape)}")
            ) from None


def _scale(file: Path) -> float:
    """alpha / r of the low-rank changes. Raises WorkError: no such file, or changes of another form."""
    try:
        config: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        scale = float(config["lora_alpha"]) / int(config["r"])
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise WorkError(_not_it(file, f"{type(error).__name__}: {error}")) from None
    other = [name for name, value in _PLAIN.items() if config.get(name, value) != value]
    other += [name for name in _PLAIN_IF_EMPTY if config.get(name)]
    if other:
        raise WorkError(
            _not_it(file, f"{other[0]} is {config[other[0]]!r}, a change of weights that is not known here")
        )
    return scale


def _lora(file: Path) -> State:
    if file.suffix != ".safetensors":
        return _tensors(file)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(file))
    except (OSError, SafetensorError) as error:
        raise WorkError(_not_it(file, f"{type(error).__name__}: {error}")) from None


def _tensors(file: Path) -> dict[str, Any]:
    try:
        held = torch.load(file, map_location="cpu", weights_only=True)
    # torch reports files that are cut or of another kind by errors of several libraries.
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WorkError(_not_it(file, first)) from None
    if not isinstance(held, dict):
        raise WorkError(_not_it(file, f"it holds a {type(held).__name__}"))
    return dict(held)


def _not_it(file: Path, why: str) -> str:
    return f"{file} is not DreamSim's ({why}); delete it and run `taba fetch metrics`."
