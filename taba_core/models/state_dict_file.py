"""The state dict in a PyTorch file: read without running anything, and taken out of what training code wraps it in."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taba_core.errors import UsageError, WorkError
from taba_core.models.component import is_about_the_file
from taba_core.models.weight_files import check_checksums, check_weight_file, refuse_code

# Entries under which training code keeps the weights of a network, beside counters and the optimiser's state.
_CONTAINERS = (
    "state_dict", "model", "ema", "model_state_dict", "ema_state_dict", "model_ema", "ema_model", "module", "params",
    "params_ema", "net", "unet",
)  # fmt: skip
# First parts of the names in OpenAI's networks; what stands before them was put there by a wrapper.
_ROOT = re.compile(r"((?:.*?\.)?)((?:time_embed|label_emb|input_blocks|middle_block|output_blocks|out)\..+)")


def read_state_dict(path: Path, prefer: str = "") -> dict[str, Tensor]:
    """The tensors of a network's `.pt` or `.safetensors` file, on the CPU, under OpenAI's names.

    A checkpoint of training code that holds one state dict (`state_dict`, `model`, `ema`, ..., as Lightning and others
    save it) gives that one, and a prefix that all names of an ADM network share (`module.`, `_orig_mod.`, `model.`,
    `ema.`) is dropped.

    Args:
      path: the file; an ADM network's has OpenAI's names.
      prefer: the entry that is taken where a checkpoint of training code holds several state dicts.
    Raises:
      UsageError: no such file, no PyTorch file, a file with code in it, one without a state dict, or one with several,
        of which nothing says which is meant.
    """
    check_weight_file(path)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return _without_prefix(path, load_file(path))
    check_checksums(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise refuse_code(path, code[1]) from None
        raise _unreadable(path) from None
    except Exception as error:  # torch's reader raises whatever its parsing of foreign bytes stumbles over
        if not is_about_the_file(error):
            raise
        raise _unreadable(path) from None
    return _without_prefix(path, _tensors(path, loaded, prefer))


def _unreadable(path: Path) -> UsageError:
    return UsageError(
        f"weights '{path}' are no PyTorch file, or an incomplete one ({path.stat().st_size} bytes). "
        "Fetch the file again, or give another."
    )


def _tensors(path: Path, loaded: Any, prefer: str = "") -> dict[str, Tensor]:
    if _is_state_dict(loaded):
        return dict(loaded)
    found = f"a {type(loaded).__name__}"
    if isinstance(loaded, dict):
        inside = [name for name in _CONTAINERS if _is_state_dict(loaded.get(name))]
        if prefer in inside:
            inside = [prefer]
        if len(inside) == 1:
            return dict(loaded[inside[0]])
        if inside:
            raise UsageError(
                f"weights '{path}' hold {len(inside)} networks ({', '.join(inside)}); say which by taking it out "
                f"(the paper's models are EMA weights): {_take_out(path, f'[{inside[-1]!r}]')}."
            )
        other = next((key for key, value in loaded.items() if not isinstance(value, Tensor)), None)
        found = f"a dict whose entry '{other}' is no tensor" if loaded else "an empty dict"
    raise UsageError(
        f"weights '{path}' hold {found}, and a state dict is needed: parameter names with their tensors at "
        "the top level. Give the file of the network alone (the EMA weights, not a training checkpoint)."
    )


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in value.items())
    )


def _without_prefix(path: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under their own names, where one prefix stands before all of them."""
    found = {key: _ROOT.fullmatch(key) for key in state}
    prefixes = list(dict.fromkeys(match[1] for match in found.values() if match))
    if len(prefixes) > 1:
        chosen = next((prefix for prefix in prefixes if "ema" in prefix), prefixes[-1])
        choice = f"{{k[{len(chosen)}:]: v for k, v in s.items() if k.startswith({chosen!r})}}"
        raise UsageError(
            f"weights '{path}' hold {len(prefixes)} networks, whose names begin with "
            f"{', '.join(repr(prefix) for prefix in prefixes)}; say which by taking it out (the paper's models are EMA "
            f"weights): {_take_out(path, '', choice)}."
        )
    if not prefixes or not prefixes[0]:
        return state
    return {match[2] if match else key: state[key] for key, match in found.items()}


def _take_out(path: Path, entry: str, choice: str = "s") -> str:
    """A command that writes one of the networks of a file to a file of its own."""
    target = path.with_name(f"{path.stem}-network.pt")
    read = f"s = torch.load({str(path)!r}, weights_only=True){entry}"
    return f'python -c "import torch; {read}; torch.save({choice}, {str(target)!r})"'


def check_tensors(
    path: Path,
    model: str,
    state: Mapping[str, Tensor],
    expected: Mapping[str, tuple[int, ...]],
    remedy: str = "",
) -> None:
    """Refuse a state dict that is not exactly a network's.

    Args:
      path, model: the file and the network's name, for messages.
      state: tensors by name.
      expected: shapes by name.
      remedy: what to do; the file of the model, or another `network` in its card, unless given.

    Raises:
      UsageError: keys missing or not known, a tensor of another shape, or of a type that is not one of floating-point
        numbers of 16 bits or more.
      WorkError: a weight is NaN or infinite.
    """
    remedy = remedy or f"Give the file of {model}, or correct `network` in its card."
    found = {key: tuple(tensor.shape) for key, tensor in state.items()}
    for what, keys in (
        ("missing", [key for key in expected if key not in found]),
        ("unexpected", [key for key in found if key not in expected]),
    ):
        if keys:
            raise UsageError(
                f"weights '{path}' do not fit {model}: {what} {_first_of(keys)}; {len(expected)} tensors are "
                f"expected, {len(found)} were found. {remedy}"
            )
    for key, shape in expected.items():
        if found[key] != shape:
            raise UsageError(
                f"weights '{path}' do not fit {model}: '{key}' has shape {found[key]}, expected {shape}. {remedy}"
            )
    for key, tensor in state.items():
        if not tensor.is_floating_point() or tensor.element_size() < 2:
            raise UsageError(
                f"weights '{path}' are quantised: '{key}' is of type {str(tensor.dtype).removeprefix('torch.')}, and "
                "the numbers of floating-point weights are needed (float16, bfloat16, float32, float64). Give the "
                "file that is not quantised."
            )
    broken = [key for key, tensor in state.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise WorkError(
            f"weights '{path}' are damaged: NaN or infinite values in {_first_of(broken)}. Fetch them again."
        )


def _first_of(keys: Iterable[str]) -> str:
    first, *others = keys
    return f"'{first}'" + (f" and {len(others)} more" if others else "")
