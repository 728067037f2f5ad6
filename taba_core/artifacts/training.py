"""A training run: the one thing in a store that is not of samples, and that gives the networks which others ask.

Its spec is its key, as an artifact's is. What it leaves are networks at steps of the training; each is a model whose
key follows from its content, wherever it came from.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, JsonValue, field_validator

from taba_core.artifacts.base import StoredSpec


class Training(StoredSpec):
    """One network trained from its initial weights for a number of steps.

    `recipe` is the whole recipe (architecture, process, objective, kind of data), `data` the fingerprint of the images
    and `data_location` where they lie, "" for their default place. `trainer` is the version of the loop.
    """

    kind: ClassVar[str] = "training"
    outside_key: ClassVar[frozenset[str]] = frozenset({"data_location"})

    recipe: dict[str, JsonValue]
    seed: int = Field(ge=0)
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    checkpoints: tuple[int, ...] = Field(min_length=1, description="steps whose network is kept, ascending")
    data: str
    data_location: str = ""
    trainer: int = 1

    @field_validator("checkpoints")
    @classmethod
    def _ascending_to_the_end(cls, value: tuple[int, ...], info: Any) -> tuple[int, ...]:
        steps = info.data.get("steps")
        if list(value) != sorted(set(value)) or value[0] < 0 or (steps is not None and value[-1] != steps):
            raise ValueError(
                f"checkpoints={value}: give ascending steps from 0 on, the last of them {steps}, the end."
            )
        return value

    @property
    def recipe_name(self) -> str:
        """Name of the recipe."""
        return str(self.recipe["name"])

    @property
    def name(self) -> str:
        """Group name in the store: <recipe>-training-<key>."""
        return f"{self.recipe_name}-{self.kind}-{self.key}"

    def label(self, step: int) -> str:
        """Name of the network at a step, of its folder and in tables: <recipe>-seed<seed>-step<step>."""
        return f"{self.recipe_name}-seed{self.seed}-step{step}"

    def images(self, step: int) -> int:
        """Images seen up to a step."""
        return step * self.batch_size
