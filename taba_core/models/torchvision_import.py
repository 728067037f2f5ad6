"""The one place that imports torchvision: also beside a torch its compiled part was not built for.

Such a torchvision fails on import, because it describes operators (non-maximum suppression of boxes) that only its
compiled part declares. Networks in plain torch need none of them, so declaring them is enough; calling one raises.
"""

from __future__ import annotations

import sys
import threading
import types
from importlib.util import find_spec
from typing import Any

_MISSING = "operator torchvision::nms does not exist"
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_LOCK = threading.Lock()
_DECLARED: list[Any] = []  # a library's operators live as long as the object


def import_torchvision() -> types.ModuleType:
    """torchvision; a build that matches torch is imported as it is.

    Raises:
      ImportError: not installed. RuntimeError: it fails for another reason than its missing operators.
    """
    with _LOCK:  # two threads would take each other's half-imported modules away
        try:
            import torchvision
        except RuntimeError as error:
            if _MISSING not in str(error):
                raise
            _declare()
            import torchvision
    return torchvision


def repair_torchvision() -> None:
    """Make an installed torchvision importable: diffusers and transformers import it wherever it is installed."""
    if find_spec("torchvision") is not None:
        import_torchvision()


def _declare() -> None:
    """Forget the half-imported modules, and declare what their compiled part would have."""
    import torch

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        library.define(schema)
    _DECLARED.append(library)
