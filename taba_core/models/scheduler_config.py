"""A diffusers `scheduler_config.json` as taba's data: schedule, prediction, grid and conventions. No torch.

The file mixes facts about the weights (betas, prediction) with choices of a sampler (spacing, offset, clipping). The
two are read apart: a card may make other choices, and it may not contradict a fact. Whatever sampler the file names,
its choices are read as `DDIMScheduler.from_config` would read them, because DDIM is what the paper runs: choices the
file does not state have DDIMScheduler's defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Any, Literal

import numpy as np

from taba_core.conventions import X0Rule
from taba_core.diffusion.schedule import NoiseSchedule
from taba_core.diffusion.spacing import GridStyle, dynamic_shift
from taba_core.errors import UsageError
from taba_core.models.cards import Card, Prediction, ScheduleCard
from taba_core.models.config_fields import FLOW_SCHEDULER
from taba_core.models.corrections import correction
from taba_core.models.json_file import read_json

_KINDS: dict[str, Literal["linear", "scaled-linear", "cosine"]] = {
    "linear": "linear",
    "scaled_linear": "scaled-linear",
    "squaredcos_cap_v2": "cosine",
}
_PREDICTIONS: dict[str, Prediction] = {
    "epsilon": "epsilon",
    "v_prediction": "v",
    "sample": "sample",
}
_STYLES: dict[str, Literal["diffusers-leading", "diffusers-trailing"]] = {
    "leading": "diffusers-leading",
    "trailing": "diffusers-trailing",
}
# Samplers of variance-preserving diffusion over discrete timesteps; EDM-like models are not.
_SCHEDULERS = (
    "DDIM", "DDPM", "PNDM", "LMSDiscrete", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete",
    "DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep", "UniPCMultistep", "KDPM2Discrete",
)  # fmt: skip
_BETAS = (1e-4, 0.02)  # the classes' defaults of beta_start and beta_end
_OTHER_BETAS = {"HeunDiscreteScheduler": (0.00085, 0.012), "KDPM2DiscreteScheduler": (0.00085, 0.012)}
_COSINE_MAX_BETA = 0.999  # of squaredcos_cap_v2
_DYNAMIC = (0.95, 1.5)  # the one dynamic threshold of taba_core.diffusion.ddim (DeepFloyd IF)
_CLIPPING = "reference: {sampling_x0_rule: clip, inversion_x0_rule: clip}"


@dataclass(frozen=True)
class Process:
    """What the weights were trained on.

    Attributes:
      schedule: the betas.
      prediction: what the network's output means.
    """

    schedule: ScheduleCard
    prediction: Prediction


@dataclass(frozen=True)
class Sampler:
    """What a sampler chooses.

    Attributes:
      grid: fields of a `GridCard`.
      sampling_x0_rule, inversion_x0_rule: of the `Conventions`.
    """

    grid: dict[str, Any]
    sampling_x0_rule: X0Rule
    inversion_x0_rule: X0Rule


def scheduler_path(directory: Path) -> Path:
    """Where a pipeline directory keeps its scheduler's configuration."""
    return directory / "scheduler" / "scheduler_config.json"


def read_process(path: Path, num_tokens: int | None = None) -> Process:
    """The facts of a scheduler file.

    Args:
      num_tokens: of a state, on which the shift of a flow's levels may depend (`spacing.dynamic_shift`).
    Raises:
      UsageError: unreadable, or a process that is not this discrete Gaussian diffusion.
    """
    config = read_json(path)
    _refuse_other_processes(path, config)
    if config.get("_class_name") == FLOW_SCHEDULER:
        return _flow(config, num_tokens)
    schedule = _schedule(path, config)
    prediction = _fact(path, config, "prediction_type", _PREDICTIONS, "epsilon")
    if prediction == "epsilon" and schedule.ends_in_noise:
        raise UsageError(
            f"{path}: rescale_betas_zero_snr=True ends the noise schedule at alpha=0, where a network that predicts "
            "epsilon says nothing of the image; set rescale_betas_zero_snr to false, or prediction_type to "
            "v_prediction or sample if the network was trained to predict that."
        )
    return Process(schedule, prediction)


def read_sampler(
    path: Path,
    *,
    latent: bool,
    chosen: Mapping[str, Any] | None = None,
    flow_style: GridStyle = "diffusers-trailing",
) -> Sampler:
    """The choices of a scheduler file.

    Args:
      latent: a latent has no range to clip to, so where the file does not mention `clip_sample`, latent models
        are not clipped (diffusers' DDIM default, True, holds for pixel models).
      chosen: fields of a user's card; what its `grid` and `reference` state is not read from the file.
      flow_style: how the pipeline lays the levels of a flow, which its scheduler's file does not say.

    Raises:
      UsageError: unreadable, or a choice that taba does not have and the card does not replace.
    """
    config = read_json(path)
    if config.get("_class_name") == FLOW_SCHEDULER:
        return _flow_sampler(chosen or {}, flow_style)
    grid, reference = (_part(chosen or {}, name) for name in ("grid", "reference"))
    style = grid.get("style") or _style(path, config)
    leading = style == "diffusers-leading"  # only a leading grid has an offset
    offset = int(config.get("steps_offset", 0)) if leading else 0
    last = "one" if config.get("set_alpha_to_one", True) else "first"
    return Sampler(
        grid={"style": style, "steps_offset": offset, "final_alpha_bar": last} | grid,
        sampling_x0_rule=reference.get("sampling_x0_rule") or _sampling_rule(path, config, latent),
        inversion_x0_rule=reference.get("inversion_x0_rule") or _inversion_rule(path, config, latent),
    )


def check_scheduler(card: Card, directory: Path) -> None:
    """Refuse weights trained on another process than the card says.

    Compares facts about the weights only, because the sampler's choices are the card's. A directory without a
    scheduler file says nothing and passes.

    Raises:
      UsageError: the first contradiction, with both values.
    """
    path = scheduler_path(directory)
    if not path.is_file():
        return
    found = read_process(path, tokens_of(card.sample_shape))
    if found.prediction != card.prediction:
        raise _contradiction(card, path, "prediction", found.prediction, card.prediction, found.prediction)
    stated = found.schedule.model_dump(exclude_none=True)
    for name in ("kind", "N", "beta_start", "beta_end", "max_beta", "shift", "zero_terminal_snr"):
        in_file, in_card = getattr(found.schedule, name), getattr(card.schedule, name)
        if not _same(in_file, in_card):
            whole = "{" + ", ".join(f"{key}: {value}" for key, value in stated.items()) + "}"
            raise _contradiction(card, path, f"schedule.{name}", in_file, in_card, whole)


def _contradiction(card: Card, path: Path, field: str, in_file: Any, in_card: Any, right: Any) -> UsageError:
    way_out = correction(card, path.parents[1], f"{field.split('.')[0]}: {right}")
    return UsageError(
        f"{path} says {field}={in_file}, the card of {card.name} says {in_card}: these weights were trained on "
        f"another process than the card describes. {way_out}; or correct the file if it is wrong."
    )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return isclose(a, b, rel_tol=1e-6)
    return bool(a == b)


def _schedule(path: Path, config: Mapping[str, Any]) -> ScheduleCard:
    steps = int(config.get("num_train_timesteps", 1000))
    zero = bool(config.get("rescale_betas_zero_snr", False))
    table = config.get("trained_betas")
    if table is not None:
        named = _named(table)
        if named is None or steps != named.N:
            raise _unsupported(
                path, "trained_betas", "a table", f"null, or the {steps} betas of one of {', '.join(_KINDS)}"
            )
        return named.model_copy(update={"zero_terminal_snr": zero})
    kind = _fact(path, config, "beta_schedule", _KINDS, "linear")
    if kind == "cosine":
        return ScheduleCard(kind=kind, N=steps, max_beta=_COSINE_MAX_BETA, zero_terminal_snr=zero)
    start, end = _OTHER_BETAS.get(str(config.get("_class_name")), _BETAS)
    start, end = float(config.get("beta_start", start)), float(config.get("beta_end", end))
    return ScheduleCard(kind=kind, N=steps, beta_start=start, beta_end=end, zero_terminal_snr=zero)


def tokens_of(shape: tuple[int, int, int]) -> int:
    """Tokens of a state (C, H, W) in a transformer of patches of 2 x 2."""
    return (shape[1] // 2) * (shape[2] // 2)


def _flow(config: Mapping[str, Any], tokens: int | None) -> Process:
    steps, shift = int(config.get("num_train_timesteps", 1000)), float(config.get("shift", 1.0))
    if config.get("use_dynamic_shifting", False):
        assert tokens is not None, "families whose shift depends on the image have a state to ask"
        shift = dynamic_shift(
            tokens,
            base_shift=float(config.get("base_shift", 0.5)),
            max_shift=float(config.get("max_shift", 1.15)),
            base_tokens=int(config.get("base_image_seq_len", 256)),
            max_tokens=int(config.get("max_image_seq_len", 4096)),
        )
    return Process(ScheduleCard(kind="flow", N=steps, shift=shift), "velocity")


def _flow_sampler(chosen: Mapping[str, Any], style: GridStyle) -> Sampler:
    """Levels s from 0 to 1 in the pipeline's style; a flow has no rule for x_0."""
    grid = {"style": style, "steps_offset": 0, "final_alpha_bar": "one"}
    reference = _part(chosen, "reference")
    return Sampler(
        grid=grid | _part(chosen, "grid"),
        sampling_x0_rule=reference.get("sampling_x0_rule", "none"),
        inversion_x0_rule=reference.get("inversion_x0_rule", "none"),
    )


def _named(table: Any) -> ScheduleCard | None:
    """The named schedule whose betas a table lists, None if there is none."""
    try:
        betas = np.asarray(table, dtype=np.float64)
        ends = {"beta_start": float(betas[0]), "beta_end": float(betas[-1])}
    except (TypeError, ValueError, IndexError):
        return None
    fields = {"linear": ends, "scaled-linear": ends, "cosine": {"max_beta": _COSINE_MAX_BETA}}
    for kind, arguments in fields.items():
        # ValueError: no schedule of this kind has these ends (UsageError and pydantic's errors are ValueErrors).
        with suppress(ValueError):
            card = ScheduleCard.model_validate({"kind": kind, "N": len(betas), **arguments})
            alpha_bar = NoiseSchedule.named(kind, **card.betas()).alpha_bar
            # Tables are written from single precision.
            if np.allclose(1 - alpha_bar[1:] / alpha_bar[:-1], betas[1:], rtol=1e-5, atol=0):
                return card
    return None


def _style(path: Path, config: Mapping[str, Any]) -> str:
    spacing = config.get("timestep_spacing", "leading")
    if spacing not in _STYLES:
        rule = f"one of {', '.join(_STYLES)}"
        raise _other_choice(path, "timestep_spacing", spacing, rule, "grid: {style: diffusers-leading}")
    return _STYLES[spacing]


def _inversion_rule(path: Path, config: Mapping[str, Any], latent: bool) -> X0Rule:
    """DDIMInverseScheduler knows clipping only."""
    if not config.get("clip_sample", not latent):
        return "none"
    limit = config.get("clip_sample_range", 1.0)
    if float(limit) != 1.0:
        raise _other_choice(path, "clip_sample_range", limit, "1.0", _CLIPPING)
    return "clip"


def _sampling_rule(path: Path, config: Mapping[str, Any], latent: bool) -> X0Rule:
    """Thresholding goes before clipping."""
    if not config.get("thresholding", False):
        return _inversion_rule(path, config, latent)
    asked = (config.get("dynamic_thresholding_ratio", 0.995), config.get("sample_max_value", 1.0))
    if asked != _DYNAMIC:
        names = "dynamic_thresholding_ratio and sample_max_value"
        raise _other_choice(path, names, asked, str(_DYNAMIC), "reference: {sampling_x0_rule: dynamic}")
    return "dynamic"


def _refuse_other_processes(path: Path, config: Mapping[str, Any]) -> None:
    name = str(config.get("_class_name", "DDIMScheduler"))
    known = [*(f"{s}Scheduler" for s in _SCHEDULERS), FLOW_SCHEDULER]
    if name not in known:
        raise _unsupported(path, "_class_name", name, f"one of {', '.join(known)}")


def _part(chosen: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = chosen.get(name)
    return part if isinstance(part, dict) else {}


def _fact(path: Path, config: Mapping[str, Any], key: str, known: Mapping[str, Any], default: str) -> Any:
    value = config.get(key, default)
    if value not in known:
        raise _unsupported(path, key, value, f"one of {', '.join(known)}")
    return known[value]


def _unsupported(path: Path, key: str, value: Any, rule: str) -> UsageError:
    return UsageError(
        f"{path}: {key}={value} is not supported; it must be {rule}. It is a fact about the weights, which no card "
        "can change. Use another model, or correct the file if it is wrong."
    )


def _other_choice(path: Path, key: str, value: Any, rule: str, card: str) -> UsageError:
    return UsageError(
        f"{path}: {key}={value} is not supported; it must be {rule}. It is a choice of the sampler: make another in a "
        f"YAML card of your own, with the lines `extends: {path.parents[1]}` and `{card}`."
    )
