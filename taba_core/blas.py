"""BLAS on one thread, so that no sum depends on the number of cores."""

from __future__ import annotations

import threading

from threadpoolctl import threadpool_limits

_lock = threading.Lock()
_is_limited = False


def use_one_blas_thread() -> None:
    """Limit BLAS to one thread for the rest of this process: its sums must not depend on its threads.

    Once and for good, because the limit cannot be taken back and set again: OpenBLAS ignores a later change that
    comes from another thread than the one that made the first, and a product on two threads has other last bits
    than on one. Torch is not affected. Without effect where OPENBLAS_NUM_THREADS=1 was set before numpy's import.
    """
    global _is_limited
    with _lock:
        if not _is_limited:
            import scipy.special  # noqa: F401  it brings a BLAS of its own, which can be limited once it is loaded

            threadpool_limits(limits=1, user_api="blas")
            _is_limited = True
