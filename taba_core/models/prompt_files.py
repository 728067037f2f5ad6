"""Files of prompts as people save them: any usual encoding and line ends, nothing that a reader cannot see. No torch.

Two kinds are read. `.txt` (or no suffix): one prompt a line; empty lines and white space around a prompt are dropped,
and every space of Unicode (no-break spaces too) counts as a plain one; there are no comments, a line that begins with
# is a prompt. `.jsonl`: one JSON object a line, whose text is taken exactly as it is written. Both are UTF-8, or UTF-16
and UTF-32 with their mark (BOM). What is invisible and would change an embedding is refused, not guessed at.
"""

from __future__ import annotations

import codecs
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

from taba_core.errors import UsageError

CAPTION_FIELDS = ("recaption", "prompt", "caption", "text")  # of a JSON line, the first one present
_MARKS = (  # the longer marks first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_KINDS = (
    'Give a .txt file (one prompt a line), or a .jsonl file (one JSON object a line, as {"prompt": "..."})'
)
_EXPORT = "write its prompts to a .txt file, one a line"
_JSON_START = re.compile(r"\s*[\[{]\s*([\"{\[\]}]|$)")
_JOINERS = "\u200c\u200d"  # letters of Persian and Indic scripts, and emoji, are spelled with them


def read_prompts(path: Path, *, published: bool = False) -> tuple[str, ...]:
    """The prompts of a file, in order; see the module for what is read.

    Args:
      published: the file is a data set's own text, whose characters are kept whatever they are.
    Raises:
      FileNotFoundError: no such file.
      UsageError: a file of another kind or encoding, a table, or a character that no one sees; the message names the
        line and the way out.
    """
    suffix = path.suffix.lower()
    if suffix not in ("", ".txt", ".jsonl"):
        raise UsageError(f"prompts {path}: files of kind {suffix} are not read. {_KINDS}: {_EXPORT}.")
    lines = re.split(r"\r\n|\n|\r", _text(path))
    if suffix == ".jsonl":
        while lines and not lines[-1].strip():
            lines.pop()
        # Every line counts, so that row numbers are those of the data set; only the end of the file may be blank.
        rows = [(number, _caption(line, f"{path}:{number}")) for number, line in enumerate(lines, start=1)]
    else:
        _refuse_tables(path, [line for line in lines if line.strip()])
        rows = [(number, _plain(line)) for number, line in enumerate(lines, start=1)]
        rows = [(number, prompt) for number, prompt in rows if prompt]
    for number, prompt in rows:
        _refuse_characters(prompt, f"{path}:{number}", published, json_text=suffix == ".jsonl")
    return tuple(prompt for _, prompt in rows)


def repeated(prompts: tuple[str, ...]) -> str:
    """Which prompts of a list come more than once, in words; "" if none does. They are drawn that much more often."""
    counts: dict[str, int] = {}
    for prompt in prompts:
        counts[prompt] = counts.get(prompt, 0) + 1
    twice = [prompt for prompt, count in counts.items() if count > 1]
    if not twice:
        return ""
    shown = ", ".join(f"'{_short(prompt)}' ({counts[prompt]} times)" for prompt in twice[:3])
    more = f" and {len(twice) - 3} more" if twice[3:] else ""
    return f"{len(twice)} of {len(counts)} different prompts come more than once: {shown}{more}"


def _short(prompt: str) -> str:
    return prompt if len(prompt) <= 40 else f"{prompt[:37]}..."


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except PermissionError:
        raise UsageError(
            f"prompts {path} cannot be read: permission denied. Give yourself permission (chmod u+r)."
        ) from None
    except (FileNotFoundError, IsADirectoryError):
        raise FileNotFoundError(str(path)) from None
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    if encoding.startswith("utf-8") and b"\0" in content:
        line = content[: content.index(b"\0")].count(b"\n") + 1
        raise UsageError(
            f"prompts {path}: line {line} holds a zero byte, so it is no UTF-8 text: it is a binary file, or UTF-16 "
            f"without its mark (BOM). {_KINDS}, saved as UTF-8."
        )
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        where, byte = _place(content, error.start)
        raise UsageError(
            f"prompts {path}: line {where} is no {encoding.removesuffix('-sig').upper()} text (byte 0x{byte:02x} at "
            f"position {error.start} of the file). Save the file as UTF-8; from another encoding: "
            f"iconv -f LATIN1 -t UTF-8 OLD.txt > NEW.txt."
        ) from None


def _place(content: bytes, position: int) -> tuple[int, int]:
    """(line, byte) of a position of the file."""
    position = min(position, len(content) - 1)
    before = content[:position].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return before.count(b"\n") + 1, content[position]


def _plain(line: str) -> str:
    """A line as its reader sees it: every space is a plain one, none at the ends."""
    return "".join(" " if unicodedata.category(c) == "Zs" else c for c in line).strip(" \t")


def _refuse_tables(path: Path, lines: list[str]) -> None:
    """Refuse text that is data of another kind, whose rows would be taken for prompts."""
    if not lines:
        return
    found = ""
    if _JSON_START.match(lines[0]):
        found = "JSON"
    elif any("\t" in line.strip() for line in lines) or _is_header(lines[0]):
        found = "a table"
    elif len(lines) > 1 and all(re.match(r"\s*\d+\s*[,;]", line) for line in lines):
        found = "a table (every line begins with a number)"
    elif len(lines) > 1 and all(re.fullmatch(r"\s*\".*\"\s*", line) for line in lines):
        found = "a table (every line is in quotation marks)"
    if found:
        raise UsageError(f"prompts {path} holds {found}, not one prompt a line. {_KINDS}: {_EXPORT}.")


def _is_header(line: str) -> bool:
    """Whether a first line names the columns of a table, one of them the prompts'."""
    for separator in ",;|":
        names = [name.strip().strip("\"'").lower() for name in line.split(separator)]
        if len(names) > 1 and set(names) & {*CAPTION_FIELDS, "prompts", "captions"}:
            return all(re.fullmatch(r"\w*", name) for name in names)
    return False


def _refuse_characters(prompt: str, place: str, published: bool, *, json_text: bool) -> None:
    """Refuse what is not seen and would change an embedding, and what cannot be stored."""
    for column, character in enumerate(prompt, start=1):
        kind = unicodedata.category(character)
        # Prompts are stored as UTF-8 padded with zeros: these two cannot be.
        broken = character == "\0" or kind == "Cs"
        hidden = kind in ("Cc", "Cf", "Zl", "Zp") and character not in _JOINERS
        if broken or (hidden and not published and not (json_text and character in "\t\n\r")):
            name = unicodedata.name(character, "a control character")
            raise UsageError(
                f"prompts {place}: character {column} is U+{ord(character):04X} ({name}), which is not seen and would "
                "change what the text encoder reads. Delete it, or write the line anew."
            )


def _caption(line: str, place: str) -> str:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise UsageError(
            f'{place} is no JSON ({error.msg}); one object a line, as {{"prompt": "..."}}.'
        ) from None
    found = (
        row.get(next((name for name in CAPTION_FIELDS if name in row), "")) if isinstance(row, dict) else row
    )
    if not isinstance(found, str) or not found.strip():
        raise UsageError(
            f"{place} holds no caption; each line needs text in one of the fields {', '.join(CAPTION_FIELDS)}."
        )
    return found
