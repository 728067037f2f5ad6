"""What lives in a Ray worker process: one warm worker, whose errors come back as values."""

from __future__ import annotations

import os
import pickle
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cluster.executor import THREAD_VARIABLES, Finish, StopRun, Worker

# After these the process cannot be trusted with another unit: device context or heap are damaged.
_POISON_TYPES = ("OutOfMemoryError", "AcceleratorError", "MemoryError")
_POISON_TEXTS = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS")


@dataclass(frozen=True)
class Reply:
    """What one call to the worker came to.

    Attributes:
      result: the return value of `Worker.run`.
      error, trace: one line and the traceback, when it raised.
      stop: the error is a `StopRun`, and `error` its text.
      poisoned: the process must not be used again.
      seconds: wall time of the call inside the worker.
      pid: process id, for logs.
    """

    result: Any = None
    error: str | None = None
    trace: str = ""
    stop: bool = False
    poisoned: bool = False
    seconds: float = 0.0
    pid: int = 0


class WarmWorker:
    """The Ray actor: builds its worker in `ready()`, then runs one unit at a time.

    User code never raises across the process border, so an exception that cannot be pickled, or whose class
    the driver lacks, is reported like any other; what does raise in the driver is the loss of the process.
    """

    def __init__(self, make_worker: bytes, num_threads: int) -> None:
        # Ray keeps a value it inherits from the driver; a worker must use the cores it holds and no others.
        for name in THREAD_VARIABLES:
            os.environ[name] = str(num_threads)
        self._make_worker = make_worker
        self._worker: Worker | None = None

    def ready(self) -> Reply:
        """Build the worker and let it warm up."""
        return _call(self._build)

    def run(self, payload: Any) -> Reply:
        """Run one unit."""
        assert self._worker is not None
        worker = self._worker
        return _call(lambda: worker.run(payload))

    def _build(self) -> None:
        worker: Worker = pickle.loads(self._make_worker)()
        ready = getattr(worker, "ready", None)
        if ready is not None:
            ready()
        self._worker = worker


def _call(function: Callable[[], Any]) -> Reply:
    begin = time.perf_counter()
    try:
        result = function()
        if isinstance(result, Finish):
            result = result.call()
        return Reply(result, seconds=time.perf_counter() - begin, pid=os.getpid())
    except StopRun as error:
        return Reply(error=str(error), stop=True, pid=os.getpid())
    except Exception as error:
        return Reply(
            error=f"{type(error).__name__}: {error}",
            trace=traceback.format_exc(),
            poisoned=_poisons(error),
            seconds=time.perf_counter() - begin,
            pid=os.getpid(),
        )


def _poisons(error: Exception) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names.intersection(_POISON_TYPES)) or any(text in str(error) for text in _POISON_TEXTS)
