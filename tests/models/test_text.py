"""Text encoders: what is tokenised, which hidden states condition the network, and that a batch changes nothing."""

from __future__ import annotations

import functools
import shutil

import pytest
import torch
from tiny_text_checkpoints import (
    clip_config,
    clip_vocabulary,
    save_clip_tokenizer,
    save_sentencepiece,
    save_tiny_if,
    save_tiny_sd,
    save_tiny_sdxl,
    sentencepiece_pieces,
    tiny_card,
)
from torch.testing import assert_close

from taba_core.errors import UsageError, WorkError
from taba_core.models.network import TextEncoder
from taba_core.models.profile import profile_named
from taba_core.models.prompt_tokens import load_clip_tokenizer, load_t5_tokenizer
from taba_core.models.text import load_clip_encoder, load_clip_pair_encoder, load_t5_encoder

T5_IDS = {piece: index for index, (piece, _, _) in enumerate(sentencepiece_pieces())}
CLIP_IDS = {token: index for index, token in enumerate(clip_vocabulary())}
PROMPTS = ["a red boat", "the white horse", "a red boat", ""]
LOADERS = {"if": load_t5_encoder, "sd": load_clip_encoder, "sdxl": load_clip_pair_encoder}
SAVERS = {"if": save_tiny_if, "sd": save_tiny_sd, "sdxl": save_tiny_sdxl}


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines")
    return {name: save(folder / name) for name, save in SAVERS.items()}


@pytest.fixture(scope="module")
def encoder(pipelines):
    @functools.cache
    def load(name, profile="exact"):
        card = tiny_card(name)
        return LOADERS[name](pipelines[name], card, device="cpu", profile=profile_named(profile))

    return load


def test_t5_is_read_from_its_sentencepiece_file(pipelines):
    tokens = load_t5_tokenizer(pipelines["if"] / "tokenizer")(["a red boats", "  a   red\tcat "])
    words = [["▁a", "▁red", "▁boat", "s", "</s>"], ["▁a", "▁red", "▁cat", "</s>"]]
    for row, pieces in enumerate(words):
        expected = [T5_IDS[piece] for piece in pieces]
        assert tokens.ids[row].tolist() == expected + [T5_IDS["<pad>"]] * (77 - len(expected))
        assert tokens.mask[row].tolist() == [1] * len(expected) + [0] * (77 - len(expected))


def test_unigram_takes_the_most_probable_pieces_and_marks_unknown_letters(pipelines):
    tokenizer = load_t5_tokenizer(pipelines["if"] / "tokenizer")
    # "cats": ▁cat + s has score -2.3 - 2.9; letter by letter ▁ c a t s has -3 - 4 * 6.
    ids = tokenizer(["cats 雪"]).ids[0].tolist()
    assert ids[:5] == [T5_IDS["▁cat"], T5_IDS["s"], T5_IDS["▁"], T5_IDS["<unk>"], T5_IDS["</s>"]]


def test_t5_reads_a_tokenizer_file_like_the_sentencepiece_file(pipelines, tmp_path):
    from_pieces = load_t5_tokenizer(pipelines["if"] / "tokenizer")
    from_pieces.backend.no_padding()
    from_pieces.backend.no_truncation()
    from_pieces.backend.save(str(tmp_path / "tokenizer.json"))
    prompts = ["a red boat.", "a cat on the boat", "x" * 200]
    expected = load_t5_tokenizer(pipelines["if"] / "tokenizer")(prompts)
    torch.testing.assert_close(load_t5_tokenizer(tmp_path)(prompts), expected)


def test_clip_is_read_from_vocabulary_and_merges(pipelines):
    tokens = load_clip_tokenizer(pipelines["sd"] / "tokenizer")(["The cat"])
    expected = [
        CLIP_IDS[token] for token in ("<|startoftext|>", "the</w>", "c", "a", "t</w>", "<|endoftext|>")
    ]
    assert tokens.ids[0, :6].tolist() == expected
    assert set(tokens.ids[0, 6:].tolist()) == {CLIP_IDS["<|endoftext|>"]}


def test_the_second_tokenizer_of_sdxl_pads_with_its_own_token(pipelines):
    tokens = load_clip_tokenizer(pipelines["sdxl"] / "tokenizer_2")(["cat"])
    assert tokens.ids[0, 4] == CLIP_IDS["<|endoftext|>"]
    assert set(tokens.ids[0, 5:].tolist()) == {CLIP_IDS["!"]}


@pytest.mark.parametrize("name", LOADERS)
def test_long_prompts_are_cut_at_77_tokens_and_end_with_the_end_token(name, pipelines, encoder):
    tokenizer = (load_t5_tokenizer if name == "if" else load_clip_tokenizer)(pipelines[name] / "tokenizer")
    ids = tokenizer(["cat " * 100]).ids
    assert ids.shape == (1, 77)
    assert ids[0, -1] == (T5_IDS["</s>"] if name == "if" else CLIP_IDS["<|endoftext|>"])
    # 75 tokens of text fit beside CLIP's two, so what comes after them changes nothing.
    long, longer = encoder(name).encode(["b" * 100, "b" * 200])["prompt_embeds"]
    assert_close(long, longer, rtol=0, atol=0)


@pytest.mark.parametrize("name", LOADERS)
def test_a_prompt_is_encoded_the_same_in_any_batch(name, encoder):
    assert isinstance(encoder(name), TextEncoder)
    together = encoder(name).encode(PROMPTS)
    for index, prompt in enumerate(PROMPTS):
        for key, value in encoder(name).encode([prompt]).items():
            assert torch.equal(together[key][index], value[0])
    assert not torch.equal(together["prompt_embeds"][0], together["prompt_embeds"][1])


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("if", {"prompt_embeds": (4, 77, 24)}),
        ("sd", {"prompt_embeds": (4, 77, 16)}),
        ("sdxl", {"prompt_embeds": (4, 77, 40), "pooled": (4, 12), "time_ids": (4, 6)}),
    ],
)
@pytest.mark.parametrize("profile", ["exact", "reference", "fast"])
def test_conditioning_is_batch_first_float32_in_every_profile(name, shapes, profile, encoder):
    cond = encoder(name, profile).encode(PROMPTS)
    assert {key: tuple(value.shape) for key, value in cond.items()} == shapes
    assert {value.dtype for value in cond.values()} == {torch.float32}


def test_each_distinct_prompt_costs_one_pass(encoder):
    seen = []
    handle = encoder("if").model.register_forward_pre_hook(lambda *_: seen.append(1))
    encoder("if").encode(PROMPTS * 5)
    handle.remove()
    assert len(seen) == 3


def test_if_ignores_case_and_outer_white_space(encoder):
    cond = encoder("if").encode(["A Red Boat \n", "a red boat"])["prompt_embeds"]
    assert torch.equal(cond[0], cond[1])


def test_if_gives_the_padding_mask_to_t5(encoder):
    text = encoder("if")
    tokens = text.tokenizer(["a red boat"])
    with torch.no_grad():
        masked = text.model(input_ids=tokens.ids, attention_mask=tokens.mask).last_hidden_state
        unmasked = text.model(input_ids=tokens.ids).last_hidden_state
    assert torch.equal(text.encode(["a red boat"])["prompt_embeds"], masked)
    assert not torch.allclose(masked, unmasked, atol=1e-3)


def test_sd_uses_the_last_hidden_states_after_the_final_norm(encoder):
    text, normed = encoder("sd"), []
    handle = text.model.final_layer_norm.register_forward_hook(lambda _m, _i, out: normed.append(out))
    embeds = text.encode(["the cat"])["prompt_embeds"]
    handle.remove()
    assert torch.equal(embeds, normed[0])


def test_sdxl_concatenates_what_enters_the_last_layer_of_both_encoders(encoder):
    text, entering, pooled = encoder("sdxl"), [], []
    hooks = [
        model.encoder.layers[-1].register_forward_pre_hook(lambda _m, args: entering.append(args[0]))
        for model in (text.first, text.second.text_model)
    ]
    hooks.append(text.second.text_projection.register_forward_hook(lambda _m, _i, out: pooled.append(out)))
    cond = text.encode(["the cat"])
    for hook in hooks:
        hook.remove()
    assert torch.equal(cond["prompt_embeds"], torch.cat(entering, dim=-1))
    assert torch.equal(cond["pooled"], pooled[0])


def test_sdxl_states_the_image_size_six_times(encoder):
    # Original height and width, crop at the top left corner, target height and width; 1024 for the real model.
    assert encoder("sdxl").encode(["a", "b"])["time_ids"].tolist() == [[16, 16, 0, 0, 16, 16]] * 2


def test_half_weights_of_t5_keep_their_output_projections_in_float32(encoder):
    types = {name.split(".")[-2]: p.dtype for name, p in encoder("if", "reference").model.named_parameters()}
    assert types["wo"] == torch.float32
    assert types["q"] == torch.float16
    exact = encoder("if").encode(PROMPTS)["prompt_embeds"]
    half = encoder("if", "reference").encode(PROMPTS)["prompt_embeds"]
    # Half has 11 bits of mantissa, 5e-4 of a number; values are of order 1, and two layers add up.
    assert_close(half, exact, rtol=0, atol=0.02)
    assert not torch.equal(half, exact)


def test_weights_named_as_the_hub_names_them_load(pipelines, tmp_path):
    # Published CLIP text encoders prefix every tensor and store the positions 0..76.
    from safetensors.torch import load_file, save_file

    directory = tmp_path / "sd"
    shutil.copytree(pipelines["sd"], directory)
    file = directory / "text_encoder" / "model.safetensors"
    state = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in load_file(file).items()}
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(state, file, metadata={"format": "pt"})
    text = load_clip_encoder(directory, tiny_card("sd"), device="cpu", profile=profile_named("exact"))
    original = load_clip_encoder(
        pipelines["sd"], tiny_card("sd"), device="cpu", profile=profile_named("exact")
    )
    assert torch.equal(text.encode(["a"])["prompt_embeds"], original.encode(["a"])["prompt_embeds"])


def test_half_weights_in_several_files_load_as_the_hub_names_them(pipelines, tmp_path):
    # DeepFloyd IF: model.fp16-00001-of-00002.safetensors with model.safetensors.index.fp16.json.
    from transformers import T5EncoderModel

    directory = tmp_path / "if"
    shutil.copytree(pipelines["if"], directory)
    model = T5EncoderModel.from_pretrained(directory / "text_encoder", dtype=torch.float16)
    shutil.rmtree(directory / "text_encoder")
    model.save_pretrained(directory / "text_encoder", variant="fp16", max_shard_size="8KB")
    assert len(list(directory.glob("text_encoder/model.fp16-0000?-of-0000?.safetensors"))) > 1
    halves = (
        load_t5_encoder(d, tiny_card("if"), device="cpu", profile=profile_named("reference"))
        for d in (directory, pipelines["if"])
    )
    one, several = (half.encode(PROMPTS)["prompt_embeds"] for half in halves)
    assert_close(one, several, rtol=0, atol=2e-3)  # the saved projections lost what float32 had below half


def test_no_prompts_are_refused(encoder):
    with pytest.raises(UsageError, match="no prompts to encode; give one for each sample"):
        encoder("if").encode([])


def test_damaged_weights_are_named(pipelines):
    text = load_clip_encoder(pipelines["sd"], tiny_card("sd"), device="cpu", profile=profile_named("exact"))
    text.model.final_layer_norm.weight.data[0] = torch.nan
    with pytest.raises(WorkError, match="the text encoder returned NaN or infinity in prompt_embeds"):
        text.encode(["a"])


def test_a_directory_without_a_tokenizer_says_which_files_it_needs(tmp_path):
    with pytest.raises(UsageError, match=r"holds no tokenizer: it needs spiece.model or tokenizer.json\."):
        load_t5_tokenizer(tmp_path)
    with pytest.raises(UsageError, match=r"holds no tokenizer: it needs vocab.json and merges.txt\."):
        load_clip_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("spiece.model", b"version https://git-lfs.github.com/spec/v1\n"),
        ("spiece.model", b""),
        ("tokenizer.json", b"{}"),
    ],
)
def test_a_damaged_t5_tokenizer_is_refused(file, content, tmp_path):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UsageError, match=rf"{file} is no usable tokenizer: .*\. Fetch it again\."):
        load_t5_tokenizer(tmp_path)


def test_a_damaged_clip_tokenizer_is_refused(tmp_path):
    save_clip_tokenizer(tmp_path / "tokenizer", pad_token="!")
    (tmp_path / "tokenizer" / "vocab.json").write_text("[]")
    with pytest.raises(UsageError, match=r"tokenizer is no usable tokenizer: .*\. Fetch it again\."):
        load_clip_tokenizer(tmp_path / "tokenizer")


def test_a_tokenizer_of_another_model_is_refused(pipelines, tmp_path):
    from transformers import CLIPTextModel

    directory = tmp_path / "sd"
    shutil.copytree(pipelines["sd"], directory)
    shutil.rmtree(directory / "text_encoder")
    config = clip_config(16)
    config.vocab_size = 100
    CLIPTextModel(config).save_pretrained(directory / "text_encoder")
    size = len(clip_vocabulary())
    with pytest.raises(
        UsageError, match=rf"has {size} tokens and the text encoder beside it embeds 100: they are not"
    ):
        load_clip_encoder(directory, tiny_card("sd"), device="cpu", profile=profile_named("exact"))


def test_a_damaged_normalisation_table_is_refused_and_not_skipped(tmp_path):
    save_sentencepiece(tmp_path, charsmap=b"no trie")
    with pytest.raises(UsageError, match=r"spiece.model is no usable tokenizer: "):
        load_t5_tokenizer(tmp_path)


def test_clip_without_its_merges_is_refused(tmp_path):
    # transformers would read it and spell every word.
    save_clip_tokenizer(tmp_path / "tokenizer", pad_token="!")
    (tmp_path / "tokenizer" / "merges.txt").unlink()
    with pytest.raises(UsageError, match=r"it needs vocab\.json and merges\.txt"):
        load_clip_tokenizer(tmp_path / "tokenizer")
