"""What every extractor and every image distance says about itself: what it needs, which pictures it suits."""

from __future__ import annotations

import json
import os
from abc import ABC
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Protocol

from taba_core.errors import UsageError, WorkError
from taba_core.models.weights import BOX, content_hash


class WeightFile(Protocol):
    """A file of weights that a measure reads."""

    def identity(self) -> str:
        """What its content is, in keys: the SHA-256 that is stated, else that of what is here; "" where nothing is."""
        ...

    def why_not(self) -> str | None:
        """Why the file cannot be used, one sentence with the way out; None if it can."""
        ...


@dataclass(frozen=True)
class HubFile:
    """A weight file in torch's hub folder, where the packages that use it look for it.

    Attributes:
      name: of the file.
      network: the network whose weights it holds, such as "AlexNet".
      publisher: who made that file, such as "torchvision".
      url: where it is downloaded from.
      sha256: its SHA-256, or the first digits of it; "" where nobody states it.
    """

    name: str
    network: str
    publisher: str
    url: str
    sha256: str

    def path(self) -> Path:
        """Where torch's hub keeps the file: below $TORCH_HOME, else torch/ of $XDG_CACHE_HOME, else of ~/.cache."""
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        home = os.environ.get("TORCH_HOME") or os.path.join(cache, "torch")
        return Path(home).expanduser() / "hub" / "checkpoints" / self.name

    def identity(self) -> str:
        """Its stated SHA-256; where there is none that of the file, "" where that is not here."""
        if self.sha256 or not self.path().is_file():
            return self.sha256
        return content_hash(self.path())

    def why_not(self) -> str | None:
        """Why the file cannot be used, one sentence with the way out; None if it can. Its hash is remembered."""
        file = self.path()
        if not file.is_file():
            return (
                f"{self.network}'s weights are not here ({file}); run `taba fetch metrics` on a machine with internet, "
                f"or download them from {self.url} to that file."
            )
        digest = content_hash(file)
        if not digest.startswith(self.sha256):
            return (
                f"{file} is not {self.publisher}'s {self.network} (sha256 {digest[:8]}..., not {self.sha256}...); "
                f"delete it and run `taba fetch metrics`, or download it again from {self.url}."
            )
        return None


@dataclass(frozen=True)
class PackagedFile:
    """A weight file that is installed with taba, in the box, with NAME.json beside its folder.

    Attributes:
      name: of the network.
    """

    name: str

    def path(self) -> Path:
        """The file."""
        return BOX / self.name / "weights.safetensors"

    def facts(self) -> dict[str, Any]:
        """What was recorded when the network was trained. Raises WorkError if that file is missing or damaged."""
        path = BOX / f"{self.name}.json"
        try:
            facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return facts | {"content": str(facts["content"])}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WorkError(
                f"{path} comes with taba and is missing or damaged ({type(error).__name__}); install taba again."
            ) from None

    def identity(self) -> str:
        """As `sha256`."""
        return self.sha256

    @property
    def sha256(self) -> str:
        """The SHA-256 of the weights that were trained. Raises WorkError: as `facts`."""
        content: str = self.facts()["content"]
        return content

    def why_not(self) -> str | None:
        """Why the file cannot be used, one sentence with the way out; None if it can. Its hash is remembered."""
        file = self.path()
        try:
            expected = self.sha256
        except WorkError as error:
            return str(error)
        if not file.is_file():
            return f"{file} comes with taba and is missing; install taba again."
        digest = content_hash(file)
        if digest != expected:
            return (
                f"{file} is not the file that comes with taba (sha256 {digest[:8]}..., not {expected[:8]}...); "
                "install taba again."
            )
        return None


class Measure(ABC):
    """Base of extractors and image distances.

    Class attributes that a measure declares:
      name: as users and specs write it.
      title: as tables call it.
      stands_for: the measure that it is a labelled stand-in of, such as "LPIPS"; "" if it is the thing itself.
      version: raised when its numbers change; part of every key.
      packages: Python packages of the extra `metrics` that it imports.
      files: its weight files.
      least_side: smallest side in pixels of pictures that it suits.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    stands_for: ClassVar[str] = ""
    version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ()
    files: ClassVar[tuple[WeightFile, ...]] = ()
    least_side: ClassVar[int] = 1

    def why_not(self) -> str | None:
        """Why it cannot measure on this machine, one sentence with the way out; None if it can.

        Imports none of its packages; a file is read once, and its hash remembered. Nothing is ever downloaded.
        """
        missing = [name for name in self.packages if find_spec(name) is None]
        if missing:
            verb = "is" if len(missing) == 1 else "are"
            return f"{' and '.join(missing)} {verb} not installed; pip install -e '.[metrics]'."
        reasons = (file.why_not() for file in self.files)
        return next((reason for reason in reasons if reason), None)

    def check(self) -> None:
        """Refuse (UsageError) where it cannot measure; the message says what is missing and how to get it."""
        reason = self.why_not()
        if reason is not None:
            raise UsageError(f"{self.title}: {reason}")

    def fingerprint(self) -> str:
        """What its numbers depend on besides the pictures: version and weights.

        The same on every machine where the hash of the weights is stated; else that of the weights that are here.
        """
        return "-".join([str(self.version), *(file.identity() for file in self.files)])

    def unsuited(self, shape: tuple[int, ...]) -> str:
        """Why pictures of that shape (channels, height, width) cannot be measured; "" if they can."""
        if shape[0] == 3 and min(shape[1:]) >= self.least_side:
            return ""
        sides = f" with sides of at least {self.least_side}" if self.least_side > 1 else ""
        return f"it takes RGB images{sides}, and this model's are {'x'.join(str(size) for size in shape)}."
