"""Models of one's own: a card in a YAML file (usually ten lines that extend a built-in card), or a diffusers
directory whose configuration says what a card would. A card may extend a directory, too, and say otherwise.

    extends: adm-64
    title: ADM-64, my checkpoint
    weights: ema_0.9999_700000.pt     # beside the card, or an absolute path
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from taba_core.errors import UsageError, unknown_name
from taba_core.models.cards import Card, raw_cards

_WEIGHT_FILES = (".ckpt", ".safetensors", ".pt", ".pth", ".bin", ".gguf")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def looks_like_path(name: str) -> bool:
    """Whether a model was named by a path and not by a card's name."""
    return "/" in name or name.lower().endswith((".yaml", ".yml", *_WEIGHT_FILES)) or Path(name).exists()


def card_at(path: Path) -> Card:
    """The card of a YAML file or of a diffusers directory.

    Raises:
      UsageError: nothing there, or a card that cannot be; the message names file and field.
    """
    named = str(path)
    path = path.expanduser().resolve()
    if path.is_dir():
        from taba_core.models.pipeline_dir import card_from_directory

        return _renamed(card_from_directory(path), path)
    if path.name.lower().endswith(_WEIGHT_FILES):
        raise _weights_alone(path)
    if not path.exists():
        raise _not_there(named, path)
    return _renamed(_read_card(path), path)


def _weights_alone(path: Path) -> UsageError:
    """A model is more than its weights: what to do with a file of nothing else."""
    there = "" if path.exists() else " (and there is no such file)"
    pickle = path.suffix.lower() != ".safetensors"
    adm = (
        "if it is a file of the ADM family, use --model adm-64 --weights FILE, or a YAML card of your own; "
        if pickle
        else ""
    )
    target = path.with_suffix("")
    return UsageError(
        f"model '{path}' is a single file of weights{there}, and --model takes a model's name, a YAML card, or a "
        f"diffusers directory: {adm}if it is a whole Stable Diffusion checkpoint, convert it once, on a machine with "
        'internet: python -c "from diffusers import StableDiffusionPipeline as P; '
        f"P.from_single_file('{path}').save_pretrained('{target}')\" (StableDiffusionXLPipeline for SDXL, "
        "StableDiffusion3Pipeline and FluxPipeline for SD 3 and FLUX.1), then use "
        f"--model {target}."
    )


def _not_there(named: str, path: Path) -> UsageError:
    """A path that leads nowhere, or the name of a repository of the hub."""
    near = difflib.get_close_matches(path.name, _names_in(path.parent), n=3, cutoff=0.6)
    hint = f" Did you mean {' or '.join(str(path.parent / name) for name in near)}?" if near else ""
    message = f"model '{named}': no such card file or diffusers directory ({path}).{hint}"
    if near or not _HUB_NAME.fullmatch(named):
        return UsageError(message)
    built_in = [name for name, raw in raw_cards().items() if raw["weights"].get("location") == named]
    if built_in:
        return UsageError(
            f"{message} It is the repository of the built-in model {built_in[0]}: use --model {built_in[0]} (its "
            f"weights come by `taba fetch {built_in[0]}`)."
        )
    folder = named.rpartition("/")[2]
    return UsageError(
        f"{message} If it is the name of a model on the Hugging Face hub: `hf download {named} --local-dir {folder}` "
        f"on a machine with internet, then --model ./{folder}."
    )


def _names_in(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []


def _read_card(path: Path) -> Card:
    try:
        own = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"card {path} is no YAML: {str(error).splitlines()[0]}.") from None
    if not isinstance(own, dict):
        raise UsageError(f"card {path} holds no fields; write at least `extends: MODEL` and `weights: FILE`.")
    fields = _merged(_base(own.pop("extends", None), own, path), own)
    fields["weights"] = _weights(fields.get("weights"), path)
    fields.setdefault("name", path.stem)
    try:
        return Card.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "card"
        message = first["msg"].removeprefix("Value error, ")
        raise UsageError(
            f"card {path}: {where}: {message[0].lower() + message[1:]}. See taba_core/models/cards.yaml."
        ) from None


def _base(extended: Any, own: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Fields of what a card extends: nothing, a built-in card, or a diffusers directory (relative to the card)."""
    known = {name: raw for name, raw in raw_cards().items() if not raw.get("embedded")}
    if extended is None or extended in known:
        return known[extended] if extended else {}
    directory = path.parent / Path(str(extended)).expanduser()
    if directory.is_dir():
        from taba_core.models.pipeline_dir import fields_of_directory

        return fields_of_directory(directory, own) | {"name": path.stem, "title": path.stem}
    if "/" in str(extended):
        raise UsageError(
            f"card {path}: extends {extended}: no such diffusers directory. Correct the path, or extend a built-in "
            f"model: {', '.join(sorted(known))}."
        )
    raise unknown_name("model to extend", str(extended), known)


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`own` laid over `base`, field by field; a schedule and the weights replace the whole part."""
    merged = dict(base)
    for key, value in own.items():
        deep = (
            isinstance(value, dict) and isinstance(base.get(key), dict) and key not in ("schedule", "weights")
        )
        merged[key] = _merged(base[key], value) if deep else value
    return merged


def _weights(stated: Any, path: Path) -> Any:
    """Weights of a card: a text is a path, relative to the card's own folder."""
    if isinstance(stated, str):
        stated = {"source": "path", "location": stated}
    if isinstance(stated, dict) and stated.get("source") == "path":
        stated = stated | {"location": os.path.abspath(path.parent / str(stated.get("location", "")))}
    return stated


def _renamed(card: Card, path: Path) -> Card:
    """The card under a name that fits the name of a store's group, and is not a built-in model's."""
    name = re.sub(r"[^a-z0-9]+", "-", card.name.lower()).strip("-") or "model"
    if name in raw_cards():
        raise UsageError(
            f"{path}: '{name}' is the name of a built-in model, and tables would compare it with the paper's. "
            f"Rename it, or use --model {name} --weights PATH if these are that model's weights."
        )
    return card.model_copy(update={"name": name})
