"""Memory that a network gives back between its layers stays with the process, which soon asks for it again.

The C library returns large blocks to the system at once, and asks for new ones, whose pages the system must clear.
A network on a CPU makes such a block for every layer's output: a U-Net of 1.2 M parameters spent up to a fifth of its
time so.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

# Blocks from this size on still go back at once: whole paths of states, of which a unit has a few.
_LARGE_BYTES = 256 << 20
# glibc before 2.35 refuses a size above half of what an arena may hold.
_LARGEST_OF_OLD = 32 << 20
_KEPT_BYTES = 1 << 30
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


@cache
def keep_freed_memory() -> bool:
    """Let this process keep up to 1 GiB of freed blocks below 256 MiB (32 MiB with a glibc before 2.35).

    No computed number depends on this setting. It is made once for the whole process, and holds in all its threads.

    Returns:
      Whether the C library has such a setting: only Linux with glibc does.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES) or mallopt(_M_MMAP_THRESHOLD, _LARGEST_OF_OLD))
