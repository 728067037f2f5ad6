"""Which kind of file system a path lies on."""

from __future__ import annotations

import re
from pathlib import Path

RAM = frozenset({"tmpfs", "ramfs"})
SHARED = frozenset(
    {
        *("lustre", "gpfs", "beegfs", "panfs", "wekafs", "ceph", "dvs", "nfs", "nfs4", "cifs", "smb3", "9p"),
        *("virtiofs", "fuse.ceph", "fuse.sshfs", "fuse.juicefs"),
    }
)


def file_system(path: Path, mounts: str) -> str:
    """Type of the file system that holds a path.

    Args:
      path: need not exist; symbolic links are followed.
      mounts: text of /proc/self/mountinfo.
    Returns:
      The kernel's name ("ext4", "lustre"), or "unknown".
    """
    place = path.resolve()
    best, kind = -1, "unknown"
    for line in mounts.splitlines():
        head, dash, tail = line.partition(" - ")
        fields = head.split()
        if not dash or len(fields) < 5:
            continue
        point = Path(_unescaped(fields[4]))
        # Of two mounts on one point the later one is seen.
        if place.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), tail.split()[0]
    return kind


def existing(path: Path) -> Path:
    """The path, or the nearest directory above it that exists."""
    path = path.expanduser().absolute()
    while not path.exists():
        path = path.parent
    return path


def _unescaped(text: str) -> str:
    """The kernel writes a space as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), text)
