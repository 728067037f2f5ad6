"""Folders of whole tiny models of every family, which tests damage."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from adm_cases import network_flags, tiny_weights
from tiny_checkpoints import tiny_dit, tiny_ldm
from tiny_text_checkpoints import save_tiny_if, save_tiny_sd, save_tiny_sdxl

MAKERS = {
    "sd": save_tiny_sd, "sdxl": save_tiny_sdxl, "if": save_tiny_if, "ldm": tiny_ldm, "dit": tiny_dit,
}  # fmt: skip


def adm_folder(folder: Path) -> Path:
    """A card of one's own beside its weights."""
    folder.mkdir()
    (folder / "ema.pt").write_bytes(tiny_weights("adm32").read_bytes())
    card = {"extends": "adm-32", "title": "Own", "image_size": 32, "sample_shape": [3, 32, 32]}
    card |= {"network": network_flags("adm32"), "weights": "ema.pt"}
    (folder / "own.yaml").write_text(yaml.safe_dump(card))
    return folder


def model_of(folder: Path) -> str:
    own = folder / "own.yaml"
    return str(own if own.exists() else folder)


def files_read(folder: Path) -> list[Path]:
    """Of IF's tokenizer the SentencePiece file alone is read."""
    unread = {folder / "own.yaml"}
    if (folder / "tokenizer" / "spiece.model").exists():
        unread.add(folder / "tokenizer" / "tokenizer_config.json")
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path not in unread]


def code_of(message: str) -> str:
    """The code of the command that a message tells."""
    return re.search(r'python -c "(.*)"', message)[1]
