"""A private directory for a Ray cluster, and the removal of those whose process was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from typing import IO

_PREFIX = "taba-"
_MAX_TEMP_PATH = 42  # Ray's socket names add 64 characters to it and a socket path holds 107
LONGEST_BASE = _MAX_TEMP_PATH - len(f"/{_PREFIX}xxxxxxxx/r")
"""Characters the path of the directory for temporary files may have."""


class PrivateDirectory:
    """A directory only this user can enter, with a path short enough for Ray's sockets below `ray`.

    Ray opens its own temporary directory to everybody (mode 0777) and unpacks code there, hence the private
    parent. A locked file inside says that its process lives; the system drops the lock with the process, so
    that the next one to start can tell and remove what was left.
    """

    def __init__(self) -> None:
        base = tempfile.gettempdir()
        if len(base) > LONGEST_BASE:
            base = "/tmp"
        _sweep(base)
        self.path = tempfile.mkdtemp(prefix=_PREFIX, dir=base)
        self.ray = os.path.join(self.path, "r")
        unnamed = os.path.join(self.path, "lock.new")
        self._lock: IO[str] = open(unnamed, "w")  # noqa: SIM115  (held as long as the directory)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.rename(unnamed, os.path.join(self.path, "lock"))  # appears only once it is locked

    def write_secret(self, name: str, text: str) -> str:
        """Write a file only this user can read and return its path."""
        path = os.path.join(self.path, name)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        return path

    def remove(self) -> None:
        """Delete the directory; again if a Ray process that is just ending still wrote a log."""
        for _ in range(10):
            shutil.rmtree(self.path, ignore_errors=True)
            if not os.path.exists(self.path):
                break
            time.sleep(0.05)
        self._lock.close()


def _sweep(base: str) -> None:
    """Remove our directories whose lock nobody holds."""
    with os.scandir(base) as entries:
        names = [entry.path for entry in entries if entry.name.startswith(_PREFIX)]
    for path in names:
        with contextlib.suppress(OSError), open(os.path.join(path, "lock"), "r+") as lock:
            if os.fstat(lock.fileno()).st_uid == os.getuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
