"""Room and shards of every artifact of a plan: what is read together is stored in shards of the same size."""

from __future__ import annotations

from collections.abc import Mapping

from taba_core.artifacts.base import Artifact, SampleSource
from taba_core.artifacts.layout import Extent
from taba_core.errors import UsageError
from taba_core.store import Store
from workflows.configuration.context import Context


class Extents:
    """The extents of artifacts. All that start from the same samples have shards of the same size.

    Shard i is made from shard i of the sources. Where an artifact reads those of several sample sources, such as an
    interpolation between two generations, all of these have shards of one size too.

    Args:
      asked: artifacts, and of each variable how many first samples are asked.
      store: what is there already; None where there is nothing.
    """

    def __init__(
        self, asked: Mapping[Artifact, Mapping[str, int]], store: Store | None, context: Context
    ) -> None:
        self._store, self._context = store, context
        self._most: dict[SampleSource, int] = {}
        self._together: dict[SampleSource, set[SampleSource]] = {}
        for artifact, samples in asked.items():
            source = artifact.samples
            self._most[source] = max(self._most.get(source, 0), *samples.values())
            self._join({source, *(other.samples for other in artifact.sources())})
        self._sizes: dict[SampleSource, int] = {}

    def of(self, artifact: Artifact, samples: int) -> Extent:
        """Whole shards for that many samples, or what the store has room for if it is more.

        Raises:
          UsageError: the store has samples that are read together in shards of two sizes; or as `first_shard`.
        """
        source, held = artifact.samples, self._held(artifact)
        if held is None:
            return Extent.covering(samples, self._size(source), source.limit)
        wanted = Extent.covering(samples, held.samples_per_shard, source.limit)
        return max(held, wanted, key=lambda extent: extent.num_samples)

    def _join(self, sources: set[SampleSource]) -> None:
        joined = set().union(*(self._together.get(source, {source}) for source in sources))
        for source in joined:
            self._together[source] = joined

    def _size(self, source: SampleSource) -> int:
        if source not in self._sizes:
            group = sorted(self._together[source], key=lambda other: other.name)
            held = {other: extent.samples_per_shard for other in group if (extent := self._held(other))}
            if len(set(held.values())) > 1:
                listed = ", ".join(f"{other.name} in shards of {size}" for other, size in held.items())
                raise UsageError(
                    f"samples that are read together stand in the store in shards of different sizes: {listed}. Use "
                    "another store (--store), or another seed."
                )
            most = max(self._most.get(other, 0) for other in group)
            first = next(iter(held.values()), None)
            for other in group:
                self._sizes[other] = first or first_shard(self._context, other, most)
        return self._sizes[source]

    def _held(self, artifact: Artifact) -> Extent | None:
        group = self._store.find(artifact) if self._store is not None else None
        return None if group is None else group.extent


def first_shard(context: Context, source: SampleSource, num_samples: int) -> int:
    """Samples stored together, for a store that has none of the source's yet.

    Raises:
      UsageError: a shard that is no whole number of batches.
    """
    asked, batch = context.settings.samples_per_shard, source.batch_size
    if asked is None:
        return batch
    if asked % batch:
        raise UsageError(
            f"samples_per_shard={asked}: a shard holds whole batches, and batch_size is {batch}; use a multiple "
            f"of {batch}, or --set batch_size with a divisor of {asked}."
        )
    return min(asked, -(-num_samples // batch) * batch)
