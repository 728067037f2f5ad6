"""Asking a run to stop gently: Ctrl-C, SIGTERM, SIGUSR1 or a file, then let running units finish."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")


class DrainRequest:
    """While entered, a first signal asks for a drain and a second Ctrl-C interrupts at once.

    Schedulers send SIGUSR1 ahead of the time limit and SIGTERM at preemption; both mean the same here.
    Handlers can only be set in the main thread; elsewhere only the drain file counts.

    Args:
      drain_file: a path whose existence asks for a drain; None for signals only.
    """

    def __init__(self, drain_file: str | os.PathLike[str] | None = None) -> None:
        self._file = os.fspath(drain_file) if drain_file is not None else None
        self._signal: str | None = None
        self._previous: dict[int, Any] = {}

    @property
    def reason(self) -> str | None:
        """What asked for the drain, or None."""
        if self._signal is None and self._file is not None and os.path.exists(self._file):
            self._signal = f"the file {self._file}"
        return self._signal

    def __enter__(self) -> DrainRequest:
        if threading.current_thread() is threading.main_thread():
            for name in _SIGNALS:
                number = getattr(signal, name, None)
                if number is not None:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # a generator closed by another thread; handlers can only be put back in the main one
        for number, handler in self._previous.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._previous.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name
