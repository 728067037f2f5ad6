"""The settings of a run that any study may read, typed, validated and listed in `--help`.

What one study reads alone is declared beside it: see `workflows.configuration.options`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, ValidationError

from taba_core.artifacts.generation import Draws
from taba_core.artifacts.inversion import RoundTrip
from taba_core.conventions import (
    UNGUIDED,
    FirstTime,
    ForwardLevel,
    GuidanceScale,
    HeldQuantity,
    Levels,
    NetworkTime,
    X0Rule,
)
from taba_core.errors import UsageError, unknown_name
from workflows.configuration.options import Given, Options, by_flat_name, name_to_set, options_of, refusal

MAX_SEED = (
    2**63 - 1
)  # what taba_core.rng takes; not imported from there, because --help should not load scipy


class Settings(Given):
    """What may change a number, and how much of it to compute.

    A value of None means: the model's own (its card), or the paper's for that study.
    """

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
    target_seed: int = Field(
        42,
        ge=0,
        le=MAX_SEED,
        description="seed of the conditions that edits are asked for, other than the image's own",
    )
    targets: str | None = Field(
        None,
        min_length=1,
        description="file of the conditions that edits are asked for, a line for each condition of the images in their "
        "order: prompts, or names or numbers of classes (default: drawn)",
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
    forward_rules: Literal["own", "both"] | None = Field(
        None,
        description="readings of 'replace K steps' that studies compare: own (forward_level) | both (default: both of "
        "models that run on any machine, else own)",
    )
    first_time: FirstTime | None = Field(
        None, description="override: time of step 1 under source times: one | zero (flows)"
    )
    held: HeldQuantity | None = Field(
        None,
        description="override: what inversion steps carry between levels: auto (what the network predicts) | "
        "velocity | noise | noise-vp (the noise, on the scale of a variance-preserving model)",
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
    study_options: dict[str, dict[str, JsonValue]] = Field(
        default_factory=dict, description="options of studies by study, set as STUDY.OPTION=VALUE"
    )


FIELDS = tuple(name for name in Settings.model_fields if not name.endswith("_options"))
_GROUPS = {"model": "model_options", "method": "method_options"}


def parse_settings(assignments: Sequence[str], options: Sequence[type[Options]] = ()) -> Settings:
    """Settings from `field=value` texts.

    Args:
      assignments: `model.name=value` and `method.name=value` reach the options of model and method,
        `STUDY.OPTION=value` those of a study.
      options: those that studies declare; `workflows.analysis.study.read_settings` gives those of all studies.

    Raises:
      UsageError: no '=', an unknown field or option (with the nearest names), or a value that a rule refuses.
    """
    declared, flat = {each.study: each for each in options}, by_flat_name(options)
    values: dict[str, Any] = {}
    of_studies: dict[str, dict[str, JsonValue]] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals:
            raise UsageError(f"--set {text}: write field=value, for example --set num_samples=512.")
        group, dot, option = name.partition(".")
        if dot and group in _GROUPS:
            values.setdefault(_GROUPS[group], {})[option] = scalar(value)
        elif name in flat or (dot and group in declared):
            study, option = flat.get(name, (group, option))
            _give(of_studies.setdefault(study, {}), option, name, value)
        elif name in FIELDS:
            _give(values, name, name, value)
        else:
            raise unknown_name("field", name, [*FIELDS, "model.NAME", *_all_names(options)])
    for study in of_studies:
        options_of(declared[study], of_studies)
    if of_studies:
        values["study_options"] = of_studies
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise UsageError(refusal(Settings, error)) from None


def _give(values: dict[str, Any], key: str, typed: str, value: str) -> None:
    if key in values:
        raise UsageError(f"--set {typed}: given twice ({values[key]} and {value}); give it once.")
    values[key] = value


def _all_names(options: Sequence[type[Options]]) -> list[str]:
    return [f"{each.study}.{option}" for each in options for option in each.model_fields]


def stored_settings(settings: Settings, options: Iterable[type[Options]]) -> dict[str, Any]:
    """Settings and the options of some studies as a result stores them: plain values by what `--set` takes."""
    plain = settings.model_dump(mode="json", exclude={"study_options"})
    for declared in options:
        values = options_of(declared, settings.study_options).model_dump(mode="json")
        plain |= {name_to_set(declared, option): value for option, value in values.items()}
    return plain


def scalar(text: str) -> JsonValue:
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
