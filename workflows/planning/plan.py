"""The plan: artifacts of all asked studies, deduplicated, ordered, minus what is complete, with its costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from taba_core import schema
from taba_core.errors import StoreError
from taba_core.spec import Artifact, Generation, Inversion
from taba_core.store import ArtifactGroup, MissingShards, Store
from workflows.analysis.inputs import ROWS, Request
from workflows.analysis.study import Study
from workflows.configuration.context import Context

# By variable: how many first samples are asked, None = all.
_Asked = dict[Artifact, dict[str, int | None]]
_PROCESS_BYTES = 500_000_000  # Python with torch and Ray, measured resident
# What a unit reads from its sources, by kind ("decoded" in place of "image" where regions are of a latent model).
_READS: dict[str, tuple[str, ...]] = {
    "inversion": ("image", "class_id", "prompt"),
    "reconstruction": ("latent", "class_id", "prompt"),
    "perceptual-distance": ("image", "decoded", "reconstruction"),
    "step-predictions": ("image", "x_t", "class_id", "prompt"),
    "regions": ("image", "decoded"),
    "step-errors": ("image", "class_id", "prompt", "region"),
    "self-interpolation": ("noise", "image", "latent", "class_id", "prompt"),
    "path-distances": ("noise", "image", "latent", "class_id", "prompt"),
}
_HELD_PATHS = {"step-errors": 3, "path-distances": 1}  # x_t, eps_t, eps_hat of a shard, in memory only
_PATHS = {"x_t", "eps_t", "eps_hat"}
_ALWAYS = ("noise", "image", "class_id")  # of every generation; prompt and decoded where there are any


@dataclass
class PlannedArtifact:
    """An artifact, the variables asked of it by all studies, and what is missing of them."""

    artifact: Artifact
    variables: list[str]
    missing: MissingShards = field(default_factory=MissingShards)
    # How many shards are asked of variables of which not all are.
    first_shards: dict[str, int] = field(default_factory=dict)

    @property
    def num_shards(self) -> int:
        """Number of shards (units of work)."""
        root = self.artifact.root()
        return -(-root.num_samples // root.samples_per_shard)

    @property
    def num_files(self) -> int:
        """Shard files once complete."""
        return schema.num_files(self.artifact, self.variables, self.first_shards)

    def asked_of(self, shard: int) -> tuple[str, ...]:
        """The variables asked of a shard."""
        return tuple(name for name in self.variables if shard < self.first_shards.get(name, self.num_shards))

    def samples_in(self, shard: int) -> int:
        """Number of samples of a shard."""
        root = self.artifact.root()
        return min(root.samples_per_shard, root.num_samples - shard * root.samples_per_shard)

    @property
    def residual_evaluations(self) -> int:
        """Most network evaluations of an image that only measure the residuals of an inversion's steps."""
        artifact = self.artifact
        if not isinstance(artifact, Inversion) or "residual" not in self.variables:
            return 0
        return artifact.num_inference_steps - artifact.forward_steps

    @property
    def image_evaluations(self) -> int:
        """Network evaluations (NFE) of an image, at most."""
        return self.artifact.num_evaluations() + self.residual_evaluations

    @property
    def evaluations(self) -> int:
        """Network evaluations (image-NFE) of the whole artifact."""
        return self.image_evaluations * self.artifact.root().num_samples

    @property
    def evaluations_missing(self) -> int:
        """Network evaluations of the missing shards."""
        return sum(self.image_evaluations * self.samples_in(shard) for shard in self.missing)


@dataclass
class Plan:
    """Everything `taba run` will do and everything `taba plan` prints."""

    context: Context
    studies: list[Study]
    artifacts: list[PlannedArtifact]
    # By study name: what each reads.
    requests: Mapping[str, Mapping[str, Request]] = field(default_factory=dict)

    @property
    def fused(self) -> bool:
        """Whether rows of statistics stand for whole sampling paths."""
        return self._firsts != ()

    @property
    def path_samples(self) -> int:
        """Samples whose paths are stored all the same."""
        return max(self._firsts, default=0)

    @property
    def _firsts(self) -> tuple[int, ...]:
        """How many first samples are asked of paths, wherever not all are."""
        asked = (request for by_name in self.requests.values() for request in by_name.values())
        paths = (r.first for r in asked if _PATHS.intersection(r.variables))
        return tuple(first for first in paths if first is not None)

    @property
    def bytes_of_rows(self) -> int:
        """Stored bytes of those rows."""
        return self.bytes_of_all(p for p in self.artifacts if p.artifact.kind in _HELD_PATHS)

    @property
    def evaluations(self) -> int:
        """Image-NFE of all artifacts."""
        return sum(p.evaluations for p in self.artifacts)

    @property
    def evaluations_missing(self) -> int:
        """Image-NFE still to compute."""
        return sum(p.evaluations_missing for p in self.artifacts)

    @property
    def least_evaluations_missing(self) -> int:
        """Image-NFE still to compute if every method that stops by itself does so at once."""
        return sum(
            p.artifact.least_evaluations() * p.samples_in(shard)
            for p in self.artifacts
            for shard in p.missing
        )

    @property
    def units(self) -> int:
        """Missing shards over all artifacts."""
        return sum(len(p.missing) for p in self.artifacts)

    def bytes_of(self, planned: PlannedArtifact) -> int:
        """Stored bytes of an artifact's asked variables."""
        context = self.context
        return schema.bytes_of(
            planned.artifact,
            planned.variables,
            context.card.sample_shape,
            context.decoded_shape,
            planned.first_shards,
        )

    def bytes_of_all(self, artifacts: Iterable[PlannedArtifact]) -> int:
        """Stored bytes of some artifacts."""
        return sum(self.bytes_of(p) for p in artifacts)

    @property
    def bytes_total(self) -> int:
        """Stored bytes of all artifacts."""
        return self.bytes_of_all(self.artifacts)

    def files_of(self, planned: PlannedArtifact) -> int:
        """Files and directories (inodes) of an artifact once complete."""
        return schema.num_inodes(planned.artifact, planned.variables, planned.first_shards)

    @property
    def files_total(self) -> int:
        """Inodes of all artifacts."""
        return sum(self.files_of(p) for p in self.artifacts)

    @property
    def bytes_missing(self) -> int:
        """Bytes the missing shards will take."""
        return self.bytes_missing_of(self.artifacts)

    def bytes_missing_of(self, artifacts: Iterable[PlannedArtifact]) -> int:
        """Bytes the missing shards of some artifacts will take."""
        shape, decoded = self.context.card.sample_shape, self.context.decoded_shape
        total = 0.0
        for planned in artifacts:
            for variables, shards in planned.missing.by_variables().items():
                whole = schema.bytes_of(planned.artifact, list(variables), shape, decoded)
                total += shards * whole / planned.num_shards
        return round(total)

    @property
    def files_missing(self) -> int:
        """Shard files still to write."""
        return sum(
            len(variables) * shards
            for planned in self.artifacts
            for variables, shards in planned.missing.by_variables().items()
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
            made = self._shard_bytes(planned) + self._path_bytes(planned.artifact)
            sources = planned.artifact.sources()
            read = sum(self._shard_bytes(p) for p in self.artifacts if p.artifact in sources)
            computing, writing = max(computing, made + read), max(writing, self._shard_bytes(planned))
        return int(_PROCESS_BYTES + self.context.card.num_parameters * 4 + 2 * computing + 2 * writing)

    def _shard_bytes(self, planned: PlannedArtifact) -> float:
        context = self.context
        whole = schema.bytes_of(
            planned.artifact, planned.variables, context.card.sample_shape, context.decoded_shape
        )
        return whole / max(planned.num_shards, 1)

    def _path_bytes(self, artifact: Artifact) -> int:
        path = schema.layout(artifact.root(), "x_t", self.context.card.sample_shape)
        return _HELD_PATHS.get(artifact.kind, 0) * path.shard_bytes


def make_plan(
    context: Context, chosen: list[Study], store: Store | None = None, *, fused: bool = False
) -> Plan:
    """Collect what the studies ask, add what that reads, order it, and subtract what the store holds.

    Args:
      fused: rows of statistics and a few paths in place of whole sampling paths, where the store has not got these.
    Raises:
      UsageError: settings that cannot be (T, K, conventions). StoreError: a group made by another spec.
    """
    requests = {study.name: _requests(study, context, store, fused) for study in chosen}
    asked: _Asked = {}
    for by_name in requests.values():
        for request in by_name.values():
            _ask(asked, request, context)
    for artifact in sorted(asked, key=_depth, reverse=True):
        _ask_sources(asked, artifact, context)
    planned = [
        _planned(artifact, asked[artifact])
        for artifact in sorted(asked, key=lambda a: (_depth(a), a.kind, a.name))
    ]
    for entry in planned:
        entry.missing = _missing(entry, store)
    return Plan(context, chosen, planned, requests)


def _requests(study: Study, context: Context, store: Store | None, fused: bool) -> Mapping[str, Request]:
    """What a study reads: its whole requests unless rows are to stand for paths that the store has not got."""
    whole = study.requests(context)
    small = study.fused_requests(context) if fused else {}
    if not small or (store is not None and all(_is_complete(r, store) for r in whole.values())):
        return whole
    if store is None or store.find(small[ROWS].artifact) or not has_result(store, study.result_name(context)):
        return small
    return {
        name: request for name, request in small.items() if name != ROWS
    }  # its result is there without them


def _is_complete(request: Request, store: Store) -> bool:
    group = store.find(request.artifact)
    return group is not None and not group.missing(request.variables)


def has_result(store: Store, name: str) -> bool:
    """Whether a result is there and whole; a damaged one is analysed again."""
    try:
        return store.read_result(name) is not None
    except StoreError:
        return False


def _planned(artifact: Artifact, samples: Mapping[str, int | None]) -> PlannedArtifact:
    root = artifact.root()
    ends = {name: -(-first // root.samples_per_shard) for name, first in samples.items() if first is not None}
    variables = [name for name in schema.variables_of(artifact) if name in samples and ends.get(name) != 0]
    total = schema.num_shards(artifact)
    limited = {name: ends[name] for name in variables if ends.get(name, total) < total}
    return PlannedArtifact(artifact, variables, first_shards=limited)


def _ask(asked: _Asked, request: Request, context: Context) -> None:
    """Add a request; of a variable asked several times the most samples are wanted (None = all)."""
    artifact, held = request.artifact, asked.setdefault(request.artifact, {})
    wanted = dict.fromkeys(request.variables, request.first)
    if isinstance(artifact, Generation):
        wanted |= dict.fromkeys((*_ALWAYS, "prompt", "decoded"))
        if artifact.prompts is None:
            del wanted["prompt"]
        if context.decoded_shape is None:
            del wanted["decoded"]
    for name, first in wanted.items():
        known = held.get(name, 0)
        held[name] = None if first is None or known is None else max(known, first)


def _ask_sources(asked: _Asked, artifact: Artifact, context: Context) -> None:
    for source in artifact.sources():
        available = schema.variables_of(source)
        read = tuple(name for name in _READS[artifact.kind] if name in available)
        if artifact.kind == "reconstruction" and isinstance(source, Inversion):
            read += tuple(source.carried)
        _ask(asked, Request(source, read), context)
        _ask_sources(asked, source, context)


def _depth(artifact: Artifact) -> int:
    return 1 + max((_depth(source) for source in artifact.sources()), default=0)


def _missing(entry: PlannedArtifact, store: Store | None) -> MissingShards:
    group = store.find(entry.artifact) if store is not None else None
    if group is None:
        return MissingShards((shard, entry.asked_of(shard)) for shard in range(entry.num_shards))
    return still_missing(group, entry)


def still_missing(group: ArtifactGroup, entry: PlannedArtifact) -> MissingShards:
    """Asked shards not complete, each with its variables that are not."""
    return group.missing(entry.variables, entry.first_shards)
