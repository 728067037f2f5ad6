"""Models are loaded by one thread at a time: the libraries that do it are not made for more.

While diffusers, transformers and accelerate load, they replace functions of torch (how modules register and fill their
parameters) and its default type for the whole process, and they import parts of themselves late. Two threads that load
together leave tensors without values, or meet modules that are imported by half.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import torch

from taba_core.models.torchvision_import import repair_torchvision

_LOCK = threading.RLock()
_NOISY = ("diffusers", "transformers")


@contextmanager
def loading() -> Iterator[None]:
    """Load models within: alone in this process, without the libraries' own messages, and without touching torch's
    random state. Whatever goes wrong is told by the exceptions, which name the file.
    """
    with _LOCK, _quiet(), torch.random.fork_rng(devices=[]):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Neither log lines nor progress bars of the libraries; as before afterwards."""
    repair_torchvision()
    interfaces = [import_module(f"{name}.utils.logging") for name in _NOISY]
    before = [(own.get_verbosity(), own.is_progress_bar_enabled()) for own in interfaces]
    try:
        for own in interfaces:
            own.set_verbosity(logging.CRITICAL + 1)
            own.disable_progress_bar()
        yield
    finally:
        for own, (verbosity, bars) in zip(interfaces, before, strict=True):
            own.set_verbosity(verbosity)
            if bars:
                own.enable_progress_bar()
