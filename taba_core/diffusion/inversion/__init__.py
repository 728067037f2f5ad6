"""Inversion: from a clean image back to the noise it might have come from.

A method is a small class (`method`), found by name (`registry`) and run by one loop (`driver`). The methods are in the
room `methods`; what several of them share, and what goes around any of them (`forward_replacement`, `oracle`), is here.

Names are loaded on first use, so that a method can be looked up where torch is not needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taba_core.diffusion.inversion.driver import InversionReport, invert, invert_with_report, reconstruct
    from taba_core.diffusion.inversion.forward_replacement import ForwardReplaced
    from taba_core.diffusion.inversion.method import (
        Between,
        Carried,
        Fallback,
        Method,
        Record,
        Step,
        StepMethod,
        Whole,
        WholeMethod,
    )
    from taba_core.diffusion.inversion.methods.ddim import DDIMInversion
    from taba_core.diffusion.inversion.oracle import OraclePrediction
    from taba_core.diffusion.inversion.predictions import step_predictions
    from taba_core.diffusion.inversion.problem import Dynamics, Problem, per_image_rms
    from taba_core.diffusion.inversion.registry import (
        inversion_method,
        inversion_method_class,
        inversion_method_named,
        list_methods,
    )

_HOMES = {
    "driver": (
        "InversionReport",
        "invert",
        "invert_with_report",
        "reconstruct",
    ),
    "forward_replacement": ("ForwardReplaced",),
    "method": (
        "Between",
        "Carried",
        "Fallback",
        "Method",
        "Record",
        "Step",
        "StepMethod",
        "Whole",
        "WholeMethod",
    ),
    "methods.ddim": ("DDIMInversion",),
    "oracle": ("OraclePrediction",),
    "predictions": ("step_predictions",),
    "problem": (
        "Dynamics",
        "Problem",
        "per_image_rms",
    ),
    "registry": (
        "inversion_method",
        "inversion_method_class",
        "inversion_method_named",
        "list_methods",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Between",
    "Carried",
    "DDIMInversion",
    "Dynamics",
    "Fallback",
    "ForwardReplaced",
    "InversionReport",
    "Method",
    "OraclePrediction",
    "Problem",
    "Record",
    "Step",
    "StepMethod",
    "Whole",
    "WholeMethod",
    "inversion_method",
    "inversion_method_class",
    "inversion_method_named",
    "invert",
    "invert_with_report",
    "list_methods",
    "per_image_rms",
    "reconstruct",
    "step_predictions",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
