"""A diffusers `scheduler_config.json` as taba's data: schedule, prediction, grid and conventions. No torch.

Whatever sampler the file names, it is read as `DDIMScheduler.from_config` would read it, because DDIM is what the
paper runs: fields the file does not state have DDIMScheduler's defaults.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Any, Literal

from taba_core.conventions import X0Rule
from taba_core.errors import UsageError
from taba_core.models.cards import Card, GridCard, ScheduleCard

_KINDS: dict[str, Literal["linear", "scaled-linear", "cosine"]] = {
    "linear": "linear",
    "scaled_linear": "scaled-linear",
    "squaredcos_cap_v2": "cosine",
}
_PREDICTIONS: dict[str, Literal["epsilon", "v", "sample"]] = {
    "epsilon": "epsilon",
    "v_prediction": "v",
    "sample": "sample",
}
_STYLES: dict[str, Literal["diffusers-leading", "diffusers-trailing"]] = {
    "leading": "diffusers-leading",
    "trailing": "diffusers-trailing",
}
# Samplers of variance-preserving diffusion over discrete timesteps; flows and EDM-like models are not.
_SCHEDULERS = (
    "DDIM", "DDPM", "PNDM", "LMSDiscrete", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete",
    "DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep", "UniPCMultistep", "KDPM2Discrete",
)  # fmt: skip
_COSINE_MAX_BETA = 0.999  # of squaredcos_cap_v2
_DYNAMIC = (0.95, 1.5)  # the one dynamic threshold of taba_core.diffusion.ddim (DeepFloyd IF)
_OWN_CARD = "Say what it should be in a YAML card of your own"


@dataclass(frozen=True)
class SchedulerConfig:
    """What a scheduler file says.

    Attributes:
      schedule, prediction: of the training; facts about the weights.
      grid, sampling_x0_rule, inversion_x0_rule: of the sampler; choices.
    """

    schedule: ScheduleCard
    prediction: Literal["epsilon", "v", "sample"]
    grid: GridCard
    sampling_x0_rule: X0Rule
    inversion_x0_rule: X0Rule


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object. Raises UsageError if it is missing or does not."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path} is missing; give a complete diffusers pipeline directory.") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is no readable JSON: {error}.") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path} holds a {type(value).__name__}, not an object; it is damaged.")
    return value


def scheduler_path(directory: Path) -> Path:
    """Where a pipeline directory keeps its scheduler's configuration."""
    return directory / "scheduler" / "scheduler_config.json"


def read_scheduler(path: Path, *, latent: bool) -> SchedulerConfig:
    """Read a scheduler file.

    Args:
      latent: a latent has no range to clip to, so where the file does not mention `clip_sample`, latent models
        are not clipped (diffusers' DDIM default, True, holds for pixel models).

    Raises:
      UsageError: unreadable, or a process that is not this discrete Gaussian diffusion.
    """
    config = read_json(path)
    _refuse_other_processes(path, config)
    sampling, inversion = _x0_rules(path, config, latent)
    schedule = _schedule(path, config)
    prediction = _choice(path, config, "prediction_type", _PREDICTIONS, "epsilon")
    if prediction == "epsilon" and schedule.ends_in_noise:
        raise UsageError(
            f"{path}: rescale_betas_zero_snr=True ends the noise schedule at alpha=0, where a network that predicts "
            "epsilon says nothing of the image; set rescale_betas_zero_snr to false, or prediction_type to "
            "v_prediction or sample if the network was trained to predict that."
        )
    return SchedulerConfig(
        schedule=schedule,
        prediction=prediction,
        grid=_grid(path, config),
        sampling_x0_rule=sampling,
        inversion_x0_rule=inversion,
    )


def check_scheduler(card: Card, directory: Path) -> None:
    """Refuse weights trained on another process than the card says.

    Compares what is a fact about the weights (prediction type, betas, N), not the sampler's choices (spacing,
    offset, clipping), which are the card's. A directory without a scheduler file says nothing and passes.

    Raises:
      UsageError: the first contradiction, with both values.
    """
    path = scheduler_path(directory)
    if not path.is_file():
        return
    found = read_scheduler(path, latent=card.domain == "latent")
    pairs = {"prediction": (found.prediction, card.prediction)}
    pairs |= {
        name: (getattr(found.schedule, name), getattr(card.schedule, name))
        for name in ("kind", "N", "beta_start", "beta_end", "max_beta", "zero_terminal_snr")
    }
    for name, (in_file, in_card) in pairs.items():
        if not _same(in_file, in_card):
            field = name if name == "prediction" else f"schedule.{name}"
            raise UsageError(
                f"{path} says {field}={in_file}, the card of {card.name} says {in_card}: these weights were "
                f"trained on another process than the card describes. Use the card's weights, or a card of your "
                f"own with `extends: {card.name}` and this {name}."
            )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return isclose(a, b, rel_tol=1e-6)
    return bool(a == b)


def _schedule(path: Path, config: Mapping[str, Any]) -> ScheduleCard:
    kind = _choice(path, config, "beta_schedule", _KINDS, "linear")
    steps = int(config.get("num_train_timesteps", 1000))
    zero = bool(config.get("rescale_betas_zero_snr", False))
    if kind == "cosine":
        return ScheduleCard(kind=kind, N=steps, max_beta=_COSINE_MAX_BETA, zero_terminal_snr=zero)
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    return ScheduleCard(kind=kind, N=steps, beta_start=start, beta_end=end, zero_terminal_snr=zero)


def _grid(path: Path, config: Mapping[str, Any]) -> GridCard:
    style = _choice(path, config, "timestep_spacing", _STYLES, "leading")
    return GridCard(
        style=style,
        # DDIMScheduler ignores the offset of a trailing grid.
        steps_offset=int(config.get("steps_offset", 0)) if style == "diffusers-leading" else 0,
        final_alpha_bar="one" if config.get("set_alpha_to_one", True) else "first",
    )


def _x0_rules(path: Path, config: Mapping[str, Any], latent: bool) -> tuple[X0Rule, X0Rule]:
    """(sampling, inversion): thresholding goes before clipping, and DDIMInverseScheduler knows clipping only."""
    clips = bool(config.get("clip_sample", not latent))
    if clips and float(config.get("clip_sample_range", 1.0)) != 1.0:
        raise _unsupported(path, "clip_sample_range", config["clip_sample_range"], "1.0")
    inversion: X0Rule = "clip" if clips else "none"
    if not config.get("thresholding", False):
        return inversion, inversion
    asked = (config.get("dynamic_thresholding_ratio", 0.995), config.get("sample_max_value", 1.0))
    if asked != _DYNAMIC:
        names = "dynamic_thresholding_ratio and sample_max_value"
        raise _unsupported(path, names, asked, str(_DYNAMIC))
    return "dynamic", inversion


def _refuse_other_processes(path: Path, config: Mapping[str, Any]) -> None:
    name = str(config.get("_class_name", "DDIMScheduler"))
    known = [f"{s}Scheduler" for s in _SCHEDULERS]
    if name not in known:
        raise _unsupported(path, "_class_name", name, f"one of {', '.join(known)}")
    if config.get("trained_betas") is not None:
        raise _unsupported(path, "trained_betas", "a table", "a named beta_schedule")


def _choice(path: Path, config: Mapping[str, Any], key: str, known: Mapping[str, Any], default: str) -> Any:
    value = config.get(key, default)
    if value not in known:
        raise _unsupported(path, key, value, f"one of {', '.join(known)}")
    return known[value]


def _unsupported(path: Path, key: str, value: Any, rule: str) -> UsageError:
    return UsageError(f"{path}: {key}={value} is not supported; it must be {rule}. {_OWN_CARD}.")
