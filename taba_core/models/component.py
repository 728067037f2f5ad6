"""One component of a diffusers pipeline directory (unet, vae, text encoder ...) as a torch module."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from taba_core.errors import UsageError

WEIGHTS = ("*.safetensors", "*.bin")


def load_component(kind: Any, directory: Path, dtype: torch.dtype) -> Any:
    """A diffusers model from its directory on the CPU, in evaluation mode, without gradients.

    Never touches the network; safetensors where there are any, and pickles only as plain tensors.

    Args:
      kind: the diffusers class.
      directory: holds config.json and the weights; a directory with half-precision files only
        (`*.fp16.safetensors`) is read too.
      dtype: type the weights are cast to.

    Raises:
      UsageError: the directory does not hold exactly this kind of model.
    """
    if not (directory / "config.json").is_file():
        raise UsageError(f"{directory} holds no {kind.__name__}: config.json is missing. {_EXPECTED}")
    try:
        model, info = kind.from_pretrained(
            directory,
            local_files_only=True,
            torch_dtype=dtype,
            # Reads the file straight into place; without accelerate diffusers cannot, and would say so each time.
            low_cpu_mem_usage=find_spec("accelerate") is not None,
            output_loading_info=True,
            variant="fp16" if _half_files_only(directory) else None,
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, UnpicklingError) as error:
        raise UsageError(
            f"{directory} does not load as {kind.__name__}: {_first_line(error)} {_EXPECTED}"
        ) from error
    wrong = [*info["missing_keys"], *info["unexpected_keys"], *map(str, info["mismatched_keys"])]
    if wrong:
        raise UsageError(
            f"{directory}: weights and config.json disagree in {len(wrong)} tensors, the first is "
            f"'{wrong[0]}'. Fetch the directory again, or correct its config.json."
        )
    return model.eval().requires_grad_(False)


_EXPECTED = "A component directory holds config.json and its weights (safetensors), as diffusers saves them."


def _half_files_only(directory: Path) -> bool:
    names = [path.name for pattern in WEIGHTS for path in directory.glob(pattern)]
    # model.fp16.safetensors, or model.fp16-00001-of-00002.safetensors where there are several.
    return bool(names) and all(".fp16" in name for name in names)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") + "."
