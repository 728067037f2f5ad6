"""Diffusion on plain tensors: schedules, grids, DDIM sampling, inversion, forward replacement.

Names are loaded on first use, so that grids and schedules (numpy) do not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taba_core.diffusion.ddim import apply_x0_rule, ddim_step, predict_x0
    from taba_core.diffusion.denoiser import CountedDenoiser, Denoiser
    from taba_core.diffusion.forward import forward_diffuse
    from taba_core.diffusion.grid import TimestepGrid, Transition
    from taba_core.diffusion.guidance import Guided
    from taba_core.diffusion.interpolation import generate_between, self_interpolation
    from taba_core.diffusion.inversion import (
        DDIMInversion,
        ForwardReplaced,
        InversionReport,
        Method,
        OraclePrediction,
        Problem,
        Step,
        StepMethod,
        WholeMethod,
        inversion_method,
        inversion_method_named,
        invert,
        invert_with_report,
        list_methods,
        reconstruct,
        step_predictions,
    )
    from taba_core.diffusion.sampling import StepRecord, generate, walk
    from taba_core.diffusion.schedule import NoiseSchedule
    from taba_core.diffusion.spacing import GridStyle

_HOMES = {
    "ddim": ("apply_x0_rule", "ddim_step", "predict_x0"),
    "denoiser": ("CountedDenoiser", "Denoiser"),
    "forward": ("forward_diffuse",),
    "grid": ("TimestepGrid", "Transition"),
    "guidance": ("Guided",),
    "interpolation": ("generate_between", "self_interpolation"),
    "inversion": (
        "DDIMInversion",
        "ForwardReplaced",
        "InversionReport",
        "Method",
        "OraclePrediction",
        "Problem",
        "Step",
        "StepMethod",
        "WholeMethod",
        "inversion_method",
        "inversion_method_named",
        "invert",
        "invert_with_report",
        "list_methods",
        "reconstruct",
        "step_predictions",
    ),
    "sampling": ("StepRecord", "generate", "walk"),
    "schedule": ("NoiseSchedule",),
    "spacing": ("GridStyle",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "CountedDenoiser",
    "DDIMInversion",
    "Denoiser",
    "ForwardReplaced",
    "GridStyle",
    "Guided",
    "InversionReport",
    "Method",
    "NoiseSchedule",
    "OraclePrediction",
    "Problem",
    "Step",
    "StepMethod",
    "StepRecord",
    "TimestepGrid",
    "Transition",
    "WholeMethod",
    "apply_x0_rule",
    "ddim_step",
    "forward_diffuse",
    "generate",
    "generate_between",
    "inversion_method",
    "inversion_method_named",
    "invert",
    "invert_with_report",
    "list_methods",
    "predict_x0",
    "reconstruct",
    "self_interpolation",
    "step_predictions",
    "walk",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
