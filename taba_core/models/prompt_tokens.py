"""Tokenizers of the text encoders, from files in the hub's layout: prompts to a fixed number of token ids.

T5 is published as a SentencePiece file only. It is read here into the `tokenizers` library, so that neither the
sentencepiece package nor the ways of one transformers version are needed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from taba_core.errors import UsageError
from taba_core.models.prompt_shapes import NUM_TOKENS as NUM_TOKENS

# Axes: B prompts, L token positions (77, or as many as T5 makes for a flow's transformer).

_T5_SPECIAL = ("<pad>", "</s>", "<unk>")
_UNIGRAM = 1  # trainer_spec.model_type
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4  # types of pieces


class Tokens(NamedTuple):
    """Token ids and what of them is text, each int64 (B, L)."""

    ids: Tensor
    mask: Tensor


class PromptTokenizer:
    """Prompts to exactly `num_tokens` tokens: longer ones are cut (the end token stays), shorter ones padded.

    Args:
      backend: a `tokenizers.Tokenizer` that adds the model's special tokens.
      pad_token: name of the padding token, one of the backend's vocabulary.
      num_tokens: L.
    """

    def __init__(self, backend: Any, pad_token: str, num_tokens: int = NUM_TOKENS) -> None:
        self.backend, self.num_tokens = backend, num_tokens
        self.backend.enable_truncation(num_tokens)
        self.backend.enable_padding(
            length=num_tokens, pad_id=self.backend.token_to_id(pad_token), pad_token=pad_token
        )

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids, added tokens included."""
        return int(self.backend.get_vocab_size())

    def count(self, prompt: str) -> int:
        """Number of tokens of a prompt before it is cut, those that mark its start and end among them."""
        from tokenizers import Tokenizer

        whole = Tokenizer.from_str(self.backend.to_str())
        whole.no_truncation()
        whole.no_padding()
        return len(whole.encode(prompt).ids)

    def is_unknown(self, word: str) -> bool:
        """Whether a part of a word is none of the vocabulary, so that it is read as a mark for "unknown"."""
        unknown = self.backend.token_to_id("<unk>")
        return unknown is not None and unknown in self.backend.encode(word).ids

    def words(self, prompt: str) -> list[tuple[str, list[int]]]:
        """The words of a prompt, as white space parts them, each with the positions of its tokens among the 77.

        A word that is cut away has none.
        """
        encoded = self.backend.encode(prompt)
        spans = [(word.group(), *word.span()) for word in re.finditer(r"\S+", prompt)]
        return [
            (
                text,
                [
                    position
                    for position, (first, last) in enumerate(encoded.offsets)
                    if first < last and begin <= first < end
                ],
            )
            for text, begin, end in spans
        ]

    def __call__(self, prompts: Sequence[str]) -> Tokens:
        """Token ids of B prompts, (B, L)."""
        encoded = self.backend.encode_batch(list(prompts))
        return Tokens(
            torch.tensor([e.ids for e in encoded]), torch.tensor([e.attention_mask for e in encoded])
        )


def load_clip_tokenizer(directory: Path) -> PromptTokenizer:
    """CLIP's byte-pair tokenizer from vocab.json and merges.txt (or tokenizer.json).

    Raises:
      UsageError: the directory holds no such tokenizer.
    """
    published = [directory / "vocab.json", directory / "merges.txt"]
    if not (all(file.is_file() for file in published) or (directory / "tokenizer.json").is_file()):
        raise _no_tokenizer(directory, "vocab.json and merges.txt")
    from transformers import CLIPTokenizerFast  # type: ignore[attr-defined]  # an alias since version 5

    try:
        loaded = CLIPTokenizerFast.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exception
        raise _damaged(directory, error) from error
    return PromptTokenizer(loaded.backend_tokenizer, str(loaded.pad_token))


def load_t5_tokenizer(directory: Path, num_tokens: int = NUM_TOKENS) -> PromptTokenizer:
    """T5's Unigram tokenizer from tokenizer.json, else from spiece.model.

    Args:
      num_tokens: that it makes of a prompt.
    Raises:
      UsageError: the directory holds no such tokenizer, or the file is damaged.
    """
    import tokenizers

    ready, pieces = directory / "tokenizer.json", directory / "spiece.model"
    if ready.is_file():
        try:
            backend = tokenizers.Tokenizer.from_file(os.fspath(ready))
        except Exception as error:  # as above
            raise _damaged(ready, error) from error
    elif pieces.is_file():
        backend = _unigram_of_sentencepiece(pieces)
    else:
        raise _no_tokenizer(directory, "spiece.model or tokenizer.json")
    missing = [token for token in _T5_SPECIAL if backend.token_to_id(token) is None]
    if missing:
        raise _damaged(directory, ValueError(f"the vocabulary lacks {', '.join(missing)}"))
    return PromptTokenizer(backend, "<pad>", num_tokens)


def _unigram_of_sentencepiece(path: Path) -> Any:
    """The tokenizer a SentencePiece Unigram file describes: its own normalisation, runs of white space taken
    as one, a space before the first word, the end token after the last."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

    proto = _sentencepiece(path)
    unknown = next((index for index, p in enumerate(proto.pieces) if p.type == _UNKNOWN), None)
    backend = Tokenizer(models.Unigram([(p.piece, p.score) for p in proto.pieces], unk_id=unknown))
    if charsmap := proto.normalizer_spec.precompiled_charsmap:
        try:
            backend.normalizer = normalizers.Precompiled(charsmap)
        except Exception as error:  # as above
            raise _damaged(path, error) from error
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    backend.add_tokens(
        [AddedToken(p.piece, normalized=False) for p in proto.pieces if p.type == _USER_DEFINED]
    )
    backend.add_special_tokens([p.piece for p in proto.pieces if p.type == _CONTROL])
    end = backend.token_to_id("</s>")
    if end is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=["$A", "</s>"], special_tokens=[("</s>", end)]
        )
    return backend


def _sentencepiece(path: Path) -> Any:
    """The parsed ModelProto of a SentencePiece file (the message definition comes with transformers)."""
    from google.protobuf.message import DecodeError
    from transformers.convert_slow_tokenizer import import_protobuf

    proto = import_protobuf().ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise _damaged(path, error) from error
    if not proto.pieces or proto.trainer_spec.model_type != _UNIGRAM:
        raise _damaged(path, ValueError("it is no Unigram model"))
    return proto


def _no_tokenizer(directory: Path, files: str) -> UsageError:
    return UsageError(
        f"{directory} holds no tokenizer: it needs {files}. Give a directory in the hub's layout, with everything "
        "that model_index.json names."
    )


def _damaged(path: Path, error: Exception) -> UsageError:
    return UsageError(f"{path} is no usable tokenizer: {error}. Fetch it again.")
