"""What lives in a worker's process or thread: one warm worker, whose errors come back as values."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from typing import Any

from cluster.backend import Reply
from cluster.executor import Finish, HopelessUnit, StopRun, Worker

# After these the process cannot be trusted with another unit: device context or heap are damaged.
_POISON_TYPES = ("OutOfMemoryError", "AcceleratorError", "MemoryError")
_POISON_TEXTS = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS")


class WarmWorker:
    """Builds its worker in `ready()`, then computes one unit at a time and finishes units beside that.

    User code never raises across the process border, so an exception that cannot be pickled, or whose class
    the driver lacks, is reported like any other; what does raise in the driver is the loss of the process.
    """

    def __init__(self, make_worker: Callable[[], Worker]) -> None:
        self._make_worker = make_worker
        self._worker: Worker | None = None
        self._computed: dict[str, tuple[float, Finish]] = {}  # since when, and what is left to do

    def ready(self) -> Reply:
        """Build the worker and let it warm up."""
        return _call(self._build, time.perf_counter())

    def compute(self, unit_id: str, payload: Any) -> Reply:
        """Run one unit, or the part of it before its `Finish`."""
        assert self._worker is not None
        worker, begin = self._worker, time.perf_counter()
        reply = _call(lambda: worker.run(payload), begin)
        if isinstance(reply.result, Finish):
            self._computed[unit_id] = (begin, reply.result)
            return Reply(finishing=True, seconds=reply.seconds, pid=reply.pid)
        return reply

    def finish(self, unit_id: str) -> Reply:
        """Do what is left of a computed unit; in another thread than `compute`."""
        begin, finish = self._computed.pop(unit_id)
        return _call(finish.call, begin)

    def _build(self) -> None:
        worker = self._make_worker()
        ready = getattr(worker, "ready", None)
        if ready is not None:
            ready()
        self._worker = worker


def _call(function: Callable[[], Any], begin: float) -> Reply:
    try:
        result = function()
        return Reply(result, seconds=time.perf_counter() - begin, pid=os.getpid())
    except StopRun as error:
        return Reply(error=str(error), stop=True, pid=os.getpid())
    except HopelessUnit as error:
        seconds = time.perf_counter() - begin
        return Reply(error=str(error), hopeless=True, seconds=seconds, pid=os.getpid())
    except (Exception, SystemExit) as error:  # an exit of user code would end a thread that is waited for
        return Reply(
            error=f"{type(error).__name__}: {error}",
            trace=traceback.format_exc(),
            poisoned=_poisons(error),
            seconds=time.perf_counter() - begin,
            pid=os.getpid(),
        )


def _poisons(error: BaseException) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names.intersection(_POISON_TYPES)) or any(text in str(error) for text in _POISON_TEXTS)
