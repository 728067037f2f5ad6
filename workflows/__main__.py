"""Entry point of `taba` and `python -m workflows`: runs the command line, turns errors into one clear message."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from workflows.launch import bind_packages, leave_directory

if __name__ == "__main__":
    leave_directory()
bind_packages()

# Before numpy is imported anywhere: BLAS on one thread, so that no sum depends on the number of cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Exit codes.

    0 ok, 1 work failed, 2 usage, 3 failed units, 75 the store belongs to another driver, 85 drained (run again).
    """
    from taba_core.errors import Stopped, TabaError
    from workflows.cli import app

    try:
        app(args=arguments, prog_name="taba")
    except Stopped as stop:
        print(f"taba: {stop}; finished shards are stored, the same command resumes.", file=sys.stderr)
        _end(stop.exit_code)
    except TabaError as error:
        print(f"taba: error: {error}", file=sys.stderr)
        _end(error.exit_code)


def _end(exit_code: int) -> NoReturn:
    """End the process with this status; at once where threads of an interrupted run cannot be waited for."""
    from cluster.local import is_computing

    if is_computing():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    raise SystemExit(exit_code) from None


if __name__ == "__main__":
    main()
