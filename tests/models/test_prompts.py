"""Prompt lists: what is read, which captions samples draw, and the reference's selection."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from taba_core.errors import UsageError
from taba_core.models.prompts import (
    PromptList,
    load_prompts,
    recap_coco_path,
    reference_rows,
)

NUMBERED = PromptList("numbered", tuple(f"caption {i}" for i in range(30504)))


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TABA_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("seed", [10, 42])
def test_reference_rows_are_those_of_the_reference_code(seed, data_dir):
    expected = np.load(data_dir / "seeds.npz")[f"prompt_rows_n30504_cond{seed}"]
    np.testing.assert_array_equal(reference_rows(30504, 1280, seed=seed), expected)


def test_reference_selection_repeats_each_caption_consecutively(data_dir):
    rows = np.load(data_dir / "seeds.npz")["prompt_rows_n30504_cond10"]
    chosen = NUMBERED.reference_selection(1280, seed=10, num_noises=8)
    assert len(chosen) == 10240
    assert chosen[:9] == [f"caption {rows[0]}"] * 8 + [f"caption {rows[1]}"]


def test_fewer_reference_prompts_are_the_head_of_more():
    # RandomState.choice without replacement permutes all rows, so fewer prompts are the head of more.
    assert NUMBERED.reference_selection(8, seed=10) == NUMBERED.reference_selection(64, seed=10)[:8]


def test_a_sample_keeps_its_caption_in_any_batch_and_any_order():
    together = NUMBERED.draw(range(100), seed=7)
    assert NUMBERED.draw([99, 3, 50], seed=7) == [together[99], together[3], together[50]]
    assert NUMBERED.draw(range(100), seed=8) != together


def test_draws_are_uniform_over_the_list():
    four = PromptList("four", ("a", "b", "c", "d"))
    drawn = four.draw(range(4000), seed=1)
    # Binomial(4000, 1/4): mean 1000, standard deviation sqrt(4000 * .25 * .75) = 27.4; five of them.
    assert all(abs(drawn.count(prompt) - 1000) < 137 for prompt in four.prompts)


def test_num_noises_consecutive_samples_share_a_caption():
    drawn = NUMBERED.draw(range(12), seed=7, num_noises=4)
    assert [len(set(drawn[i : i + 4])) for i in (0, 4, 8)] == [1, 1, 1]
    assert len(set(drawn)) == 3
    assert drawn[::4] == NUMBERED.draw(range(3), seed=7)


def test_the_builtin_list_has_24_different_captions():
    prompts = load_prompts().prompts
    assert len(prompts) == len(set(prompts)) == 24
    assert all(prompt == prompt.strip() and prompt.endswith(".") for prompt in prompts)


def test_fingerprint_is_of_captions_and_order_not_of_the_name(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n  two \n")
    (tmp_path / "b.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    (tmp_path / "c.txt").write_text("two\none\n")
    a, b, c = (load_prompts(tmp_path / name) for name in ("a.txt", "b.jsonl", "c.txt"))
    assert a.prompts == b.prompts == ("one", "two")
    assert a.fingerprint == b.fingerprint != c.fingerprint
    assert len(a.fingerprint) == 24
    # Joining the captions alone would not tell these two lists apart.
    assert PromptList("x", ("ab", "c")).fingerprint != PromptList("x", ("a", "bc")).fingerprint


def test_recap_coco_is_read_from_the_cache_row_by_row(own_cache):
    rows = [{"image_id": i, "caption": "short", "recaption": f"long\ncaption {i}"} for i in range(3)]
    recap_coco_path().parent.mkdir(parents=True)
    recap_coco_path().write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_prompts("recap-coco").prompts == ("long\ncaption 0", "long\ncaption 1", "long\ncaption 2")


def test_the_missing_list_says_how_to_fetch_it(own_cache):
    with pytest.raises(UsageError) as error:
        load_prompts("recap-coco")
    assert str(error.value) == (
        f"the captions of UCSC-VLAA/Recap-COCO-30K are not here ({own_cache}/prompts/recap-coco-30k.jsonl): run "
        "`taba fetch recap-coco` on a machine with internet, or write its column 'recaption' there, one JSON object "
        "a line in the data set's order. For a try without them: prompts=builtin."
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; give at least one prompt"),
        ('{"prompt": "a"}\n{"prompt"}\n', r"list.jsonl:2 is no JSON .*; one object a line"),
        (
            '{"prompt": "a"}\n{"title": "b"}\n',
            r"list.jsonl:2 holds no caption; .* recaption, prompt, caption, text",
        ),
        ('{"prompt": "a"}\n\n{"prompt": "b"}\n', r"list.jsonl:2 is no JSON"),
        ('{"prompt": null}\n', r"list.jsonl:1 holds no caption"),
    ],
)
def test_a_damaged_list_is_refused_with_its_line(content, message, tmp_path):
    (tmp_path / "list.jsonl").write_text(content)
    with pytest.raises(UsageError, match=message):
        load_prompts(tmp_path / "list.jsonl")


def test_a_file_that_is_not_there_is_refused_with_the_choices():
    with pytest.raises(
        UsageError, match=r"prompts='nowhere.txt': there is no such file. .*'recap-coco'.*'builtin'"
    ):
        load_prompts("nowhere.txt")


def test_prompt_lists_are_read_without_torch():
    code = "import sys, taba_core.models.prompts as p; p.load_prompts(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_impossible_numbers_are_refused():
    with pytest.raises(UsageError, match=r"num_prompts=25 of a list of 24 prompts, .*; use 1 to 24"):
        load_prompts().reference_selection(25, seed=0)
    with pytest.raises(UsageError, match="num_noises=0 must be at least 1"):
        load_prompts().draw([0], seed=0, num_noises=0)
