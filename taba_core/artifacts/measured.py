"""Artifacts that measure the images of other artifacts, of whatever kind these are."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import SerializeAsAny, model_validator

from taba_core.artifacts.base import Artifact, SampleSource, kinds


class Measured(Artifact):
    """Base of kinds whose `source` may be of any kind that has images.

    A spec is read from JSON by its kind, so the kinds of what is measured stand beside it: `source_kind` for `source`.

    Class attributes:
      measured: fields that hold artifacts with images.
    """

    measured: ClassVar[tuple[str, ...]] = ("source",)

    source: SerializeAsAny[Artifact]
    source_kind: str = ""

    @model_validator(mode="before")
    @classmethod
    def _of_their_kinds(cls, data: Any) -> Any:
        fields = dict(data)
        for name in cls.measured:
            value = fields.get(name)
            if isinstance(value, dict):
                value = kinds()[fields[f"{name}_kind"]].model_validate(value)
            if not isinstance(value, Artifact) or not value.image_variable:
                kind = value.kind if isinstance(value, Artifact) else type(value).__name__
                raise ValueError(f"{name}: {kind} has no images to measure")
            fields |= {name: value, f"{name}_kind": value.kind}
        return fields

    @property
    def samples(self) -> SampleSource:
        """Those of the measured images."""
        return self.source.samples

    def sources(self) -> tuple[Artifact, ...]:
        """What is measured."""
        return tuple(dict.fromkeys(getattr(self, name) for name in self.measured))

    def reads_of(self, source: Artifact) -> tuple[str, ...]:
        """Images, decoded ones where the source has them."""
        known = source.variables()
        return tuple(name for name in (source.image_variable, "decoded") if name in known)
