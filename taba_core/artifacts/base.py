"""Artifacts: frozen descriptions of what is computed, and the content key that names it.

An artifact is a set of stored arrays over the same samples. Its spec holds everything that can change a value and
nothing that cannot: no workers, executors or paths, no number of samples (a store grows by whole shards) and no size
of a shard. Specs nest: an inversion contains the images it starts from, so its key follows from the whole chain.

A kind of artifact is one module of this package. It declares the spec, the variables, what a unit of work reads of
its sources, and what it costs; `workflows.compute` has the function that computes it.
"""

from __future__ import annotations

import functools
import hashlib
from abc import abstractmethod
from typing import Any, ClassVar

from taba_core.artifacts.variable import Variable
from taba_core.errors import unknown_name
from taba_core.found import import_modules
from taba_core.model_spec import ModelSpec, Spec

SCHEMA_VERSION = 2


class StoredSpec(Spec):
    """A description that names a group of the store: an artifact, or a training.

    Class attributes:
      kind: what is described, in the key and in the group's name.
    """

    kind: ClassVar[str]

    @property
    def key(self) -> str:
        """12 hex digits naming the content: kind, all fields, all sources, schema version."""
        text = f"{SCHEMA_VERSION}/{self.kind}/{self.canonical()}"
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    def attrs(self) -> dict[str, Any]:
        """What the group's attributes say: schema version, kind, key, and the whole spec."""
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": self.kind,
            "key": self.key,
            "spec": self.model_dump(mode="json"),
        }


class Artifact(StoredSpec):
    """Base of all kinds.

    Class attributes that a kind declares:
      stored: the variables that every artifact of the kind may store.
      reads: names of the variables that a unit reads of its sources, wherever a source has them.
      image_variable: the variable that holds images in the model's own space; "" where there are none.
      paths_in_memory: how many arrays of the size of a whole path a unit holds and does not store.
    """

    stored: ClassVar[tuple[Variable, ...]]
    reads: ClassVar[tuple[str, ...]] = ()
    image_variable: ClassVar[str] = ""
    paths_in_memory: ClassVar[int] = 0

    @property
    @abstractmethod
    def samples(self) -> SampleSource:
        """The artifact at the start of the chain, which says what the samples are."""

    @property
    def predictor(self) -> ModelSpec:
        """The network whose predictions the artifact is made by: the samples' own, unless a kind has another."""
        return self.samples.model

    def sources(self) -> tuple[Artifact, ...]:
        """Artifacts whose shards this one reads, shard i from shard i."""
        return ()

    def num_evaluations(self) -> int:
        """Network evaluations (NFE) of a sample, the most where they depend on it."""
        return 0

    def least_evaluations(self) -> int:
        """Network evaluations of the cheapest sample, where they depend on it."""
        return self.num_evaluations()

    def saved_evaluations(self, made: frozenset[Artifact]) -> int:
        """Network evaluations of a sample that a unit does not need because it has just made these artifacts."""
        return 0

    def measuring_evaluations(self, variables: tuple[str, ...]) -> int:
        """Most network evaluations of a sample that only measure one of these variables."""
        return 0

    def variables(self) -> dict[str, Variable]:
        """Every variable the artifact may store, by name."""
        return {variable.name: variable for variable in self.stored}

    def variable(self, name: str) -> Variable:
        """One variable. Raises UsageError: there is none of that name."""
        known = self.variables()
        if name not in known:
            raise unknown_name(f"{self.kind} variable", name, known)
        return known[name]

    def always_stored(self, *, latent: bool) -> tuple[str, ...]:
        """Variables that are stored whether a study asks for them or not; `latent` = the model has a decoder."""
        return ()

    def never_stored(self, *, latent: bool) -> frozenset[str]:
        """Variables of the kind that this artifact has not got; `latent` = the model has a decoder."""
        return frozenset()

    def reads_of(self, source: Artifact) -> tuple[str, ...]:
        """Variables that a unit reads of one of its sources."""
        available = source.variables()
        return tuple(name for name in self.reads if name in available)

    def sizes(self, variable: str) -> dict[str, int]:
        """Sizes of the dimensions that only this kind has, of one variable."""
        return {}

    @property
    def num_steps(self) -> int:
        """T, the length of the `step` dimension: the artifact's own steps, else those of its first source.

        An inversion may have another T than the images it inverts; a reconstruction has that of its inversion.
        Artifacts that have nothing to do with a path have 0.
        """
        own = getattr(self, "num_inference_steps", None)
        if own is not None:
            return int(own)
        sources = self.sources()
        return sources[0].num_steps if sources else 0

    @property
    def depth(self) -> int:
        """1 for an artifact without sources, else one more than its deepest source."""
        return 1 + max((source.depth for source in self.sources()), default=0)

    @property
    def name(self) -> str:
        """Group name in the store: <model>-<kind>-<key>."""
        return f"{self.samples.model.name}-{self.kind}-{self.key}"


class SampleSource(Artifact):
    """An artifact that gives samples: a generation, or images from a folder.

    Sample ids are 0, 1, 2, ...; a network always sees the batch of ids that a sample belongs to,
    [k batch_size, (k + 1) batch_size), whatever the number of samples or the size of a shard.
    """

    model: ModelSpec
    batch_size: int

    @property
    def samples(self) -> SampleSource:
        """Itself."""
        return self

    @property
    def limit(self) -> int | None:
        """How many samples there are; None where any number can be made."""
        return None

    def never_stored(self, *, latent: bool) -> frozenset[str]:
        """Prompts where samples have none, decoded pictures where the model works on pixels."""
        prompts = {"prompt"} - {*self.condition_variables}
        return frozenset(prompts | (set() if latent else {"decoded"}))

    @property
    def end_points(self) -> tuple[str, ...]:
        """The images, and the noise they were sampled from where it is known."""
        names = ("noise", "image")
        return tuple(name for name in names if name in self.variables())

    @property
    @abstractmethod
    def condition_variables(self) -> tuple[str, ...]:
        """Stored variables that hold what a sample is conditioned on."""

    @property
    @abstractmethod
    def draw_seed(self) -> int:
        """Seed of whatever is drawn for a sample besides its noise."""


@functools.cache
def kinds() -> dict[str, type[Artifact]]:
    """All kinds by name: the classes with a `kind` in the modules of this package."""
    import_modules("taba_core.artifacts")
    known = _subclasses(Artifact)  # type: ignore[type-abstract]  # the base is asked for its subclasses only
    return {cls.kind: cls for cls in known if "kind" in vars(cls)}


def _subclasses(cls: type[Artifact]) -> list[type[Artifact]]:
    return [found for direct in cls.__subclasses__() for found in (direct, *_subclasses(direct))]


def from_attrs(attrs: dict[str, Any]) -> Artifact:
    """Rebuild a spec from a group's attributes.

    Raises:
      KeyError: no such kind. pydantic.ValidationError: fields of another version.
    """
    return kinds()[attrs["kind"]].model_validate(attrs["spec"])
