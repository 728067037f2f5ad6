"""The models of a worker: loaded once, kept warm, shared by the threads of a process where they can be.

What a model refuses to be loaded from, it refuses every time: that is remembered, and the unit is not tried again.
"""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakValueDictionary

from cluster.pool.executor import HopelessUnit
from taba_core.errors import TabaError
from taba_core.model_spec import ModelSpec
from taba_core.models.base import card_of, load_spec, network_spec

_LOCK = threading.Lock()
# Models that a worker keeps: a unit needs two at most, where one network inverts the images of another. A study of a
# training has hundreds of checkpoints, each of which is asked for a while and then no more.
KEPT = 2
# Networks in use by any thread; one that no worker holds any more is gone.
_NETWORKS: WeakValueDictionary[tuple[ModelSpec, str], Any] = WeakValueDictionary()


class SharedModels:
    """The models of one worker by spec, those asked last."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._models: dict[ModelSpec, Any] = {}
        self._refused: dict[ModelSpec, str] = {}

    def get(self, spec: ModelSpec) -> Any:
        """The denoiser of a spec, loaded unless it is among the `KEPT` that were asked last.

        Raises:
          HopelessUnit: it cannot be loaded from what is there. WorkError: the disk could not be read; try again.
        """
        spec = network_spec(spec)  # of one network on several levels there is one
        if spec in self._refused:
            raise HopelessUnit(self._refused[spec])
        if spec in self._models:
            self._models[spec] = self._models.pop(spec)  # the last one asked is the last to go
        else:
            while len(self._models) >= KEPT:  # before the next one takes its memory
                del self._models[next(iter(self._models))]
            try:
                self._models[spec] = _shared(spec, self._device)
            except TabaError as error:
                cause = error.__cause__
                if (
                    isinstance(cause, OSError) and cause.errno is not None
                ):  # the machine's, not the files' fault
                    raise
                self._refused[spec] = str(error)
                raise HopelessUnit(str(error)) from None
        return self._models[spec]


def _shared(spec: ModelSpec, device: str) -> Any:
    if card_of(spec).embedded:
        return load_spec(
            spec, device=device
        )  # keeps what it prepares for the levels it is asked at: one a thread
    with _LOCK:  # the second thread waits, and finds what the first has loaded
        network = _NETWORKS.get((spec, device))
        if network is None:
            network = _NETWORKS[spec, device] = load_spec(spec, device=device)
        return network
