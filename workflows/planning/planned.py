"""An artifact in a plan: what is asked of it, what is missing, what that costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from taba_core.artifacts import layout as layouts
from taba_core.artifacts.base import Artifact
from taba_core.artifacts.layout import Extent
from taba_core.store import MissingShards


@dataclass(eq=False)
class PlannedArtifact:
    """An artifact, the variables asked of it by all studies, and what is missing of them.

    Attributes:
      samples: how many first samples the studies ask; the shards that hold them are computed whole.
      extent: samples the group must have room for; those it has already where it is there.
      asked: by variable, how many first shards are asked.
      missing: shards that are asked and not complete, each with its variables.
    """

    artifact: Artifact
    samples: int
    extent: Extent
    asked: dict[str, int]
    missing: MissingShards = field(default_factory=MissingShards)

    @property
    def variables(self) -> list[str]:
        """The asked variables."""
        return list(self.asked)

    @property
    def num_shards(self) -> int:
        """How many shards are asked."""
        return max(self.asked.values(), default=0)

    @property
    def num_samples(self) -> int:
        """Samples of those shards."""
        return self.extent.ids(self.num_shards - 1)[1] if self.num_shards else 0

    @property
    def first_shards(self) -> dict[str, int]:
        """By variable, how many first shards are asked, where it is not all the group has room for."""
        return {name: shards for name, shards in self.asked.items() if shards < self.extent.num_shards}

    @property
    def num_files(self) -> int:
        """Shard files once complete."""
        return layouts.num_files(self.variables, self.extent, self.first_shards)

    def samples_in(self, shard: int) -> int:
        """Number of samples of a shard."""
        start, stop = self.extent.ids(shard)
        return stop - start

    @property
    def sample_evaluations(self) -> int:
        """Network evaluations (NFE) of a sample computed alone, at most."""
        return self.artifact.num_evaluations() + self.artifact.measuring_evaluations(tuple(self.asked))

    def evaluations_in(self, shard: int, made: Iterable[Artifact] = ()) -> int:
        """Network evaluations (image-NFE) of a shard, at most, in a unit that also makes these artifacts."""
        saved = self.artifact.saved_evaluations(frozenset(made))
        return (self.sample_evaluations - saved) * self.samples_in(shard)
