"""Which files a loader reads, and whether they can be what they should be, told without loading them. No torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taba_core.errors import UsageError
from taba_core.models.config_fields import component_folders, tokenizer_folders
from taba_core.models.file_kinds import TEXT, UNKNOWN, kind_of, read_head
from taba_core.models.sit_files import sit_files
from taba_core.models.weight_files import check_weight_file, safetensors_header

if TYPE_CHECKING:
    from taba_core.models.cards import Card

# By format, in the order in which they are preferred: what diffusers and transformers call a component's weights.
_STEMS = {
    "safetensors": ("diffusion_pytorch_model", "model"),
    "bin": ("diffusion_pytorch_model", "pytorch_model"),
}
_VARIANTS = (None, "fp16")  # others (non_ema, ema) are read by nobody here
# Folders of a pipeline that a family's loader reads, beside its autoencoder; one that a pipeline does without is not
# asked for.
_WEIGHTS = {
    "unet": ("unet",),
    "ldm": ("unet",),
    "dit": ("transformer",),
    "if": ("unet", "text_encoder"),
    "sd": ("unet", "text_encoder"),
    "sdxl": ("unet", "text_encoder", "text_encoder_2"),
    "sd3": ("transformer", "text_encoder", "text_encoder_2", "text_encoder_3"),
    "flux": ("transformer", "text_encoder", "text_encoder_2"),
}
# T5's is read from the first of its files that is there; CLIP's is read from all that are there.
_T5_FILES = ("tokenizer.json", "spiece.model")
_CLIP_FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
_EXPECTED = "A component's folder holds config.json and its weights (safetensors), as diffusers saves them"


@dataclass(frozen=True)
class ComponentFiles:
    """The weight files that are read of a component's folder.

    Attributes:
      files: of tensors.
      index: the JSON file that lists them, where there are several.
      variant: None, or "fp16" where the folder has half-precision files only.
    """

    files: tuple[Path, ...]
    index: Path | None
    variant: str | None


def component_files(folder: Path) -> ComponentFiles | None:
    """The weight files that diffusers and transformers read of a folder; None if there are none.

    Full-precision files go before half-precision ones, safetensors before pickles, and no other variant is read.

    Raises:
      UsageError: an index that is no list of files, or whose files are not all there, or hold other tensors than it
        says.
    """
    for variant in _VARIANTS:
        for suffix, stems in _STEMS.items():
            for stem in stems:
                single = folder / f"{stem}{_dot(variant)}.{suffix}"
                if _is_there(single):
                    return ComponentFiles((single,), None, variant)
                for index in _index_names(folder, stem, suffix, variant):
                    if _is_there(index):
                        return ComponentFiles(_listed(index), index, variant)
    return None


def check_model_files(card: Card, source: Path) -> None:
    """Refuse weights of which a header already tells that they cannot be loaded.

    Args:
      card: says the family, hence which files are read.
      source: the weights, a file or a pipeline's folder.
    Raises:
      UsageError: the message names the file, says what it is, and what to do.
    """
    if card.family not in (*_WEIGHTS, "sit"):
        check_weight_file(source)
        return
    if not source.is_dir():
        read_head(source)  # a broken link, a file that may not be read
        if card.family == "sit":
            raise UsageError(
                f"{source} is a file; the weights of {card.title} are a folder that holds that file and the folder vae "
                "of its autoencoder, as diffusers saves it. Give that folder."
            )
        parts = ", ".join((*_WEIGHTS[card.family], *_autoencoder(card, source), "scheduler"))
        raise UsageError(
            f"{source} is a file; the weights of {card.title} are a directory in the hub's layout, with "
            f"model_index.json and a folder for each component ({parts}). Give that directory."
        )
    if card.family == "sit":
        check_weight_file(sit_files(source))
    present = component_folders(card.family, source)
    read = [name for name in _WEIGHTS.get(card.family, ()) if name in present]
    for name in (*read, *_autoencoder(card, source)):
        check_component(source / name)
    for name, kind in tokenizer_folders(card.family, source).items():
        t5 = kind == "T5Tokenizer"
        there = [source / name / file for file in (_T5_FILES if t5 else _CLIP_FILES)]
        there = [file for file in there if _is_there(file)]
        for file in there[:1] if t5 else there:
            _check_tokenizer_file(file)
    scheduler = source / "scheduler" / "scheduler_config.json"
    if _is_there(scheduler):
        check_json(scheduler)


def check_component(folder: Path) -> None:
    """Refuse a component's folder without configuration or with weights that cannot be read. Raises UsageError."""
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is missing. Download the whole model again; if it is a model of another family, use the card's "
            f"weights, or the directory by itself: --model {folder.parent}."
        )
    check_json(folder / "config.json")
    found = component_files(folder)
    if found is None:
        others = sorted(path.name for path in folder.iterdir() if path.name != "config.json")
        held = f"it holds {', '.join(others[:5])}" if others else "it holds nothing else"
        raise UsageError(f"{folder} holds no weights that are read here: {held}. {_EXPECTED}.")
    for file in found.files:
        check_weight_file(file)


def check_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file. Raises UsageError: no such file, or something else in it."""
    head = read_head(path)
    kind = kind_of(path)
    if not head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        raise UsageError(f"{path} is {kind.text}, not a JSON file. {kind.remedy}.")
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is incomplete or damaged: {error}. Download the file again.") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path} holds a {type(value).__name__}, not an object. Download the file again.")
    return value


def _check_tokenizer_file(path: Path) -> None:
    if path.suffix == ".json":
        check_json(path)
        return
    kind = kind_of(path)
    if kind.text not in (TEXT, UNKNOWN):
        raise UsageError(f"{path} is {kind.text}, not a tokenizer. {kind.remedy}.")


def _autoencoder(card: Card, source: Path) -> tuple[str, ...]:
    if card.domain == "pixel":
        return ()
    return ("vqvae",) if (source / "vqvae").is_dir() and card.family in ("unet", "ldm", "dit") else ("vae",)


def _listed(index: Path) -> tuple[Path, ...]:
    """The files an index names, once each."""
    table = check_json(index).get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(n, str) for n in table.values()):
        raise UsageError(f"{index} lists no files (weight_map). Download the file again.")
    files = [index.parent / name for name in sorted(set(table.values()))]
    missing = [file.name for file in files if not _is_there(file)]
    if missing:
        raise UsageError(
            f"{index} lists {len(files)} files, of which {len(missing)} {'is' if len(missing) == 1 else 'are'} not "
            f"there: {', '.join(missing[:3])}{' ...' if missing[3:] else ''}. Download them into {index.parent}."
        )
    if all(file.suffix == ".safetensors" for file in files):
        _check_shards(index, table, files)
    return tuple(files)


def _check_shards(index: Path, table: dict[str, str], files: list[Path]) -> None:
    """Refuse files that do not hold the tensors that their index says, or of which two hold the same one."""
    holders: dict[str, list[str]] = {}
    for file in files:
        for tensor in safetensors_header(file):
            holders.setdefault(tensor, []).append(file.name)
    for tensor, names in holders.items():
        if len(names) > 1:
            raise UsageError(
                f"{index.parent}: '{tensor}' is in {' and in '.join(names[:2])}, so the weights are not one set. "
                "Download the files again."
            )
    lost = [tensor for tensor, name in table.items() if name not in holders.get(tensor, ())]
    if lost:
        more = f" and {len(lost) - 1} more" if lost[1:] else ""
        raise UsageError(
            f"{index} says that '{lost[0]}'{more} is in {table[lost[0]]}, which does not hold it: index and files are "
            "not of one model. Download them again."
        )


def _index_names(folder: Path, stem: str, suffix: str, variant: str | None) -> tuple[Path, ...]:
    if variant is None:
        return (folder / f"{stem}.{suffix}.index.json",)
    # As saved today, and as saved before.
    return (
        folder / f"{stem}.{suffix}.index.{variant}.json",
        folder / f"{stem}.{suffix}.{variant}.index.json",
    )


def _dot(variant: str | None) -> str:
    return f".{variant}" if variant else ""


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()  # a broken link is a damaged file, not a missing one
