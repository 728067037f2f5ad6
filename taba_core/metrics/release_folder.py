"""Weights of a measure that are published as a zip file: where they lie unpacked, and what is missing. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from taba_core.cache import read_json_table
from taba_core.models.weights import content_hash, weights_folder


@dataclass(frozen=True)
class ReleaseFolder:
    """Files of a published zip file, in a folder of the cache, under the names that they have in the zip file.

    Nobody states the hash of such a zip file beforehand. The first `taba fetch` records that of the needed files in
    `lock.json`, and other contents are refused from then on; the identity in keys is the hash of what is here.

    Attributes:
      name: of the folder.
      network: the network whose weights it holds, such as "DreamSim".
      url: where the zip file is downloaded from.
      files: names of the needed files; what else the zip file holds is not unpacked.
      one_of: names of which one file is needed, the first that is there.
      bytes: about what is kept.
      licence: of the weights.
    """

    name: str
    network: str
    url: str
    files: tuple[str, ...]
    bytes: int
    licence: str
    one_of: tuple[str, ...] = field(default=())

    def path(self) -> Path:
        """The folder: $TABA_CACHE/weights/NAME."""
        return weights_folder() / self.name

    def found(self) -> tuple[Path, ...]:
        """The needed files that are here, in the order of `files`, last the one of `one_of`."""
        here = self._here()
        either = [name for name in self.one_of if name in here][:1]
        return tuple(self.path() / name for name in (*self.files, *either) if name in here)

    def missing(self, names: Collection[str] | None = None) -> tuple[str, ...]:
        """What is needed and not among those names; None: not in the folder."""
        here = self._here() if names is None else names
        lacking = [name for name in self.files if name not in here]
        if self.one_of and not any(name in here for name in self.one_of):
            lacking.append(" or ".join(self.one_of))
        return tuple(lacking)

    def identity(self) -> str:
        """SHA-256 over the names and contents of the needed files; "" where one is missing."""
        if self.missing():
            return ""
        named = [
            f"{file.relative_to(self.path()).as_posix()} {content_hash(file)}\n" for file in self.found()
        ]
        return hashlib.sha256("".join(named).encode()).hexdigest()

    def why_not(self) -> str | None:
        """Why the weights cannot be used, one sentence with the way out; None if they can. Hashes are remembered."""
        folder = self.path()
        if not folder.is_dir():
            return (
                f"{self.network}'s weights are not here ({folder}, about {self.bytes / 1e6:.0f} MB, licence "
                f"{self.licence}); run `taba fetch metrics` on a machine with internet, or unpack {self.url} there."
            )
        if missing := self.missing():
            return f"{folder} lacks {', '.join(missing)}; delete it and run `taba fetch metrics`."
        first = read_json_table(weights_folder() / "lock.json").get(self.name, {}).get("sha256")
        if first and first != self.identity():
            return (
                f"{folder} is not what was fetched first (sha256 {self.identity()[:8]}..., not {first[:8]}...); delete "
                "it and run `taba fetch metrics`."
            )
        return None

    def _here(self) -> set[str]:
        return {name for name in (*self.files, *self.one_of) if (self.path() / name).is_file()}
