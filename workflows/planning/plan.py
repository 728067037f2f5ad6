"""The plan: artifacts of all asked studies, deduplicated, ordered, minus what is complete, with its costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from taba_core.artifacts import layout as layouts
from taba_core.artifacts.base import Artifact
from taba_core.artifacts.request import Request
from taba_core.models.step_times import StepCost, step_cost
from taba_core.store import ArtifactGroup, MissingShards, Store
from workflows.analysis.study import Study
from workflows.configuration.context import Context
from workflows.configuration.numerics import profile_of
from workflows.planning.chains import Chains
from workflows.planning.extents import Extents
from workflows.planning.planned import PlannedArtifact

# By variable: how many first samples are asked.
_Asked = dict[Artifact, dict[str, int]]
_PROCESS_BYTES = 500_000_000  # Python with torch and Ray, measured resident


@dataclass
class Plan:
    """Everything `taba run` will do and everything `taba plan` prints."""

    context: Context
    studies: list[Study]
    artifacts: list[PlannedArtifact]
    # By study name: what each reads.
    requests: Mapping[str, Mapping[str, Request]] = field(default_factory=dict)
    # What networks are evaluated on: cpu or cuda.
    device: str = "cpu"

    @cached_property
    def cost(self) -> StepCost:
        """Seconds of a network evaluation under the profile that is asked."""
        profile, compiled = profile_of(self.context)
        return step_cost(self.context.card, profile, compiled=compiled, device=self.device)

    @property
    def chains(self) -> Chains:
        """Which artifacts are computed in one unit."""
        return Chains(self.artifacts)

    @property
    def evaluations(self) -> int:
        """Image-NFE of everything asked, were nothing there yet."""
        chains = Chains(self.artifacts, as_if_nothing_is_there=True)
        return sum(self._evaluations(chains, p, range(p.num_shards)) for p in self.artifacts)

    @property
    def evaluations_missing(self) -> int:
        """Image-NFE still to compute."""
        chains = self.chains
        return sum(self._evaluations(chains, p, p.missing) for p in self.artifacts)

    def missing_evaluations_of(self, planned: PlannedArtifact) -> int:
        """Image-NFE still to compute for one artifact."""
        return self._evaluations(self.chains, planned, planned.missing)

    @staticmethod
    def _evaluations(chains: Chains, planned: PlannedArtifact, shards: Iterable[int]) -> int:
        return sum(planned.evaluations_in(shard, chains.made_with(planned, shard)) for shard in shards)

    @property
    def least_evaluations_missing(self) -> int:
        """Image-NFE still to compute if every method that stops by itself does so at once."""
        chains = self.chains
        return sum(
            (
                p.artifact.least_evaluations()
                - p.artifact.saved_evaluations(frozenset(chains.made_with(p, shard)))
            )
            * p.samples_in(shard)
            for p in self.artifacts
            for shard in p.missing
        )

    @property
    def shards_missing(self) -> int:
        """Missing shards over all artifacts."""
        return sum(len(p.missing) for p in self.artifacts)

    @property
    def units(self) -> int:
        """Units of work: missing shards, but those that one unit makes together count once."""
        chains = self.chains
        return sum(chains.leads(p, shard) for p in self.artifacts for shard in p.missing)

    def bytes_of(self, planned: PlannedArtifact) -> int:
        """Stored bytes of an artifact's asked variables."""
        return layouts.bytes_of(
            planned.artifact, planned.variables, planned.extent, *self._shapes, planned.first_shards
        )

    @property
    def _shapes(self) -> tuple[tuple[int, int, int], tuple[int, int, int] | None]:
        return self.context.card.sample_shape, self.context.decoded_shape

    @property
    def bytes_total(self) -> int:
        """Stored bytes of all artifacts."""
        return sum(self.bytes_of(p) for p in self.artifacts)

    def files_of(self, planned: PlannedArtifact) -> int:
        """Files and directories (inodes) of an artifact once complete."""
        return layouts.num_inodes(planned.variables, planned.extent, planned.first_shards)

    @property
    def files_total(self) -> int:
        """Inodes of all artifacts."""
        return sum(self.files_of(p) for p in self.artifacts)

    @property
    def bytes_missing(self) -> int:
        """Bytes the missing shards will take."""
        return sum(
            shards * self._shard_bytes(planned, variables)
            for planned in self.artifacts
            for variables, shards in planned.missing.by_variables().items()
        )

    @property
    def files_missing(self) -> int:
        """Shard files still to write."""
        return sum(
            len(variables) * shards
            for planned in self.artifacts
            for variables, shards in planned.missing.by_variables().items()
        )

    def compute_seconds(self, parts: Iterable[tuple[PlannedArtifact, int]]) -> float:
        """Seconds in which a worker evaluates the network so often for each part, the levels it prepares included."""
        card, image_seconds = self.context.card, self.cost.image_seconds
        return sum(
            evaluations * image_seconds + card.cost.preparing_seconds(part.artifact.num_steps or 0)
            for part, evaluations in parts
            if evaluations
        )

    def hours(self, evaluations: int) -> float:
        """Device hours of that many image-NFE."""
        return evaluations * self.cost.image_seconds / 3600

    @property
    def peak_memory(self) -> int:
        """Host memory of one worker, bytes: the process, weights, and two units.

        One unit computes (what it reads and makes, twice for what lies between) while the last one is written (its
        arrays, and as much again encoded).
        """
        computing = writing = 0.0
        chains = self.chains
        for planned in self.artifacts:
            parts = chains.together(planned)
            made = sum(self._shard_bytes(p, p.variables) for p in parts)
            paths = max(self._path_bytes(p) for p in parts)
            sources = {source for part in parts for source in part.artifact.sources()}
            read = sum(self._shard_bytes(p, p.variables) for p in self.artifacts if p.artifact in sources)
            computing, writing = max(computing, made + paths + read), max(writing, made)
        return int(_PROCESS_BYTES + self.context.card.num_parameters * 4 + 2 * computing + 2 * writing)

    def _shard_bytes(self, planned: PlannedArtifact, variables: Iterable[str]) -> int:
        return sum(
            layouts.layout(planned.artifact, name, planned.extent, *self._shapes).shard_bytes
            for name in variables
        )

    def _path_bytes(self, planned: PlannedArtifact) -> int:
        """Whole paths that a shard holds in memory and does not store."""
        if not planned.artifact.paths_in_memory:
            return 0
        path = layouts.layout(planned.artifact.samples, "x_t", planned.extent, *self._shapes)
        return planned.artifact.paths_in_memory * path.shard_bytes


def make_plan(context: Context, chosen: list[Study], store: Store | None = None, device: str = "cpu") -> Plan:
    """Collect what the studies ask, add what that reads, order it, and subtract what the store holds.

    Raises:
      UsageError: settings that cannot be (T, K, conventions). StoreError: a group made by another spec.
    """
    requests = {study.name: study.requests(context) for study in chosen}
    return replace(plan_requests(context, requests, store, device), studies=chosen)


def plan_requests(
    context: Context,
    requests: Mapping[str, Mapping[str, Request]],
    store: Store | None = None,
    device: str = "cpu",
) -> Plan:
    """The plan of what is asked by name, without studies that reduce it. Raises as `make_plan`."""
    asked: _Asked = {}
    for by_name in requests.values():
        for request in by_name.values():
            _ask(asked, request, context)
    for artifact in sorted(asked, key=lambda a: a.depth, reverse=True):
        _ask_sources(asked, artifact, context)
    extents = Extents(asked, store, context)
    planned = [
        _planned(artifact, asked[artifact], extents)
        for artifact in sorted(asked, key=lambda a: (a.depth, a.kind, a.name))
    ]
    for entry in planned:
        entry.missing = _missing(entry, store)
    return Plan(context, [], planned, requests, device)


def _planned(artifact: Artifact, samples: Mapping[str, int], extents: Extents) -> PlannedArtifact:
    most = max(samples.values())
    extent = extents.of(artifact, most)
    wanted = {name: extent.shards_for(samples[name]) for name in artifact.variables() if samples.get(name)}
    return PlannedArtifact(artifact, most, extent, wanted)


def _ask(asked: _Asked, request: Request, context: Context) -> None:
    """Add a request; of a variable asked several times the most samples are wanted."""
    artifact, held = request.artifact, asked.setdefault(request.artifact, {})
    latent = context.card.domain == "latent"
    wanted = {*request.variables, *artifact.always_stored(latent=latent)}
    for name in wanted - artifact.never_stored(latent=latent):
        held[name] = max(held.get(name, 0), request.samples)


def _ask_sources(asked: _Asked, artifact: Artifact, context: Context) -> None:
    most = max(asked[artifact].values())
    for source in artifact.sources():
        _ask(asked, Request(source, artifact.reads_of(source), most), context)
        _ask_sources(asked, source, context)


def _missing(entry: PlannedArtifact, store: Store | None) -> MissingShards:
    group = store.find(entry.artifact) if store is not None else None
    if group is None:
        return MissingShards(
            (shard, tuple(name for name, end in entry.asked.items() if shard < end))
            for shard in range(entry.num_shards)
        )
    return still_missing(group, entry)


def still_missing(group: ArtifactGroup, entry: PlannedArtifact) -> MissingShards:
    """Asked shards not complete, each with its variables that are not."""
    return group.missing(entry.asked, entry.asked)
