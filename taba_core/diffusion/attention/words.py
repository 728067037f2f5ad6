"""Which tokens of a source prompt stand for which of a target prompt (Hertz et al., ICLR 2023, Sec. 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from taba_core.errors import UsageError

# Axes: L token positions: the mark of the start, the words, the mark of the end, padding.

_PUNCTUATION = ".,;:!?\"'()"


class Alignment(NamedTuple):
    """How maps M of a source prompt become those of a target prompt, at every position p of the image:

        M'[p, n] = kept_n sum_w M_source[p, w] A[w, n] + (1 - kept_n) M_target[p, n].

    Attributes:
      A: (L, L), row w of the source, column n of the target.
      kept: (L,), 1 where token n has a counterpart in the source, 0 where it is new.
    """

    A: Tensor
    kept: Tensor


def replaced_words(source: str, target: str, tokenizer: Any) -> Alignment:
    """Word k of the source for word k of the target.

    A word that the two sides split into other numbers of tokens gives each of its m target tokens the sum of its source
    tokens divided by m, so that the mass of the word stays.

    Args:
      tokenizer: a `PromptTokenizer`.
    Raises:
      UsageError: the prompts have different numbers of words.
    """
    check_equal_words(source, target)
    here, there = tokenizer.words(source), tokenizer.words(target)
    length = tokenizer([source]).ids.shape[1]
    A = torch.zeros(length, length)
    A[0, 0] = 1.0
    for (_, own), (_, other) in zip(here, there, strict=True):
        for n in other:
            if len(own) == len(other):
                A[own[other.index(n)], n] = 1.0
            else:
                A[own, n] = 1.0 / len(other)
    return _with_tail(A, _after(here), _after(there))


def refined_words(source: str, target: str, tokenizer: Any) -> Alignment:
    """The tokens that both prompts have, in their order; those that the target has besides are new.

    The published alignment (Needleman and Wunsch: match 1, mismatch -1, gap 0) is a longest common subsequence: two
    gaps are always better than a mismatch.

    Args:
      tokenizer: a `PromptTokenizer`.
    """
    tokens = tokenizer([source, target])
    here, there = (ids[mask.bool()].tolist() for ids, mask in zip(tokens.ids, tokens.mask, strict=True))
    length = tokens.ids.shape[1]
    A = torch.zeros(length, length)
    for w, n in _common(here, there):
        A[w, n] = 1.0
    return _with_tail(A, len(here), len(there))


def word_weights(target: str, word: str, weight: float, tokenizer: Any) -> Tensor:
    """c_n of M'[p, n] c_n, (L,): `weight` at the tokens of a word of the target, 1 elsewhere.

    Raises:
      UsageError: the target does not have the word.
    """
    check_word(target, word)
    c = torch.ones(tokenizer([target]).ids.shape[1])
    for text, positions in tokenizer.words(target):
        if _bare(text) == _bare(word):
            c[positions] = weight
    return c


def check_equal_words(source: str, target: str) -> None:
    """Refuse (UsageError) to replace words between prompts of different length."""
    here, there = len(source.split()), len(target.split())
    if here != there:
        raise UsageError(
            f"editor 'prompt-to-prompt' with mode=replace replaces word by word, and '{source}' has {here} words and "
            f"'{target}' {there}; give prompts of the same number of words, or use mode=refine."
        )


def check_word(target: str, word: str) -> None:
    """Refuse (UsageError) a word to be weighted that the target does not have."""
    if _bare(word) not in map(_bare, target.split()):
        raise UsageError(
            f"editor 'prompt-to-prompt', option word={word!r}: the target '{target}' does not have this word; give one "
            "of its words."
        )


def _bare(word: str) -> str:
    return word.lower().strip(_PUNCTUATION)


def _after(words: Sequence[tuple[str, Sequence[int]]]) -> int:
    """The first position behind the words."""
    return 1 + max((position for _, positions in words for position in positions), default=0)


def _with_tail(A: Tensor, here: int, there: int) -> Alignment:
    """The alignment with what stands behind the words (positions `here` and `there` on) in its order."""
    last = len(A) - 1
    for n in range(there, len(A)):
        A[min(here + n - there, last), n] = 1.0
    return Alignment(A, (A.sum(0) > 0).to(A.dtype))


def _common(here: Sequence[int], there: Sequence[int]) -> list[tuple[int, int]]:
    """Places of a longest common subsequence, ascending."""
    longest = [[0] * (len(there) + 1) for _ in range(len(here) + 1)]
    for w in reversed(range(len(here))):
        for n in reversed(range(len(there))):
            longest[w][n] = (
                1 + longest[w + 1][n + 1]
                if here[w] == there[n]
                else max(longest[w + 1][n], longest[w][n + 1])
            )
    pairs, w, n = [], 0, 0
    while w < len(here) and n < len(there):
        if here[w] == there[n]:
            pairs.append((w, n))
            w, n = w + 1, n + 1
        elif longest[w + 1][n] >= longest[w][n + 1]:
            w += 1
        else:
            n += 1
    return pairs
