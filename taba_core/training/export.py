"""Trained networks as files: one safetensors file of half-precision weights, and the folders that loaders read.

The file is what a network is: its float16 weights, read into float32. Its metadata say the recipe and the training.
`unpack` turns it into what the family's ordinary loader takes, in half precision as well: OpenAI's names and a card,
or a diffusers folder. The networks that come with taba are stored like that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor, nn

from taba_core.errors import UsageError
from taba_core.models.adm_flags import adm_flags
from taba_core.models.adm_weights import origins, to_openai
from taba_core.models.config_fields import FLOW_SCHEDULER
from taba_core.training.captions import CaptionGrammar
from taba_core.training.checkpoint import write_whole
from taba_core.training.data import PHOTOGRAPHS
from taba_core.training.networks import build_network
from taba_core.training.recipe import Recipe

_BETAS = {"linear": "linear", "scaled-linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
_PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction", "hybrid": "epsilon"}
WEIGHTS = "weights.safetensors"  # of networks that are one file
_PIPELINES = {"ldm": "LDMPipeline", "dit": "DiTPipeline", "if": "IFPipeline"}


def save_network(path: Path, module: nn.Module, recipe: Recipe, facts: Mapping[str, Any]) -> None:
    """Write a network's file.

    Args:
      module: the weights to keep.
      facts: what else the metadata say; JSON, with `photos`, the names of the photographs, where it is trained on them.
    Raises:
      WorkError: the disk is full or not writable.
    """
    from safetensors.torch import save_file

    state = {name: value.detach().half().cpu().contiguous() for name, value in module.state_dict().items()}
    about = json.dumps({"recipe": recipe.model_dump(mode="json"), **facts})
    write_whole(path, lambda temporary: save_file(state, temporary, metadata={"taba": about}))


def read_network(path: Path) -> tuple[dict[str, Tensor], Recipe, dict[str, Any]]:
    """(float32 weights, recipe, facts) of a network's file. Raises UsageError if it is none."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["taba"])
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # the reader raises a class of its own for damaged files
        raise UsageError(f"{path} is no file of a trained network ({type(error).__name__}).") from None
    return state, Recipe(**about.pop("recipe")), about


def load_module(path: Path) -> tuple[Any, Recipe, dict[str, Any]]:
    """(module, recipe, facts): the network of a file, float32 on the CPU, in evaluation mode."""
    state, recipe, facts = read_network(path)
    module = build_network(recipe, 0, vocabulary=len(_grammar(facts).vocabulary))
    module.load_state_dict(state)
    return module.eval().requires_grad_(False), recipe, facts


def unpack(path: Path, directory: Path, *, autoencoder: Path | None = None) -> Path:
    """Write what the family's loader reads.

    Args:
      path: a network's file.
      directory: where to; its name becomes the model's, so it should be no built-in model's.
      autoencoder: file of the autoencoder (ldm, dit).

    Returns:
      What to give as a model: the directory, or for adm the card in it. Of a classifier, which is no model: its file.
    """
    module, recipe, facts = load_module(path)
    directory.mkdir(parents=True, exist_ok=True)
    if recipe.family == "adm":
        return _adm(module, recipe, directory, str(facts.get("data", PHOTOGRAPHS)))
    if recipe.family == "classifier":
        return _save_half(module.state_dict(), directory)
    parts: dict[str, tuple[str, Any]] = {}
    if recipe.family == "if":
        parts |= {"unet": ("diffusers", module.unet), "text_encoder": ("transformers", module.text_encoder)}
        (directory / "tokenizer").mkdir(exist_ok=True)
        _grammar(facts).tokenizer().save(str(directory / "tokenizer" / "tokenizer.json"))
    else:
        if autoencoder is None:
            raise UsageError(f"{recipe.name} works on latents; give the file of its autoencoder.")
        denoiser = "transformer" if recipe.family == "dit" else "unet"
        parts |= {denoiser: ("diffusers", module), "vae": ("diffusers", load_module(autoencoder)[0])}
    for name, (_, part) in parts.items():
        part.half().save_pretrained(directory / name)  # the file's own numbers: it holds half precision
    (directory / "scheduler").mkdir(exist_ok=True)
    _write_json(directory / "scheduler" / "scheduler_config.json", _scheduler(recipe))
    _write_json(directory / "model_index.json", _index(recipe, parts, facts))
    return directory


def _names(facts: Mapping[str, Any]) -> list[str]:
    """Names of the photographs or classes that a network was trained on."""
    return list(facts.get("photos") or facts.get("classes", ()))


def _grammar(facts: Mapping[str, Any]) -> CaptionGrammar:
    return CaptionGrammar(_names(facts))


def _adm(module: nn.Module, recipe: Recipe, directory: Path, data: str) -> Path:
    flags = adm_flags(recipe.name, recipe.network)
    state = module.state_dict()
    origin = origins({name: tuple(value.shape) for name, value in state.items()}, flags)
    weights = _save_half(to_openai(state, origin, flags), directory)
    schedule = recipe.schedule.model_dump(exclude_none=True) if recipe.schedule else {}
    card = {
        "extends": "adm-32", "name": directory.name, "title": directory.name, "train_set": data,
        "image_size": recipe.image_size, "sample_shape": [3, recipe.image_size, recipe.image_size],
        "network": recipe.network, "schedule": schedule, "timestep_scale": recipe.timestep_scale,
        "num_parameters": sum(value.numel() for value in state.values()), "weights": weights.name,
    }  # fmt: skip
    path = directory / "card.yaml"
    path.write_text(yaml.safe_dump(card, sort_keys=False), encoding="utf-8")
    return path


def _save_half(state: Mapping[str, Tensor], directory: Path) -> Path:
    """Write tensors in half precision into one file of a directory, which is returned."""
    from safetensors.torch import save_file

    path = directory / WEIGHTS
    save_file({key: value.half().contiguous() for key, value in state.items()}, path)
    return path


def _scheduler(recipe: Recipe) -> dict[str, Any]:
    schedule = recipe.schedule
    assert schedule is not None, "every denoiser's recipe has one"
    if schedule.kind == "flow":
        return {"_class_name": FLOW_SCHEDULER, "num_train_timesteps": schedule.N, "shift": schedule.shift}
    config: dict[str, Any] = {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": schedule.N,
        "beta_schedule": _BETAS[schedule.kind],
        "prediction_type": _PREDICTIONS[recipe.objective],
        "clip_sample": False,
    }
    if schedule.kind != "cosine":
        config |= {"beta_start": schedule.beta_start, "beta_end": schedule.beta_end}
    if recipe.family == "if":  # the rules of DeepFloyd IF
        config |= {"clip_sample": True, "thresholding": True}
        config |= {"dynamic_thresholding_ratio": 0.95, "sample_max_value": 1.5}
    return config


def _index(recipe: Recipe, parts: Mapping[str, tuple[str, Any]], facts: Mapping[str, Any]) -> dict[str, Any]:
    index: dict[str, Any] = {"_class_name": _PIPELINES[recipe.family]}
    index |= {name: [library, type(part).__name__] for name, (library, part) in parts.items()}
    index["scheduler"] = ["diffusers", FLOW_SCHEDULER if recipe.objective == "velocity" else "DDIMScheduler"]
    if recipe.family == "if":
        index["tokenizer"] = ["transformers", "T5Tokenizer"]
    if recipe.family == "dit":
        index["id2label"] = {str(i): name for i, name in enumerate(_names(facts))}
    return index


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
