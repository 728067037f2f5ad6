"""The state dict in a PyTorch file: read without running anything, and taken out of what training code wraps it in."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taba_core.errors import UsageError
from taba_core.models.component import is_about_the_file
from taba_core.models.weight_files import check_checksums, check_weight_file, refuse_code

# Entries under which training code keeps the weights of a network, beside counters and the optimiser's state.
_CONTAINERS = (
    "state_dict", "model", "ema", "model_state_dict", "ema_state_dict", "model_ema", "ema_model", "module", "params",
    "params_ema", "net", "unet",
)  # fmt: skip
# First parts of the names in OpenAI's networks; what stands before them was put there by a wrapper.
_ROOT = re.compile(r"((?:.*?\.)?)((?:time_embed|label_emb|input_blocks|middle_block|output_blocks|out)\..+)")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of an ADM network's `.pt` file, on the CPU, under OpenAI's names.

    A checkpoint of training code that holds one state dict (`state_dict`, `model`, `ema`, ..., as Lightning and others
    save it) gives that one, and a prefix that all names share (`module.`, `_orig_mod.`, `model.`, `ema.`) is dropped.

    Raises:
      UsageError: no such file, no PyTorch file, a file with code in it, one without a state dict, or one with several,
        of which nothing says which is meant.
    """
    check_weight_file(path, "torch")
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
    return _without_prefix(path, _tensors(path, loaded))


def _unreadable(path: Path) -> UsageError:
    return UsageError(
        f"weights '{path}' are no PyTorch file, or an incomplete one ({path.stat().st_size} bytes). "
        "Fetch the file again, or give another."
    )


def _tensors(path: Path, loaded: Any) -> dict[str, Tensor]:
    if _is_state_dict(loaded):
        return dict(loaded)
    found = f"a {type(loaded).__name__}"
    if isinstance(loaded, dict):
        inside = [name for name in _CONTAINERS if _is_state_dict(loaded.get(name))]
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
