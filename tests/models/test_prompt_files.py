"""Prompt files give the same prompts however they are saved; what cannot be seen, or is no list, is refused."""

from __future__ import annotations

import codecs
import json

import pytest
import torch
from tiny_text_checkpoints import save_tiny_sd, tiny_card

from taba_core.errors import UsageError
from taba_core.models.prompt_files import repeated
from taba_core.models.prompts import load_prompts, recap_coco_path

PROMPTS = ("a red boat", "# the cat, on the mat", "une forêt enneigée", "[V] dog; 50 mm", "日本の庭 🏯")
ENCODINGS = {
    "UTF-8": lambda text: text.encode(),
    "UTF-8 with BOM": lambda text: text.encode("utf-8-sig"),
    "UTF-16 LE": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    "UTF-16 BE": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "UTF-32 LE": lambda text: codecs.BOM_UTF32_LE + text.encode("utf-32-le"),
    "UTF-32 BE": lambda text: codecs.BOM_UTF32_BE + text.encode("utf-32-be"),
}
LINE_ENDS = {"Unix": "\n", "Windows": "\r\n", "old Mac": "\r"}
LAYOUTS = {
    "plain": lambda p, end: end.join(p),
    "with an end": lambda p, end: end.join(p) + end,
    "empty lines": lambda p, end: end + (end + end).join(p) + end * 3,
    "white space": lambda p, end: end.join(f" \t{prompt}  \t" for prompt in p) + end,
    "no-break spaces": lambda p, end: end.join(
        f"\u00a0{prompt}\u3000".replace(" ", "\u00a0") for prompt in p
    ),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", LINE_ENDS)
def test_however_a_list_is_saved_its_prompts_and_its_key_are_the_same(encoding, end, tmp_path):
    (tmp_path / "plain.txt").write_bytes("\n".join(PROMPTS).encode())
    fingerprint = load_prompts(tmp_path / "plain.txt").fingerprint
    for name, layout in LAYOUTS.items():
        for suffix in (".txt", ".TXT", ""):
            file = tmp_path / f"prompts{suffix}"
            file.write_bytes(ENCODINGS[encoding](layout(PROMPTS, LINE_ENDS[end])))
            found = load_prompts(file)
            assert found.prompts == PROMPTS, name
            assert found.fingerprint == fingerprint
    rows = LINE_ENDS[end].join(json.dumps({"prompt": p}, ensure_ascii=False) for p in PROMPTS)
    (tmp_path / "p.jsonl").write_bytes(ENCODINGS[encoding](rows + LINE_ENDS[end]))
    assert load_prompts(tmp_path / "p.jsonl").prompts == PROMPTS


def test_the_embedding_of_the_first_prompt_does_not_know_how_the_file_was_saved(tmp_path):
    from taba_core.models.profile import profile_named
    from taba_core.models.text import load_clip_encoder

    folder = save_tiny_sd(tmp_path / "tiny-sd")
    text = load_clip_encoder(folder, tiny_card("sd"), device="cpu", profile=profile_named("exact"))
    expected = text.encode(list(PROMPTS))["prompt_embeds"]
    for encode in ENCODINGS.values():
        (tmp_path / "p.txt").write_bytes(encode("\r\n".join(PROMPTS)))
        found = text.encode(list(load_prompts(tmp_path / "p.txt").prompts))["prompt_embeds"]
        assert torch.equal(found, expected)
    # What a mark that stays in the text would change: by this the file of a field report was wrong.
    assert (text.encode(["\ufeffa red boat"])["prompt_embeds"] - expected[0]).abs().max() > 0.1


def refused(tmp_path, content, name="p.txt"):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError) as error:
        load_prompts(file)
    return str(error.value).replace(str(file), name)


@pytest.mark.parametrize("end", LINE_ENDS.values())
def test_another_encoding_is_refused_by_line_and_byte(end, tmp_path):
    content = f"a red boat{end}une for\u00eat{end}".encode("latin-1")
    assert refused(tmp_path, content) == (
        f"prompts p.txt: line 2 is no UTF-8 text (byte 0xea at position {10 + len(end) + 7} of the file). Save the "
        "file as UTF-8; from another encoding: iconv -f LATIN1 -t UTF-8 OLD.txt > NEW.txt."
    )


def test_half_a_character_at_the_end_of_utf_16_is_refused(tmp_path):
    assert "line 1 is no UTF-16 text" in refused(
        tmp_path, codecs.BOM_UTF16_LE + "ab".encode("utf-16-le") + b"c"
    )


@pytest.mark.parametrize("content", ["a cat".encode("utf-16-le"), b"a\0b", b"one\n\x00\x01\x02"])
def test_zero_bytes_are_no_text(content, tmp_path):
    message = refused(tmp_path, content)
    assert (
        "holds a zero byte, so it is no UTF-8 text: it is a binary file, or UTF-16 without its mark (BOM)."
        in message
    )


HIDDEN = {
    "zero width space": "\u200b", "word joiner": "\u2060", "mark inside": "\ufeff", "soft hyphen": "\u00ad",
    "right to left": "\u202e", "line separator": "\u2028", "next line": "\x85", "form feed": "\x0c", "bell": "\x07",
    "escape": "\x1b", "delete": "\x7f",
}  # fmt: skip


@pytest.mark.parametrize("name", HIDDEN)
def test_what_is_not_seen_is_refused_by_line_and_character(name, tmp_path):
    message = refused(tmp_path, f"one\n\na {HIDDEN[name]}cat\n")
    assert message.startswith(f"prompts p.txt:3: character 3 is U+{ord(HIDDEN[name]):04X} (")
    assert message.endswith("change what the text encoder reads. Delete it, or write the line anew.")
    row = json.dumps({"prompt": f"a {HIDDEN[name]}cat"})
    assert refused(tmp_path, row, "p.jsonl").startswith("prompts p.jsonl:1: character 3 is U+")


def test_joiners_that_scripts_and_emoji_need_are_kept(tmp_path):
    (tmp_path / "p.txt").write_text("👩\u200d🚀 on the moon\nمی\u200cخواهم\n", encoding="utf-8")
    assert load_prompts(tmp_path / "p.txt").prompts == ("👩\u200d🚀 on the moon", "می\u200cخواهم")


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
def test_json_that_says_what_cannot_be_stored_is_refused(text, tmp_path):
    assert "character 2 is U+" in refused(tmp_path, json.dumps({"prompt": text}), "p.jsonl")


def test_the_published_captions_are_kept_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("TABA_CACHE", str(tmp_path))
    recap_coco_path().parent.mkdir(parents=True)
    recap_coco_path().write_text(json.dumps({"recaption": "a\u200b cat\u00a0 "}) + "\n")
    assert load_prompts("recap-coco").prompts == ("a\u200b cat\u00a0 ",)


KINDS = (
    ".csv", ".tsv", ".json", ".parquet", ".xlsx", ".xls", ".yaml", ".md", ".docx", ".npy", ".pkl", ".png", ".gz",
)  # fmt: skip


@pytest.mark.parametrize("suffix", KINDS)
def test_files_of_other_kinds_are_refused_by_name(suffix, tmp_path):
    assert refused(tmp_path, "a cat\n", f"p{suffix}") == (
        f"prompts p{suffix}: files of kind {suffix} are not read. Give a .txt file (one prompt a line), or a .jsonl "
        'file (one JSON object a line, as {"prompt": "..."}): write its prompts to a .txt file, one a line.'
    )


TABLES = {
    "JSON": [
        '{"prompt": "a cat"}\n{"prompt": "a dog"}\n', '["a cat", "a dog"]', '[\n  "a cat",\n', "{\n", '[{"text": "a"',
    ],
    "a table": [
        "id,prompt\n1,a cat\n", "prompt;seed\na cat;3\n", '"image_id","caption"\n7,"a cat"\n', "Prompt\tCategory\n",
        "a cat\tanimals\na dog\tanimals\n", "prompt,\na cat,\n", "1,a cat\n2,a dog\n", '"a cat"\n"a dog"\n',
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "content"), [(kind, text) for kind, texts in TABLES.items() for text in texts]
)
def test_text_that_is_data_of_another_kind_is_refused(kind, content, tmp_path):
    message = refused(tmp_path, content)
    assert (
        message.startswith(f"prompts p.txt holds {kind}")
        and "not one prompt a line. Give a .txt file" in message
    )


def test_prompts_that_only_look_like_data_are_prompts(tmp_path):
    looks = (
        "a cat, a dog, a text on a wall",
        "[V] dog",
        'a sign that says "stop"',
        "{neon} city",
        "3 cats, 2 dogs",
        "text",
    )
    (tmp_path / "p.txt").write_text("\n".join(looks))
    assert load_prompts(tmp_path / "p.txt").prompts == looks


@pytest.mark.parametrize("content", [b"", b"\n\r\n \t\n", codecs.BOM_UTF8, codecs.BOM_UTF16_LE])
def test_an_empty_list_is_refused(content, tmp_path):
    assert "is empty; give at least one prompt" in refused(tmp_path, content)


def test_a_list_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    from pathlib import Path

    (tmp_path / "p.txt").write_text("a cat")

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(
        UsageError, match=r"p\.txt cannot be read: permission denied\. Give yourself permission"
    ):
        load_prompts(tmp_path / "p.txt")


def test_prompts_that_come_more_than_once_are_named():
    assert repeated(("a", "b", "c")) == ""
    assert repeated(("a", "b", "a", "c", "a", "b")) == (
        "2 of 3 different prompts come more than once: 'a' (3 times), 'b' (2 times)"
    )
    many = tuple("abcde" * 2)
    assert repeated(many).endswith("'a' (2 times), 'b' (2 times), 'c' (2 times) and 2 more")
