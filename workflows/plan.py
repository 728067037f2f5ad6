"""The plan: artifacts of all asked studies, deduplicated, ordered, minus what is complete, with its costs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from taba_core import schema
from taba_core.spec import Artifact, Generation
from taba_core.store import ArtifactGroup, Store
from workflows.context import Context
from workflows.study import Study

_PROCESS_BYTES = 500_000_000  # Python with torch and Ray, measured resident
# What a unit reads from its sources, by kind ("decoded" in place of "image" where regions are of a latent model).
_READS: dict[str, tuple[str, ...]] = {
    "inversion": ("image", "class_id", "prompt"),
    "reconstruction": ("latent", "class_id", "prompt"),
    "step-predictions": ("image", "x_t", "class_id", "prompt"),
    "regions": ("image", "decoded"),
}
_ALWAYS = ("noise", "image", "class_id")  # of every generation; prompt and decoded where there are any


@dataclass
class PlannedArtifact:
    """An artifact, the variables asked of it by all studies, and what is missing of them."""

    artifact: Artifact
    variables: list[str]
    missing: dict[int, tuple[str, ...]] = field(default_factory=dict)

    @property
    def num_shards(self) -> int:
        """Number of shards (units of work)."""
        root = self.artifact.root()
        return -(-root.num_samples // root.samples_per_shard)

    def samples_in(self, shard: int) -> int:
        """Number of samples of a shard."""
        root = self.artifact.root()
        return min(root.samples_per_shard, root.num_samples - shard * root.samples_per_shard)

    def missing_by_variables(self) -> Counter[tuple[str, ...]]:
        """How many shards miss which variables."""
        return Counter(self.missing.values())

    @property
    def evaluations(self) -> int:
        """Network evaluations (image-NFE) of the whole artifact."""
        return self.artifact.num_evaluations() * self.artifact.root().num_samples

    @property
    def evaluations_missing(self) -> int:
        """Network evaluations of the missing shards."""
        return sum(self.artifact.num_evaluations() * self.samples_in(shard) for shard in self.missing)


@dataclass
class Plan:
    """Everything `taba run` will do and everything `taba plan` prints."""

    context: Context
    studies: list[Study]
    artifacts: list[PlannedArtifact]

    @property
    def evaluations(self) -> int:
        """Image-NFE of all artifacts."""
        return sum(p.evaluations for p in self.artifacts)

    @property
    def evaluations_missing(self) -> int:
        """Image-NFE still to compute."""
        return sum(p.evaluations_missing for p in self.artifacts)

    @property
    def units(self) -> int:
        """Missing shards over all artifacts."""
        return sum(len(p.missing) for p in self.artifacts)

    def bytes_of(self, planned: PlannedArtifact) -> int:
        """Stored bytes of an artifact's asked variables."""
        context = self.context
        return schema.bytes_of(
            planned.artifact, planned.variables, context.card.sample_shape, context.decoded_shape
        )

    @property
    def bytes_total(self) -> int:
        """Stored bytes of all artifacts."""
        return sum(self.bytes_of(p) for p in self.artifacts)

    def files_of(self, planned: PlannedArtifact) -> int:
        """Files and directories (inodes) of an artifact once complete."""
        return schema.num_inodes(planned.artifact, planned.variables)

    @property
    def files_total(self) -> int:
        """Inodes of all artifacts."""
        return sum(self.files_of(p) for p in self.artifacts)

    @property
    def bytes_missing(self) -> int:
        """Bytes the missing shards will take."""
        shape, decoded = self.context.card.sample_shape, self.context.decoded_shape
        total = 0.0
        for planned in self.artifacts:
            for variables, shards in planned.missing_by_variables().items():
                whole = schema.bytes_of(planned.artifact, list(variables), shape, decoded)
                total += shards * whole / planned.num_shards
        return round(total)

    @property
    def files_missing(self) -> int:
        """Shard files still to write."""
        return sum(
            len(variables) * shards
            for planned in self.artifacts
            for variables, shards in planned.missing_by_variables().items()
        )

    def hours(self, evaluations: int) -> float:
        """Device hours of that many image-NFE on the card's measured step time."""
        return evaluations * self.context.card.cost.image_seconds / 3600

    @property
    def peak_memory(self) -> int:
        """Host memory of one worker, bytes: the process, weights, and two units.

        One unit computes (what it reads and makes, twice for what lies between) while the last one is written (its
        arrays, and as much again encoded).
        """
        computing = writing = 0.0
        for planned in self.artifacts:
            made = self._shard_bytes(planned)
            sources = planned.artifact.sources()
            read = sum(self._shard_bytes(p) for p in self.artifacts if p.artifact in sources)
            computing, writing = max(computing, made + read), max(writing, made)
        return int(_PROCESS_BYTES + self.context.card.num_parameters * 4 + 2 * computing + 2 * writing)

    def _shard_bytes(self, planned: PlannedArtifact) -> float:
        return self.bytes_of(planned) / max(planned.num_shards, 1)


def make_plan(context: Context, chosen: list[Study], store: Store | None = None) -> Plan:
    """Collect what the studies ask, add what that reads, order it, and subtract what the store holds.

    Raises:
      UsageError: settings that cannot be (T, K, conventions). StoreError: a group made by another spec.
    """
    asked: dict[Artifact, list[str]] = {}
    for study in chosen:
        for request in study.requests(context).values():
            _ask(asked, request.artifact, request.variables, context)
    for artifact in sorted(asked, key=_depth, reverse=True):
        _ask_sources(asked, artifact, context)
    planned = [PlannedArtifact(a, asked[a]) for a in sorted(asked, key=lambda a: (_depth(a), a.kind, a.name))]
    for entry in planned:
        entry.missing = _missing(entry, store)
    return Plan(context, chosen, planned)


def _ask(
    asked: dict[Artifact, list[str]], artifact: Artifact, variables: tuple[str, ...], context: Context
) -> None:
    wanted = {*asked.get(artifact, ()), *variables}
    if isinstance(artifact, Generation):
        wanted |= {*_ALWAYS, "prompt", "decoded"}
        wanted -= {"prompt"} if artifact.prompts is None else set()
        wanted -= {"decoded"} if context.decoded_shape is None else set()
    asked[artifact] = [name for name in schema.variables_of(artifact.kind) if name in wanted]


def _ask_sources(asked: dict[Artifact, list[str]], artifact: Artifact, context: Context) -> None:
    for source in artifact.sources():
        available = schema.variables_of(source.kind)
        _ask(asked, source, tuple(name for name in _READS[artifact.kind] if name in available), context)
        _ask_sources(asked, source, context)


def _depth(artifact: Artifact) -> int:
    return 1 + max((_depth(source) for source in artifact.sources()), default=0)


def _missing(entry: PlannedArtifact, store: Store | None) -> dict[int, tuple[str, ...]]:
    group = store.find(entry.artifact) if store is not None else None
    if group is None:
        return dict.fromkeys(range(entry.num_shards), tuple(entry.variables))
    return still_missing(group, entry.variables)


def still_missing(group: ArtifactGroup, variables: list[str]) -> dict[int, tuple[str, ...]]:
    """Shards not complete, each with its variables that are not; equal tuples are one object."""
    known: dict[tuple[str, ...], tuple[str, ...]] = {}
    missing = group.missing(variables)
    return {shard: known.setdefault(tuple(names), tuple(names)) for shard, names in missing.items()}
