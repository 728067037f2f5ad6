"""Whether image files may have changed, told without decoding them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from taba_core.errors import UsageError
from taba_core.images.decode import DECODER_VERSION


def stamp_of(files: Iterable[Path], *, what: str = "image", same_machine: bool = True) -> str:
    """32 hex digits that change with the names, sizes and times of files, with the decoder and the library below it.

    Args:
      what: how the message calls a file ("photo").
      same_machine: count the time of change of a file's entry too, which no copy keeps: two files of one name, size
        and time of modification are told apart. Without it faithful copies on other machines have the same stamp.
    Raises:
      UsageError: a file that cannot be asked, such as a link to nothing.
    """
    import PIL

    parts = [f"{DECODER_VERSION}/{PIL.__version__}"]
    for file in files:
        try:
            stat = file.stat()
        except OSError as error:
            raise UsageError(f"{what} '{file}' cannot be read ({error.strerror}). Remove it.") from None
        times = (stat.st_mtime_ns, stat.st_ctime_ns) if same_machine else (stat.st_mtime_ns,)
        parts.append("/".join(map(str, (file.name, stat.st_size, *times))))
    return hashlib.blake2b("\n".join(parts).encode(errors="surrogateescape"), digest_size=16).hexdigest()
