"""Weights of a measure that are a folder of the hub: where they lie, and what is missing. No torch."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from taba_core.cache import read_json_table
from taba_core.models.weights import content_hash, weights_folder

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class HubFolder:
    """A network of the hub in a folder of the cache, with the configuration that says what it is.

    Nobody states the hash of such a folder beforehand. The first `taba fetch` records it in `lock.json` beside the
    weights, and another content is refused from then on; the identity in keys is the hash of what is here.

    Attributes:
      repository: on the hub, "owner/name".
      network: the network whose weights it holds, such as "CLIP ViT-B/32".
      model_type: what its config.json says it is.
      width: the entries of an output row, and the field of config.json that has them.
      bytes: about what is downloaded.
      licence: of the weights.
      more: files needed besides configuration and weights.
    """

    repository: str
    network: str
    model_type: str
    width: tuple[str, int]
    bytes: int
    licence: str
    more: tuple[str, ...] = field(default=())

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files that are fetched, as far as the repository has them."""
        return ("config.json", *_WEIGHTS, *self.more)

    def path(self) -> Path:
        """The folder: $TABA_CACHE/weights/OWNER--NAME."""
        return weights_folder() / self.repository.replace("/", "--")

    def identity(self) -> str:
        """SHA-256 of the content of the folder, names included; "" where it is not here."""
        return content_hash(self.path()) if self._is_here() else ""

    def why_not(self) -> str | None:
        """Why the weights cannot be used, one sentence with the way out; None if they can. Its hash is remembered."""
        folder = self.path()
        if not self._is_here():
            return (
                f"{self.network}'s weights are not here ({folder}, about {self.bytes / 1e6:.0f} MB of "
                f"{self.repository}, licence {self.licence}); run `taba fetch metrics` on a machine with internet."
            )
        if missing := [name for name in self.more if not (folder / name).is_file()]:
            return f"{folder} lacks {', '.join(missing)}; delete it and run `taba fetch metrics`."
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            found = config.get("model_type"), config.get(self.width[0])
        except (OSError, ValueError, AttributeError) as error:
            why = type(error).__name__
            return (
                f"{folder}/config.json cannot be read ({why}); delete {folder} and run `taba fetch metrics`."
            )
        if found != (self.model_type, self.width[1]):
            return (
                f"{folder} holds a network {found[0]} of width {found[1]} and not {self.network} ({self.model_type}, "
                f"{self.width[1]}); delete it and run `taba fetch metrics`."
            )
        first = read_json_table(weights_folder() / "lock.json").get(folder.name, {}).get("sha256")
        if first and first != self.identity():
            return (
                f"{folder} is not what was fetched first (sha256 {self.identity()[:8]}..., not {first[:8]}...); delete "
                "it and run `taba fetch metrics`."
            )
        return None

    def _is_here(self) -> bool:
        folder = self.path()
        return (folder / "config.json").is_file() and any((folder / name).is_file() for name in _WEIGHTS)
