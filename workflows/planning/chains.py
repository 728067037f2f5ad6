"""Which shards are computed together, in one unit of work.

Rows of per-step statistics need the whole sampling path, which is rarely stored. So they are made by the unit that
walks the path, in memory: the shard of a generation, of everything that needs its path, and of what lies between,
make one unit. Where the generation's shard is stored already, one unit walks the path again for all that need it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from taba_core.artifacts.base import Artifact
from workflows.planning.planned import PlannedArtifact


class Chains:
    """The artifacts of a plan that may share units, by the generation whose path they need.

    A unit is named after its first part. Membership of a shard follows from what is missing of it, so it costs no
    memory for each shard.

    Args:
      artifacts: those of the plan, sources before what reads them.
      as_if_nothing_is_there: count every asked shard as missing.
    """

    def __init__(self, artifacts: Sequence[PlannedArtifact], *, as_if_nothing_is_there: bool = False) -> None:
        self._all = as_if_nothing_is_there
        walkers = [planned for planned in artifacts if planned.artifact.paths_in_memory]
        self._walkers = {w.artifact: w for w in walkers}
        # By walker: everything of the plan it needs, itself included, in the plan's order.
        self._needs = {w.artifact: frozenset(_with_sources(w.artifact)) for w in walkers}
        self._chains: dict[Artifact, list[PlannedArtifact]] = {}
        for walker in walkers:
            source = walker.artifact.samples
            chain = self._chains.setdefault(source, [])
            chain += [p for p in artifacts if p.artifact in self._needs[walker.artifact] and p not in chain]
        order = {planned.artifact: place for place, planned in enumerate(artifacts)}
        for chain in self._chains.values():
            chain.sort(key=lambda planned: order[planned.artifact])

    def together(self, planned: PlannedArtifact) -> list[PlannedArtifact]:
        """Everything that may be made in one unit with an artifact, itself included, in order."""
        chain = self._chains.get(planned.artifact.samples, [])
        return chain if planned in chain else [planned]

    def parts(self, planned: PlannedArtifact, shard: int) -> list[PlannedArtifact]:
        """What the unit that makes this shard makes, in order; the shard must be missing."""
        chain = self.together(planned)
        missing = [p for p in chain if self._is_missing(p, shard)]
        walkers = [p.artifact for p in missing if p.artifact in self._walkers]
        needed: frozenset[Artifact] = frozenset().union(*(self._needs[walker] for walker in walkers))
        together = [p for p in missing if p.artifact in needed]
        return together if planned in together else [planned]

    def leads(self, planned: PlannedArtifact, shard: int) -> bool:
        """Whether the unit that makes this shard is named after the artifact."""
        return self.parts(planned, shard)[0] is planned

    def made_with(self, planned: PlannedArtifact, shard: int) -> list[Artifact]:
        """What the unit that makes this shard has made before it."""
        parts = self.parts(planned, shard) if self._chains else [planned]
        return self.made_before(parts, planned)

    def made_before(self, parts: Sequence[PlannedArtifact], part: PlannedArtifact) -> list[Artifact]:
        """What a unit of these parts has in memory when it comes to one of them.

        Where the generation is stored already, the first part that needs its path walks it, for all that follow.
        """
        made = [earlier.artifact for earlier in parts[: parts.index(part)]]
        return [*made, *(artifact.samples for artifact in made if artifact in self._walkers)]

    def walks_for(self, parts: Iterable[PlannedArtifact]) -> bool:
        """Whether one of these needs the whole path."""
        return any(part.artifact in self._walkers for part in parts)

    def _is_missing(self, planned: PlannedArtifact, shard: int) -> bool:
        return shard < planned.num_shards if self._all else shard in planned.missing


def _with_sources(artifact: Artifact) -> Iterator[Artifact]:
    yield artifact
    for source in artifact.sources():
        yield from _with_sources(source)
