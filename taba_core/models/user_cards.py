"""Models of one's own: a card in a YAML file (usually ten lines that extend a built-in card), or a diffusers
directory whose configuration says what a card would. A card may extend a directory, too, and say otherwise.

    extends: adm-64
    title: ADM-64, my checkpoint
    weights: ema_0.9999_700000.pt     # beside the card, or an absolute path
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from taba_core.errors import UsageError, unknown_name
from taba_core.models.cards import Card, raw_cards


def looks_like_path(name: str) -> bool:
    """Whether a model was named by a path and not by a card's name."""
    return "/" in name or name.endswith((".yaml", ".yml")) or Path(name).is_dir()


def correction(card: Card, directory: Path, line: str) -> str:
    """The way out for weights that contradict a card, in words: which card to write, or how to correct the card.

    Args:
      directory: where the weights are.
      line: field and value that the card should have, as YAML.
    """
    if card.name not in raw_cards():
        return f"Correct the card: `{line}`"
    return (
        f"Use the card's weights, or a card of your own with `extends: {card.name}`, `weights: {directory}` "
        f"and `{line}`"
    )


def card_at(path: Path) -> Card:
    """The card of a YAML file or of a diffusers directory.

    Raises:
      UsageError: nothing there, or a card that cannot be; the message names file and field.
    """
    path = path.expanduser().resolve()
    if path.is_dir():
        from taba_core.models.pipeline_dir import card_from_directory

        return _renamed(card_from_directory(path), path)
    if not path.is_file():
        raise UsageError(f"model '{path}': no such card file or diffusers directory.")
    return _renamed(_read_card(path), path)


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
        stated = stated | {"location": str((path.parent / str(stated.get("location", ""))).resolve())}
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
