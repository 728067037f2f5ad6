"""Which fields of a pipeline directory's configuration files taba understands (config_fields.yaml). No torch.

A field that is not understood may add an input to the network, or scale what goes in or out of it. Running without
it would give other numbers without a word, so it is refused by name before anything runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import yaml

from taba_core.errors import UsageError
from taba_core.models.json_file import read_json

# Classes that diffusers gave another name since.
_NEW_NAMES = {"Transformer2DModel": "DiTTransformer2DModel"}
_CLIP = {"text_encoder": "CLIPTextModel", "tokenizer": "CLIPTokenizer"}
_CLIP_2 = {"text_encoder_2": "CLIPTextModelWithProjection", "tokenizer_2": "CLIPTokenizer"}
_CLIP_WITH_PROJECTION = {"text_encoder": "CLIPTextModelWithProjection", "tokenizer": "CLIPTokenizer"}
# Class of each component, by family and folder. Of two autoencoders, the first that is there is used.
_COMPONENTS: dict[str, dict[str, str]] = {
    "unet": {"unet": "UNet2DModel"},
    "ldm": {"unet": "UNet2DModel", "vqvae": "VQModel", "vae": "AutoencoderKL"},
    "dit": {"transformer": "DiTTransformer2DModel", "vqvae": "VQModel", "vae": "AutoencoderKL"},
    "if": {"unet": "UNet2DConditionModel", "text_encoder": "T5EncoderModel", "tokenizer": "T5Tokenizer"},
    "sd": {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", **_CLIP},
    "sdxl": {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", **_CLIP, **_CLIP_2},
    "sd3": {
        "transformer": "SD3Transformer2DModel", "vae": "AutoencoderKL", **_CLIP_WITH_PROJECTION, **_CLIP_2,
        "text_encoder_3": "T5EncoderModel", "tokenizer_3": "T5Tokenizer",
    },
    "flux": {
        "transformer": "FluxTransformer2DModel", "vae": "AutoencoderKL", **_CLIP,
        "text_encoder_2": "T5EncoderModel", "tokenizer_2": "T5Tokenizer",
    },
    "sit": {"vae": "AutoencoderKL"},
}  # fmt: skip
# A component that a pipeline of the family may do without, and what goes with it.
_OPTIONAL = {"sd3": ("text_encoder_3", "tokenizer_3")}
FLOW_SCHEDULER = "FlowMatchEulerDiscreteScheduler"  # its fields are none of the other schedulers'
_SHOWN = 60  # characters of a value in a message


def check_pipeline_fields(directory: Path, family: str) -> None:
    """Refuse a pipeline directory whose configuration asks for what taba does not do.

    Files that are not there say nothing and pass; the loader of the component asks for them.

    Args:
      directory: in the hub's layout.
      family: of the model, which decides the class of each component.

    Raises:
      UsageError: the first file with such fields; the message lists all of them.
    """
    for path, kind in _files(directory, family):
        config = read_json(path)
        if kind == "Scheduler" and config.get("_class_name") == FLOW_SCHEDULER:
            kind = FLOW_SCHEDULER
        _check_class(path, kind, config)
        refused = refused_fields(kind, family, config)
        if refused:
            one = len(refused) == 1
            raise UsageError(
                f"{path}: {'this field is' if one else 'these fields are'} not supported for {_article(kind)}: "
                f"{'; '.join(refused)}. To ignore {'it' if one else 'them'} would change what the model computes. "
                "Use a model without, or, if the weights do not depend on it, give the field an allowed value "
                "or delete it from this file."
            )


def component_folders(family: str, directory: Path) -> dict[str, str]:
    """Class of each component that a pipeline directory of a family has, by folder.

    A component that the family may do without is there if model_index.json lists it.
    """
    absent: tuple[str, ...] = _OPTIONAL.get(family, ())
    index = directory / "model_index.json"
    listed = read_json(index) if absent and index.is_file() else {}
    absent = tuple(name for name in absent if not any(listed.get(name) or ()))
    return {folder: kind for folder, kind in _COMPONENTS[family].items() if folder not in absent}


def tokenizer_folders(family: str, directory: Path) -> dict[str, str]:
    """Class of each tokenizer of a pipeline directory, by folder."""
    parts = component_folders(family, directory).items()
    return {folder: kind for folder, kind in parts if kind.endswith("Tokenizer")}


def refused_fields(kind: str, family: str, config: Mapping[str, Any]) -> list[str]:
    """The fields of a configuration that cannot be honoured, each as text: name, value, and what is allowed.

    Args:
      kind: a class of config_fields.yaml.
      family: of the model.
    """
    table = _tables()[kind]
    known = {*table.get("built", ()), *table.get("read", ()), *table.get("unused", ())}
    only = _tables()["Every"]["only"] | table.get("only", {}) | table.get("families", {}).get(family, {})
    refused = []
    for field, value in config.items():
        if field.startswith("_") or _is_absent_component(kind, value):
            continue
        if field in only:
            allowed = only[field]
            if allowed != "any" and not any(_equal(value, each) for each in allowed):
                refused.append(f"{field}={_shown(value)} (allowed: {' or '.join(map(_shown, allowed))})")
        elif field not in known:
            refused.append(f"{field}={_shown(value)} (not a field that this version knows)")
    return refused


def understood_fields(kind: str) -> dict[str, str]:
    """How each field of a class is treated: "built", "read", "only" or "unused" (see config_fields.yaml)."""
    return {
        field: treatment
        for treatment in ("unused", "only", "read", "built")
        for field in _tables()[kind].get(treatment, ())
    }


def _files(directory: Path, family: str) -> Iterator[tuple[Path, str]]:
    """The configuration files that a family reads, with their class."""
    parts = component_folders(family, directory)
    if "vqvae" in parts and (directory / "vqvae").is_dir():
        parts.pop("vae")
    listed = [(directory / "model_index.json", "Pipeline")]
    for folder, kind in parts.items():
        name = "tokenizer_config.json" if kind.endswith("Tokenizer") else "config.json"
        listed.append((directory / folder / name, kind))
    listed.append((directory / "scheduler" / "scheduler_config.json", "Scheduler"))
    yield from ((path, kind) for path, kind in listed if path.is_file())


def _check_class(path: Path, kind: str, config: Mapping[str, Any]) -> None:
    stated = config.get("_class_name")
    if kind in ("Pipeline", "Scheduler") or stated is None or _NEW_NAMES.get(stated, stated) == kind:
        return
    raise UsageError(
        f"{path}: the component is a {stated}, and a model of this family needs {_article(kind)}. "
        "Use a model with that component."
    )


def _is_absent_component(kind: str, value: Any) -> bool:
    """Whether model_index.json says [null, null]: a component that the pipeline does without."""
    return kind == "Pipeline" and (value is None or (isinstance(value, list) and not any(value)))


def _equal(value: Any, allowed: Any) -> bool:
    # In Python 0 equals False, in a configuration it does not.
    same_kind = isinstance(value, bool) == isinstance(allowed, bool)
    return same_kind and bool(value == allowed)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 4] + " ..."


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "AEIO" else f"a {kind}"


@cache
def _tables() -> dict[str, dict[str, Any]]:
    text = files("taba_core.models").joinpath("config_fields.yaml").read_text(encoding="utf-8")
    return cast(dict[str, dict[str, Any]], yaml.safe_load(text))
