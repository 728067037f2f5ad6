"""One component of a diffusers pipeline directory (unet, vae, text encoder ...) as a torch module."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from taba_core.errors import UsageError, WorkError
from taba_core.models.model_files import ComponentFiles, check_component, component_files
from taba_core.models.weight_files import check_checksums


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
    check_component(directory)
    found = component_files(directory)
    for file in found.files if found else ():
        check_checksums(file)
    try:
        model, info = kind.from_pretrained(
            directory,
            local_files_only=True,
            torch_dtype=dtype,
            # Reads the file straight into place; without accelerate diffusers cannot, and would say so each time.
            low_cpu_mem_usage=find_spec("accelerate") is not None,
            output_loading_info=True,
            variant=found.variant if found else None,
        )
    except Exception as error:  # the libraries raise whatever their reading of foreign bytes stumbles over
        if not is_about_the_file(error):
            raise
        raise UsageError(
            f"{directory} does not load as {kind.__name__}: {_first_line(error)} {_EXPECTED}"
        ) from error
    wrong = [*info["missing_keys"], *info["unexpected_keys"], *map(str, info["mismatched_keys"])]
    if wrong:
        raise UsageError(
            f"{directory}: weights and config.json disagree in {len(wrong)} tensors, the first is "
            f"'{wrong[0]}'. Fetch the directory again, or correct its config.json."
        )
    _refuse_non_finite(directory, found, model)
    return model.eval().requires_grad_(False)


def is_about_the_file(error: Exception) -> bool:
    """Whether an error of a loader is about what is in the file, and not about this machine's memory or disk."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error):
        return False
    return not (isinstance(error, OSError) and error.errno is not None)


def _refuse_non_finite(directory: Path, found: ComponentFiles | None, model: Any) -> None:
    tensors = (*model.named_parameters(), *model.named_buffers())
    # Finite sums have finite terms only; a sum that is not may have overflowed, and is looked into.
    broken = [
        name
        for name, tensor in tensors
        if tensor.is_floating_point()
        and not bool(tensor.sum(dtype=torch.float64).isfinite())
        and not bool(tensor.isfinite().all())
    ]
    if broken:
        place = found.files[0] if found and len(found.files) == 1 else directory
        more = f" and {len(broken) - 1} more" if broken[1:] else ""
        raise WorkError(
            f"{place} is damaged: NaN or infinity in '{broken[0]}'{more}, read as {model.dtype}. Download it again; if "
            "it happens in half precision only, use profile=exact."
        )


_EXPECTED = "A component directory holds config.json and its weights (safetensors), as diffusers saves them."


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") + "."
