"""Pickles that hold arrays, numbers, texts, lists and dicts, and nothing else: what data sets are published as.

A pickle can order any function of any module to be called. Here it can name the three things that numpy arrays are
made of; any other name is refused before anything is called.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import IO, Any

import numpy as np

_RECONSTRUCT: Callable[..., Any] = np.array([0]).__reduce__()[0]  # type: ignore[assignment]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, and data are arrays alone")
        return _ALLOWED[module, name]


def load_plain(file: IO[bytes]) -> dict[str, Any]:
    """The dict of a pickle, its keys as texts; texts that Python 2 wrote are bytes.

    Raises:
      ValueError: no pickle, an incomplete one, one that holds more than data, or no dict; the reason as a phrase.
    """
    try:
        found = _Plain(file, encoding="bytes").load()
    except pickle.UnpicklingError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # the reader raises whatever its parsing of damaged bytes stumbles over
        raise ValueError(f"it is no whole pickle: {type(error).__name__}: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"it holds no dict but a {type(found).__name__}")
    return {key.decode() if isinstance(key, bytes) else str(key): value for key, value in found.items()}
