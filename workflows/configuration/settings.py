"""The settings of a run: every field a user can `--set`, typed, validated and listed in `--help`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, ValidationInfo, field_validator

from taba_core.artifacts.generation import Draws
from taba_core.artifacts.inversion import RoundTrip
from taba_core.conventions import UNGUIDED, ForwardLevel, GuidanceScale, Levels, NetworkTime, X0Rule
from taba_core.errors import UsageError, unknown_name

MAX_SEED = (
    2**63 - 1
)  # what taba_core.rng takes; not imported from there, because --help should not load scipy


class Settings(BaseModel):
    """What may change a number, and how much of it to compute.

    A value of None means: the model's own (its card), or the paper's for that study.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    num_samples: int | None = Field(
        None, ge=4, description="n, images per artifact (default: the card's); floors need 4"
    )
    images: str | None = Field(
        None,
        min_length=1,
        description="folder of real images to invert in place of generated ones (captions and classes: metadata.jsonl)",
    )
    num_inference_steps: int | None = Field(
        None, ge=1, description="T, DDIM transitions (default: the card's)"
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        description="samples the network sees at once, in every key (default: the card's, at most a shard and n)",
    )
    samples_per_shard: int | None = Field(
        None, ge=1, description="samples stored together, whole batches (default: one batch); in no key"
    )
    seed: int = Field(420, ge=0, le=MAX_SEED, description="seed of the noise x_T")
    forward_seed: int = Field(42, ge=0, le=MAX_SEED, description="seed of the noise of forward replacement")
    conditioning: Literal["none", "class", "prompt"] | None = Field(
        None, description="none | class | prompt, drawn per image (default: what a network needs, else none)"
    )
    class_seed: int = Field(10, ge=0, le=MAX_SEED, description="seed of the class or prompt draws")
    draws: Draws = Field(
        "counter", description="classes and prompts: counter-based, or as the reference code draws them"
    )
    noises_per_condition: int = Field(
        1, ge=1, description="consecutive samples that share a class or prompt (the paper: 8, 4)"
    )
    guidance_scale: GuidanceScale = Field(
        UNGUIDED,
        description="w of the sampler's classifier-free guidance, eps_null + w (eps_cond - eps_null), for images and "
        "reconstructions; 1 (the paper) takes one evaluation of the network, any other two",
    )
    inversion_guidance_scale: GuidanceScale = Field(
        UNGUIDED,
        description="w of the inversion's own predictions (the paper: 1); give both to use one in both directions",
    )
    round_trip: RoundTrip = Field(
        "none", description="latent models: decode and encode again before inverting: none | mean | sample"
    )
    prompts: str | None = Field(
        None,
        description="prompt list of a text model: recap-coco (the paper's), photo-captions (photo-if's), builtin, or a "
        "file (.txt, one prompt a line; .jsonl), of which the first 77 tokens of a prompt are read (default: the "
        "model's own)",
    )
    conventions: Literal["reference", "exact"] = Field(
        "reference", description="preset: the model's reference choices, or exact levels without clipping"
    )
    network_time: NetworkTime | None = Field(None, description="override: target | source")
    levels: Levels | None = Field(None, description="override: exact | shifted")
    sampling_x0_rule: X0Rule | None = Field(
        None, description="override: none | clip | clip-rederive | dynamic"
    )
    inversion_x0_rule: X0Rule | None = Field(None, description="override: as sampling_x0_rule")
    forward_level: ForwardLevel | None = Field(None, description="override: exact | matched")
    forward_steps: tuple[str, ...] = Field(
        ("2%", "4%", "10%", "20%"),
        description="K sweep of the fix: counts or percentages of T, comma-separated",
    )
    inversion_steps: tuple[int, ...] = Field(
        (10, 20, 50, 100, 200, 500, 1000),
        description="T of the inversions that study more-steps compares, comma-separated",
    )
    long_steps: int = Field(1000, ge=2, description="T of the inversions of study fix-long")
    long_forward_steps: tuple[str, ...] = Field(
        ("0.1%", "0.2%", "0.5%", "1%", "2%", "4%"), description="K sweep of study fix-long, as forward_steps"
    )
    mapping_steps: tuple[int, ...] = Field(
        (10, 100), description="T that study mapping compares beside the run's own, comma-separated"
    )
    mapping_divisions: Literal["auto", "whole", "eighths", "class"] = Field(
        "auto",
        description="candidates of study mapping: whole | eighths | class | auto (class where images have one, "
        "eighths from 2048 images, else whole)",
    )
    methods: tuple[str, ...] = Field(
        ("all",),
        description="rows of study methods: all | table7 | names of rows or methods, comma-separated",
    )
    arc_samples: int = Field(
        128, ge=2, description="first samples of which study methods makes the self-interpolation curves"
    )
    lpips: Literal["on", "off"] = Field(
        "off",
        description="study methods: measure LPIPS, which needs extra metrics and AlexNet's weights: on | off",
    )
    patch_size: int = Field(8, ge=2, description="side of the patches of the correlation, pixels")
    top_k: int = Field(20, ge=1, description="largest |r| kept per patch")
    plain_threshold: float = Field(
        0.025, gt=0, description="mean absolute difference below which a pixel is plain"
    )
    plain_range: Literal["-1..1", "0..1"] = Field("-1..1", description="value range the threshold refers to")
    bootstrap_replicates: int = Field(1000, ge=100, description="Poisson bootstrap replicates")
    trajectories: Literal["all"] | Annotated[int, Field(ge=0)] = Field(
        64,
        description="samples whose whole sampling paths are stored by per-step studies: a number of first samples, or "
        "all (no number of a table depends on it)",
    )
    model_options: dict[str, JsonValue] = Field(
        default_factory=dict, description="options of the model, set as model.NAME=VALUE (see `taba list`)"
    )
    method_options: dict[str, JsonValue] = Field(
        default_factory=dict, description="options of the inversion method, set as method.NAME=VALUE"
    )

    @field_validator(
        "forward_steps", "long_forward_steps", "inversion_steps", "mapping_steps", "methods", mode="before"
    )
    @classmethod
    def _split_list(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, (list, tuple)) and not value:
            if info.field_name == "methods":
                raise ValueError("give at least one row, e.g. ddim,noise-initialised")
            example = "10,100,1000" if info.field_name in ("inversion_steps", "mapping_steps") else "2%,4%"
            raise ValueError(f"give at least one step count, e.g. {example}")
        if info.field_name in ("inversion_steps", "mapping_steps") or not isinstance(value, (list, tuple)):
            return value
        return tuple(str(v) for v in value)

    @field_validator("inversion_steps", "mapping_steps")
    @classmethod
    def _at_least_one_step(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if min(value) < 1:
            raise ValueError(f"T={min(value)} is no number of steps; use 1 or more")
        return value

    def with_defaults(self, defaults: Mapping[str, Any]) -> Settings:
        """These settings with other defaults: of fields the user did not set, which still count as not set."""
        user = self.model_fields_set
        values = dict(self) | {name: value for name, value in defaults.items() if name not in user}
        return self.model_construct(_fields_set=set(user), **values)

    def analysis(self) -> dict[str, Any]:
        """The fields that only the analysis reads (they enter a result's key, not an artifact's)."""
        return {"patch_size": self.patch_size, "top_k": self.top_k, "replicates": self.bootstrap_replicates}


FIELDS = tuple(Settings.model_fields)
_GROUPS = {"model": "model_options", "method": "method_options"}


def parse_settings(assignments: list[str]) -> Settings:
    """Settings from `field=value` texts; `model.name=value` and `method.name=value` reach the options.

    Raises:
      UsageError: no '=', an unknown field (with the nearest names), or a value the field refuses.
    """
    values: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals:
            raise UsageError(f"--set {text}: write field=value, for example --set num_samples=512.")
        group, dot, option = name.partition(".")
        if dot and group in _GROUPS:
            values.setdefault(_GROUPS[group], {})[option] = _scalar(value)
        elif name in FIELDS and name not in _GROUPS.values():
            if name in values:
                raise UsageError(f"--set {name}: given twice ({values[name]} and {value}); give it once.")
            values[name] = value
        else:
            raise unknown_name(
                "field", name, [*(f for f in FIELDS if f not in _GROUPS.values()), "model.NAME"]
            )
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise UsageError(_first_problem(error)) from None


def _scalar(text: str) -> JsonValue:
    """An option's value: int, float, true/false, else the text itself."""
    lowered = text.strip().lower()
    if lowered in ("true", "false"):
        return lowered == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    field = str(problem["loc"][0]) if problem["loc"] else "?"
    message = problem["msg"].removeprefix("Value error, ")
    described = Settings.model_fields[field].description if field in Settings.model_fields else ""
    return f"--set {field}={problem['input']}: {message}. {field} is: {described}."
