"""Alignment of the tokens of two prompts: worked by hand on the tiny tokenizer, whose tokens are letters."""

from __future__ import annotations

import pytest
import torch

from taba_core.diffusion.attention.words import refined_words, replaced_words, word_weights
from taba_core.errors import UsageError

L = 77


@pytest.fixture(scope="module")
def tokenizer(made):
    return made["sd"].network.text.tokenizer


def rows(alignment):
    """For each target position the source positions and weights it is made of."""
    return [
        {w: alignment.A[w, n].item() for w in alignment.A[:, n].nonzero().flatten().tolist()}
        for n in range(L)
    ]


def test_words_are_parted_by_white_space(tokenizer):
    # "the" is a token of its own; other words are letters, and a comma is a token.
    assert tokenizer.words("the  cat, on") == [("the", [1]), ("cat,", [2, 3, 4, 5]), ("on", [6, 7])]
    assert tokenizer.words(" the") == [("the", [1])]
    cut = tokenizer.words("x" * 80 + " the")
    assert cut[0][1] == list(range(1, 76)) and cut[1] == ("the", [])


def test_equal_prompts_are_their_own_counterparts(tokenizer):
    for align in (replaced_words, refined_words):
        alignment = align("the red cat", "the red cat", tokenizer)
        assert torch.equal(alignment.A, torch.eye(L)) and torch.equal(alignment.kept, torch.ones(L))


def test_a_word_of_other_length_keeps_its_mass(tokenizer):
    # cat = 1, 2, 3 for the = 1: each is a third of "the"; behind them everything is two places later.
    alignment = replaced_words("the x", "cat x", tokenizer)
    third = pytest.approx(1 / 3)
    assert rows(alignment)[:7] == [{0: 1}, {1: third}, {1: third}, {1: third}, {2: 1}, {3: 1}, {4: 1}]
    assert alignment.A[1].sum() == pytest.approx(1.0)
    back = replaced_words("cat x", "the x", tokenizer)
    assert rows(back)[:4] == [{0: 1}, {1: 1, 2: 1, 3: 1}, {4: 1}, {5: 1}]
    # The source has no position behind its last: the last padding is used again.
    assert rows(back)[L - 3 :] == [{L - 1: 1}, {L - 1: 1}, {L - 1: 1}]


def test_refining_keeps_what_both_have_and_marks_what_is_new(tokenizer):
    alignment = refined_words("a c", "a b c", tokenizer)
    assert rows(alignment)[:6] == [{0: 1}, {1: 1}, {}, {2: 1}, {3: 1}, {4: 1}]
    assert alignment.kept.tolist() == [1, 1, 0, *[1] * (L - 3)]
    # A letter that is another one is new, and no mismatch is ever aligned.
    other = refined_words("a c", "b c", tokenizer)
    assert rows(other)[:4] == [{0: 1}, {}, {2: 1}, {3: 1}]
    # Moved words: the longest common subsequence of x y z and z x y is x y.
    moved = refined_words("x y z", "z x y", tokenizer)
    assert rows(moved)[:5] == [{0: 1}, {}, {1: 1}, {2: 1}, {4: 1}]


def test_weights_stand_at_the_tokens_of_the_word(tokenizer):
    weights = word_weights("the cat, Cat on", "CAT", 2.5, tokenizer)
    # "cat," is 2-5 with its comma, "Cat" 6-8.
    assert weights.nonzero().numel() == L
    assert (weights != 1).nonzero().flatten().tolist() == [2, 3, 4, 5, 6, 7, 8] and weights[2] == 2.5


def test_words_are_replaced_one_by_one(tokenizer):
    with pytest.raises(UsageError, match="'a b' has 2 words and 'a' 1"):
        replaced_words("a b", "a", tokenizer)
    assert refined_words("a b", "a", tokenizer).kept.sum() > 0
    assert replaced_words("a b", "a c", tokenizer).kept.sum() == L


def test_a_word_that_is_not_there(tokenizer):
    with pytest.raises(UsageError, match="option word='dog'"):
        word_weights("the cat", "dog", 2.0, tokenizer)
    assert word_weights("the cat", "cat", 2.0, tokenizer).max() == 2
