"""The Ray actor that a worker lives in. It travels by value: it decides which code its process imports."""

from __future__ import annotations

import os
from typing import Any

from cluster.code import Code, run_code_of


class RayWorker:
    """Takes the driver's code over, then builds the worker. Its `finish` runs in a thread of its own.

    Args:
      code: what the driver runs.
      make_worker: pickled callable that builds the worker; read only when the code is the driver's.
      num_threads: threads of numerical libraries.
      thread_variables: what tells them.
      has_gpu: whether the worker holds a device.
    """

    def __init__(
        self,
        code: Code,
        make_worker: bytes,
        num_threads: int,
        thread_variables: tuple[str, ...],
        has_gpu: bool,
    ) -> None:
        # Ray keeps a value it inherits from the driver; a worker must use the cores it holds and no others.
        for name in thread_variables:
            os.environ[name] = str(num_threads)
        self._code = code
        self._make_worker = make_worker
        self._has_gpu = has_gpu
        self._warm: Any = None

    def ready(self) -> Any:
        """Build the worker; the reply names its device. Differences, as plain data, if this is other code."""
        differences = run_code_of(self._code)
        if differences:
            return differences
        import pickle
        from dataclasses import replace

        from cluster.worker import WarmWorker

        make_worker = self._make_worker
        self._warm = WarmWorker(lambda: pickle.loads(make_worker)())
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "") if self._has_gpu else ""
        return replace(self._warm.ready(), gpu=gpu)

    def compute(self, unit_id: str, payload: bytes) -> Any:
        """See `WarmWorker`."""
        return self._warm.compute(unit_id, payload)

    def finish(self, unit_id: str) -> Any:
        """See `WarmWorker`."""
        return self._warm.finish(unit_id)
