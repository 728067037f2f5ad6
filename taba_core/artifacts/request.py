"""What somebody wants of an artifact."""

from __future__ import annotations

from dataclasses import dataclass

from taba_core.artifacts.base import Artifact


@dataclass(frozen=True)
class Request:
    """Variables of an artifact, of its first `samples` samples."""

    artifact: Artifact
    variables: tuple[str, ...]
    samples: int
