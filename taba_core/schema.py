"""Names, dimensions, units, types and shard shapes of every stored variable.

A shard is a fixed block of consecutive sample ids with all steps; its inner chunks hold one step each,
because nearly all statistics are per step. Nothing is compressed, so the size of a shard file is known to the
byte and checking a file needs one `stat`.

Rows of per-step variables are noise levels in ascending order, l = 1..T: x_t[l] is the state that sampling
step l read (so x_t[T] is the noise), eps_t[l] the prediction used there, eps_hat[l] = eps(x_{l-1}, .).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from taba_core.errors import UsageError, unknown_name
from taba_core.spec import Artifact, Inversion, SelfInterpolation

CHUNK_CRC_BYTES = 4  # crc32c after each inner chunk
INDEX_ENTRY_BYTES = 16  # offset and length of one inner chunk
INDEX_CRC_BYTES = 4

UNCONDITIONAL = -1  # class_id of a sample made without a class
REGION_UNWRITTEN = 255
FALLBACKS = ("none", "damped", "best_iterate")  # by code, as `taba_core.diffusion.inversion.Fallback`
FALLBACK_UNWRITTEN = 255
RESIDUAL_NOT_DEFINED = -1.0
CLASS_ID_UNWRITTEN = int(np.iinfo(np.int32).min)
PROMPT_BYTES = 1024  # room for one prompt

Fill = Literal["NaN"] | int


@dataclass(frozen=True)
class Variable:
    """One stored array: what a reader needs to know about it.

    `fill` is what an unwritten value reads as; "NaN" wherever the type has it.
    """

    name: str
    dims: tuple[str, ...]
    units: str
    long_name: str
    dtype: str = "float32"
    per_step: bool = False
    fill: Fill = "NaN"
    notes: Mapping[str, Any] = field(default_factory=dict)

    def attrs(self) -> dict[str, Any]:
        """Attributes of the array in the store, CF names, plain JSON."""
        return {"long_name": self.long_name, "units": self.units, **self.notes}


def _row(name: str, dims: tuple[str, ...], long_name: str) -> Variable:
    """A variable of float64 rows: what a statistic keeps of a sample."""
    return Variable(name, dims, "1", long_name, dtype="float64", per_step="step" in dims)


_BY_REGION = ("sample", "step", "region")
_STATE = ("sample", "channel", "y", "x")
_STEPS = ("sample", "step", "channel", "y", "x")
_NOISE_UNITS = "standard deviations of the noise"

_VARIABLES: dict[str, tuple[Variable, ...]] = {
    "generation": (
        Variable("noise", _STATE, _NOISE_UNITS, "Gaussian noise x_T that sampling started from"),
        Variable("image", _STATE, "1", "generated image x_0 in the model's own space"),
        Variable(
            "class_id",
            ("sample",),
            "1",
            "class the sample was conditioned on",
            dtype="int32",
            fill=CLASS_ID_UNWRITTEN,
            notes={"comment": f"{UNCONDITIONAL} = unconditional, {CLASS_ID_UNWRITTEN} = not written"},
        ),
        Variable(
            "prompt",
            ("sample", "char"),
            "1",
            "prompt the sample was conditioned on, UTF-8 bytes padded with zeros",
            dtype="uint8",
            fill=0,
            notes={"comment": "every value is valid; a sample whose `image` is NaN is not written"},
        ),
        Variable("x_t", _STEPS, _NOISE_UNITS, "state read by the sampling step at this level", per_step=True),
        Variable("eps_t", _STEPS, _NOISE_UNITS, "noise prediction used by that sampling step", per_step=True),
        Variable(
            "decoded",
            ("sample", "rgb", "pixel_y", "pixel_x"),
            "1",
            "image decoded from the latent space, 8-bit RGB",
            dtype="uint8",
            fill=0,
            notes={"comment": "every value is valid; a sample whose `image` is NaN is not written"},
        ),
    ),
    # And what the method carries beside the latent, see `variables_of`.
    "inversion": (
        Variable("latent", _STATE, _NOISE_UNITS, "latent the inversion of the image ended at"),
        _row("evaluations", ("sample",), "network evaluations the inversion of the image took"),
        Variable(
            "residual",
            ("sample", "step"),
            "1",
            "rms of P x_{l-1} + Q eps(x_l) - x_l after step l: 0 where the step is exactly undone by sampling",
            per_step=True,
            notes={
                "valid_min": 0.0,
                "comment": f"{RESIDUAL_NOT_DEFINED:g} = no residual: a replaced step, or none of one state",
            },
        ),
        Variable(
            "fallback",
            ("sample", "step"),
            "1",
            "what the guard against divergence did in step l",
            dtype="uint8",
            per_step=True,
            fill=FALLBACK_UNWRITTEN,
            notes={
                "flag_values": [*range(len(FALLBACKS)), FALLBACK_UNWRITTEN],
                "flag_meanings": " ".join((*FALLBACKS, "not_written")),
            },
        ),
    ),
    "reconstruction": (Variable("reconstruction", _STATE, "1", "image sampled again from the latent"),),
    "perceptual-distance": (
        Variable("lpips", ("sample",), "1", "LPIPS v0.1 (AlexNet) of the image and its reconstruction"),
    ),
    "step-predictions": (
        Variable(
            "eps_hat",
            _STEPS,
            _NOISE_UNITS,
            "inversion's noise prediction from the exact cached state one level below",
            per_step=True,
        ),
    ),
    "regions": (
        Variable(
            "region",
            ("sample", "y", "x"),
            "1",
            "plain region of the generated image",
            dtype="uint8",
            fill=REGION_UNWRITTEN,
            notes={
                "flag_values": [0, 1, REGION_UNWRITTEN],
                "flag_meanings": "not_plain plain not_written",
            },
        ),
    ),
    # Rows by region: plain, non-plain.
    "step-errors": (
        _row("entries", ("sample", "region"), "entries of the region, channels included"),
        _row("error", _BY_REGION, "sum of |eps_t - eps_hat| over the region"),
        _row("magnitude", _BY_REGION, "sum of |eps_t| over the region"),
        _row("u", _BY_REGION, "sum of eps_t over the region"),
        _row("uu", _BY_REGION, "sum of eps_t^2 over the region"),
        _row("v", _BY_REGION, "sum of eps_hat over the region"),
        _row("vv", _BY_REGION, "sum of eps_hat^2 over the region"),
    ),
    # By weight c of the latent on the arc from the noise, c = 0, ..., 1.
    "self-interpolation": (
        _row(
            "distance",
            ("sample", "weight"),
            "mean |difference| to the image of what slerp(x_T, latent; c) gives",
        ),
    ),
    # Rows by level: the image is level 0, x_t of step l is level l.
    "path-distances": (
        _row("a", ("sample", "level"), "||x_t - x_T||^2"),
        _row("b", ("sample", "level"), "<x_t - x_T, latent - x_T>"),
        _row("c", ("sample",), "||latent - x_T||^2"),
    ),
}


def variables_of(artifact: Artifact | str) -> dict[str, Variable]:
    """Every variable an artifact may store, by name; of a kind alone those that all of the kind have.

    An inversion also has the tensors that its method carries beside the latent, under their own names.

    Raises:
      UsageError: no such kind.
    """
    kind = artifact if isinstance(artifact, str) else artifact.kind
    if kind not in _VARIABLES:
        raise unknown_name("artifact kind", kind, _VARIABLES)
    known = {variable.name: variable for variable in _VARIABLES[kind]}
    if isinstance(artifact, Inversion):
        known |= {name: _carried(name, tuple(sizes)) for name, sizes in artifact.carried.items()}
    return known


def _carried(name: str, dims: tuple[str, ...]) -> Variable:
    text = "carried beside the latent by a method with a sampler of its own"
    return Variable(name, ("sample", *dims), "1", text, per_step="step" in dims)


def variable_of(artifact: Artifact | str, name: str) -> Variable:
    """One variable of an artifact or a kind.

    Raises:
      UsageError: no such kind or variable.
    """
    kind = artifact if isinstance(artifact, str) else artifact.kind
    known = variables_of(artifact)
    if name not in known:
        raise unknown_name(f"{kind} variable", name, known)
    return known[name]


def num_steps(artifact: Artifact) -> int:
    """T, the length of the `step` dimension: the artifact's own steps, else those of its first source.

    An inversion may have another T than the images it inverts; a reconstruction has that of its inversion.
    """
    while not hasattr(artifact, "num_inference_steps"):
        artifact = artifact.sources()[0]
    return int(artifact.num_inference_steps)


@dataclass(frozen=True)
class Layout:
    """Shapes of one array in the store: whole, inner chunk, shard (all in elements)."""

    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    shard: tuple[int, ...]
    dtype: str

    @property
    def num_shards(self) -> int:
        """Shard files of the array; the last one may hold fewer samples than it has room for."""
        return math.ceil(self.shape[0] / self.shard[0])

    @property
    def shard_bytes(self) -> int:
        """Exact size of every shard file: payload, a checksum per chunk, and the index with its checksum."""
        chunks = math.prod(s // c for s, c in zip(self.shard, self.chunk, strict=True))
        payload = math.prod(self.shard) * np.dtype(self.dtype).itemsize
        return payload + chunks * (CHUNK_CRC_BYTES + INDEX_ENTRY_BYTES) + INDEX_CRC_BYTES

    def samples(self, shard: int) -> tuple[int, int]:
        """Sample ids [start, stop) of a shard."""
        start = shard * self.shard[0]
        return start, min(start + self.shard[0], self.shape[0])


def layout(
    artifact: Artifact,
    variable: str,
    sample_shape: Sequence[int],
    decoded_shape: Sequence[int] | None = None,
) -> Layout:
    """Shapes of a variable: shard = (block, all steps, ...), chunk = (block, 1 step, ...).

    The block is samples_per_shard, or all samples if they are fewer. Rows of statistics are one chunk: a step of
    them is a few bytes.

    Args:
      artifact: fixes the number of samples and steps and the samples of a shard.
      variable: one of `variables_of(artifact)`.
      sample_shape: (C, H, W) of a state.
      decoded_shape: (3, height, width) of `decoded`; needed for that variable only.
    Raises:
      UsageError: unknown variable, or a shape that is not three positive sizes.
    """
    described = variable_of(artifact, variable)
    root = artifact.root()
    sizes = dict(zip(("channel", "y", "x"), _three(sample_shape, "sample_shape"), strict=True))
    if "rgb" in described.dims:
        names = ("rgb", "pixel_y", "pixel_x")
        sizes |= dict(zip(names, _three(decoded_shape or (), "decoded_shape"), strict=True))
    steps = num_steps(artifact)
    sizes |= {"sample": root.num_samples, "step": steps, "level": steps + 1}
    sizes |= {"char": PROMPT_BYTES, "region": 2}
    if isinstance(artifact, SelfInterpolation):
        sizes |= {"weight": artifact.num_weights}
    if isinstance(artifact, Inversion):
        sizes |= artifact.carried.get(variable, {})
    shape = tuple(sizes[dim] for dim in described.dims)
    block = min(root.samples_per_shard, root.num_samples)
    shard = (block, *shape[1:])
    one_step = described.dims == _STEPS
    chunk = tuple(
        1 if dim == "step" and one_step else size for dim, size in zip(described.dims, shard, strict=True)
    )
    return Layout(shape, chunk, shard, described.dtype)


def bytes_of(
    artifact: Artifact,
    variables: Sequence[str],
    sample_shape: Sequence[int],
    decoded_shape: Sequence[int] | None = None,
    first_shards: Mapping[str, int] = MappingProxyType({}),
) -> int:
    """Bytes of all shard files of these variables once complete (coordinates and metadata add a few kB).

    Args:
      first_shards: how many shards are wanted of variables of which not all are.
    """
    layouts = {name: layout(artifact, name, sample_shape, decoded_shape) for name in variables}
    return sum(first_shards.get(name, item.num_shards) * item.shard_bytes for name, item in layouts.items())


def num_shards(artifact: Artifact) -> int:
    """Shards of the artifact: units of work, and files per variable."""
    root = artifact.root()
    return math.ceil(root.num_samples / min(root.samples_per_shard, root.num_samples))


def num_files(
    artifact: Artifact,
    variables: Sequence[str],
    first_shards: Mapping[str, int] = MappingProxyType({}),
) -> int:
    """Shard files of these variables once complete."""
    return sum(first_shards.get(name, num_shards(artifact)) for name in variables)


def num_inodes(
    artifact: Artifact,
    variables: Sequence[str],
    first_shards: Mapping[str, int] = MappingProxyType({}),
) -> int:
    """Files and directories of an artifact with these variables once complete.

    A group and its metadata; an array each for the variables and the coordinates sample, step, timestep and
    alpha_bar (directory, metadata, shards; one chunk a coordinate); the ledger.
    """
    coordinates = 4
    return 2 + num_files(artifact, variables, first_shards) + 2 * len(variables) + 3 * coordinates + 1


def _three(shape: Sequence[int], name: str) -> tuple[int, int, int]:
    if len(shape) != 3 or any(size < 1 for size in shape):
        raise UsageError(f"{name}={tuple(shape)}: three positive sizes (channel, height, width) are needed.")
    return int(shape[0]), int(shape[1]), int(shape[2])
