"""Frozen descriptions with canonical JSON, and those of what every artifact starts from: the model and its prompts."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue


class Spec(BaseModel):
    """Base: frozen, unknown fields refused, canonical JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Fields that may not change a key: where a thing lies, how a user's card describes it.
    outside_key: ClassVar[frozenset[str]] = frozenset()
    # Fields added after the first stores were made, with the value that means what was done before there was a choice.
    added_later: ClassVar[dict[str, Any]] = {}

    def canonical(self) -> str:
        """Canonical JSON of all fields that can change a value, the input of the content key."""
        return json.dumps(self.content(), sort_keys=True, separators=(",", ":"))

    def content(self) -> dict[str, Any]:
        """The fields of the key, plain JSON: all but `outside_key`, and but a later field at its first meaning."""
        dumped = self.model_dump(mode="json")
        kept = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name in self.outside_key or (name in self.added_later and value == self.added_later[name]):
                continue
            kept[name] = value.content() if isinstance(value, Spec) else dumped[name]
        return kept

    def altered(self, **fields: Any) -> Self:
        """This description with other values of some fields, validated as any other."""
        return type(self)(**{**{name: getattr(self, name) for name in type(self).model_fields}, **fields})

    def __hash__(self) -> int:
        # Options are dictionaries, so the generated field-wise hash would fail.
        return self._hash

    @cached_property
    def _hash(self) -> int:
        # Asked for many times: specs are keys of the dictionaries of a plan.
        return hash((type(self).__name__, self.canonical()))


class ModelSpec(Spec):
    """Which denoiser: the card's name, its options, and the fingerprint of its weights or of its fit.

    `location` is the folder or file the fingerprint was taken of, `card` the whole card of a model that is not
    built in, so that a worker needs no card file; neither is part of any key (the fingerprint covers both).
    """

    outside_key: ClassVar[frozenset[str]] = frozenset({"location", "card"})

    name: str
    options: dict[str, JsonValue] = Field(default_factory=dict)
    fingerprint: str = ""
    location: str = ""
    card: dict[str, JsonValue] | None = None


class PromptSpec(Spec):
    """Which captions a text-conditional generation draws from; `location` is not part of any key."""

    outside_key: ClassVar[frozenset[str]] = frozenset({"location"})

    fingerprint: str
    location: str = "builtin"
