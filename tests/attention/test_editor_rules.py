"""What each editor takes over of its source, by hand on small heads, and where."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from editor_cases import PROMPTS, SOURCE, STEPS, TARGET, edited, inverted, plain
from torch.testing import assert_close

from taba_core.diffusion import generate
from taba_core.diffusion.attention.control import Call, Heads
from taba_core.diffusion.attention.editor import Prompts
from taba_core.diffusion.attention.editors.masactrl import MasaCtrl
from taba_core.diffusion.attention.editors.plug_and_play import PlugAndPlay
from taba_core.diffusion.attention.editors.prompt_to_prompt import PromptToPrompt
from taba_core.diffusion.attention.editors.rival import RIVAL
from taba_core.diffusion.attention.editors.style_aligned import StyleAligned, adain
from taba_core.diffusion.attention.layers import attention_layers
from taba_core.diffusion.attention.sampling import EditStart
from taba_core.diffusion.guidance import Guided
from taba_core.diffusion.inversion import invert

# ---------------------------------------------------------------- what each editor takes over


def call(step=0, conditional=True, num_steps=10):
    return Call(step, num_steps, conditional, 1)


def heads(seed=0, tokens=5, keys=5):
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(2, 2, n, 3, generator=generator) for n in (tokens, keys, keys))
    return Heads(q, k, v)


def softmaxed(q, k, v, extra=0.0):
    return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + extra).softmax(-1) @ v


def test_masactrl_reads_keys_and_values_of_the_source(sd):
    layers = [layer for layer in attention_layers(sd.unet) if not layer.cross]
    control = MasaCtrl(start_step=2, layer=1).control(layers, PROMPTS, None, "cpu")
    given = heads()
    q, k, v = given
    out = control.attend(call(), layers[1], given)
    assert_close(out[:1], softmaxed(q[:1], k[:1], v[:1]))
    assert_close(out[1:], softmaxed(q[1:], k[:1], v[:1]))
    assert [control.active(call(step)) for step in (1, 2, 3)] == [False, True, True]
    assert [control.touches(call(2), layer) for layer in layers[:3]] == [False, True, True]
    cross = next(layer for layer in attention_layers(sd.unet) if layer.cross and layer.index == 2)
    assert not control.touches(call(2), cross)


def test_rival_reads_the_source_alone_and_then_both(sd):
    layers = [layer for layer in attention_layers(sd.unet) if not layer.cross]
    control = RIVAL(alone_share=0.2, replace_share=0.5).control(layers, PROMPTS, None, "cpu")
    q, k, v = given = heads()
    for step in (2, 4, 5, 9):
        out = control.attend(call(step), layers[0], given)
        assert_close(out[:1], softmaxed(q[:1], k[:1], v[:1]))
        keys = (k[:1], v[:1]) if step < 5 else (torch.cat([k[:1], k[1:]], -2), torch.cat([v[:1], v[1:]], -2))
        assert_close(out[1:], softmaxed(q[1:], *keys))
    assert [control.active(call(step)) for step in (1, 2, 9)] == [False, True, True]
    assert control.touches(call(2), layers[0]) and control.source_keeps_prompt


def test_rival_gives_early_noise_the_statistics_of_the_sources_noise(sd):
    control = RIVAL(noise_share=0.3).control(attention_layers(sd.unet), PROMPTS, None, "cpu")
    generator = torch.Generator().manual_seed(4)
    eps = (
        torch.randn(4, 3, 6, 6, generator=generator) * torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1, 1) + 1
    )
    two = Call(2, 10, True, 2)
    out = control.corrected(two, eps)
    assert torch.equal(out[:2], eps[:2])
    assert_close(out[2:].mean((2, 3)), eps[:2].mean((2, 3)), rtol=0, atol=1e-5)
    assert_close(out[2:].std((2, 3)), eps[:2].std((2, 3)), rtol=1e-4, atol=1e-4)
    shape = [
        (part - part.mean((2, 3), keepdim=True)) / part.std((2, 3), keepdim=True)
        for part in (out[2:], eps[2:])
    ]
    assert_close(*shape, rtol=1e-3, atol=1e-3)
    assert torch.equal(control.corrected(Call(3, 10, True, 2), eps), eps)


def test_rivals_noise_is_corrected_after_guidance_and_its_source_is_not_guided(sd):
    # No attention is changed, so that targets differ from plain sampling by their noise alone.
    start, cond = inverted(sd), sd.network.text.encode(SOURCE)
    image = edited(sd, start, RIVAL(alone_share=1.0, noise_share=1.0), guidance_scale=3.0)
    model, target = Guided(sd.network, 3.0), sd.network.text.encode(TARGET)
    source = x = start.latent
    for move in sd.grid.downward():
        theirs, mine = (
            sd.network.eps(source, move.network_time, cond),
            model.eps(x, move.network_time, target),
        )
        (m0, s0), (m1, s1) = (
            (e.mean((2, 3), keepdim=True), e.var((2, 3), keepdim=True).add(1e-5).sqrt())
            for e in (theirs, mine)
        )
        mine = (mine - m1) / s1 * s0 + m0
        source, x = (
            move.stop.alpha * (y - move.start.sigma * e) / move.start.alpha + move.stop.sigma * e
            for y, e in ((source, theirs), (x, mine))
        )
    assert_close(image, x, rtol=1e-3, atol=1e-3)


def test_style_aligned_attends_to_itself_and_to_the_reference(sd):
    layer = attention_layers(sd.unet)[0]
    control = StyleAligned(shift=0.5, key_scale=2.0).control([layer], PROMPTS, None, "cpu")
    q, k, v = given = heads()
    out = control.attend(call(), layer, given)
    assert_close(out[:1], softmaxed(q[:1], k[:1], v[:1]))
    own, keys = adain(q[1:], q[:1]), torch.cat([adain(k[1:], k[:1]), 2.0 * k[:1]], dim=-2)
    extra = torch.tensor([0.0] * 5 + [0.5] * 5)
    assert_close(out[1:], softmaxed(own, keys, torch.cat([v[1:], v[:1]], dim=-2), extra))


def test_adain_gives_mean_and_deviation_of_the_reference():
    x, reference = torch.randn(2, 3, 50, 4), 2 + 3 * torch.randn(2, 3, 50, 4)
    moved = adain(x, reference)
    assert_close(moved.mean(-2), reference.mean(-2), rtol=0, atol=1e-5)
    assert_close(moved.std(-2), reference.std(-2), rtol=1e-4, atol=1e-4)
    assert_close(adain(x, x), x, rtol=1e-5, atol=1e-5)
    # Tokens 1 and 3 have mean 2 and deviation sqrt 2; 10 and 30 have mean 20 and deviation sqrt 200.
    x, reference = (torch.tensor(values).view(1, 1, 2, 1) for values in ([1.0, 3.0], [10.0, 30.0]))
    assert_close(adain(x, reference).flatten(), torch.tensor([10.0, 30.0]), rtol=1e-4, atol=1e-4)


def test_shared_group_norms_see_target_and_reference():
    norm = torch.nn.GroupNorm(1, 2)
    control = StyleAligned().control([], PROMPTS, None, "cpu")
    x = torch.randn(2, 2, 3, 3)
    out = control.replaced(call(), norm, x, norm(x))
    joined = torch.cat([x[1], x[0]], dim=1)[None]
    expected = (joined - joined.mean()) / (joined.var(unbiased=False) + norm.eps).sqrt()
    assert_close(out[1], expected[0, :, :3], rtol=1e-4, atol=1e-5)
    assert torch.equal(out[0], norm(x)[0])


def test_style_aligned_starts_from_noise_of_its_own_and_ignores_the_latent(sd):
    start = inverted(sd)
    fresh = StyleAligned(seed=3, start_step=STEPS)
    image = edited(sd, start, fresh, sample_ids=[4, 9])
    other = edited(sd, EditStart(start.latent + 1), fresh, sample_ids=[4, 9])
    assert torch.equal(image, other)
    noise = fresh.target_start(start.latent, [4, 9])
    assert torch.equal(image, generate(sd.network, noise, sd.grid, sd.network.text.encode(TARGET)))
    assert torch.equal(noise[1:], fresh.target_start(start.latent[:1], [9]))


def test_plug_and_play_takes_maps_and_one_feature_on_the_way_up(tiny):
    layers = attention_layers(tiny.unet)
    control = PlugAndPlay().control(layers, PROMPTS, None, "cpu")
    (conv,) = control.watched(tiny.unet)
    block = next(index for index, part in enumerate(tiny.unet.up_blocks) if hasattr(part, "attentions"))
    assert conv is tiny.unet.up_blocks[block].resnets[1].conv2
    touched = [layer for layer in layers if control.touches(call(), layer)]
    expected = [inner.attn1 for inner in tiny.unet.up_blocks[block].attentions[1].transformer_blocks]
    assert [layer.module for layer in touched] == expected
    q, k, v = given = heads()
    out = control.attend(call(), touched[0], given)
    assert_close(out[1:], softmaxed(q[:1], k[:1], v[1:]))
    # Of 10 steps the first 8 have its features, the first 5 its maps.
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(control.replaced(call(7), conv, x, x), torch.cat([x[:1], x[:1]]))
    assert torch.equal(control.replaced(call(8), conv, x, x), x)
    assert [control.active(call(step)) for step in (7, 8)] == [True, False]
    assert [control.touches(call(step), touched[0]) for step in (4, 5)] == [True, False]


def test_the_source_of_plug_and_play_is_not_guided(sd):
    start = inverted(sd)
    seen = []

    class Watched(PlugAndPlay):
        def control(self, *args):
            inner = super().control(*args)
            object.__setattr__(inner, "replaced", lambda call, module, x, out: seen.append(out[:2]) or out)
            return inner

    editor = Watched(feature_share=1.0, attention_share=0.0)
    edited(sd, start, editor, guidance_scale=3.0)
    assert len(seen) == 2 * STEPS
    for conditional, null in zip(seen[::2], seen[1::2], strict=True):
        assert_close(conditional, null, rtol=1e-5, atol=1e-5)


def test_prompt_to_prompt_moves_maps_word_for_word_and_weights_a_word(sd):
    tokenizer, layers = sd.network.text.tokenizer, attention_layers(sd.unet)
    prompts = Prompts(["a c"], ["b c"])
    editor = PromptToPrompt(mode="replace", word="c", weight=3.0)
    control = editor.control(layers, prompts, tokenizer, "cpu")
    q, k, v = given = heads(tokens=4, keys=77)
    cross = next(layer for layer in layers if layer.cross)
    out = control.attend(call(), cross, given)
    maps = (q @ k.transpose(-1, -2) / math.sqrt(3)).softmax(-1)[:1]
    # Every word is one token at the same place in both prompts: the source's maps, those of "c" (position 2) times 3.
    weights = torch.ones(77)
    weights[2] = 3.0
    assert_close(out[1:], (maps * weights) @ v[1:])
    assert_close(out[:1], maps @ v[:1])
    refined = PromptToPrompt().control(layers, Prompts(["a c"], ["a b c"]), tokenizer, "cpu")
    q, k, v = given = heads(seed=1, tokens=4, keys=77)
    both = (q @ k.transpose(-1, -2) / math.sqrt(3)).softmax(-1)
    expected = both[:1].clone()
    expected[..., 3:] = both[:1, ..., 2:76]  # behind "b" everything stands one place later
    expected[..., 2] = both[1:, ..., 2]  # "b" is new
    assert_close(refined.attend(call(), cross, given)[1:], expected @ v[1:])


def test_prompt_to_prompt_acts_on_the_half_of_the_prompts_for_its_shares(sd):
    layers = attention_layers(sd.unet)
    editor = PromptToPrompt(cross_share=0.8, self_share=0.4)
    control = editor.control(layers, PROMPTS, sd.network.text.tokenizer, "cpu")
    self_layer, cross = layers[0], layers[1]
    # int(.8 (10 + 1)) = 8 steps of cross-attention, int(.4 10) = 4 of self-attention.
    assert [control.touches(call(step), cross) for step in (7, 8)] == [True, False]
    assert [control.touches(call(step), self_layer) for step in (3, 4)] == [True, False]
    assert (
        not control.active(call(0, conditional=False))
        and control.active(call(7))
        and not control.active(call(8))
    )
    given = heads(tokens=5)
    q, k, v = given
    assert_close(control.attend(call(), self_layer, given)[1:], softmaxed(q[:1], k[:1], v[1:]))
    small = replace(editor, self_tokens=4).control(layers, PROMPTS, sd.network.text.tokenizer, "cpu")
    assert_close(small.attend(call(), self_layer, given)[1:], softmaxed(q[1:], k[1:], v[1:]))


def test_a_weight_of_one_is_plain_sampling_and_another_is_not(tiny):
    start = inverted(tiny)
    before = plain(tiny, start, SOURCE)
    for weight, same in ((1.0, True), (4.0, False)):
        editor = PromptToPrompt(word="boat", weight=weight)
        prompts = Prompts(["a red boat"] * 2, ["a red boat"] * 2)
        first = inverted_under(tiny, "a red boat")
        image = edited(tiny, first, editor, prompts)
        again = plain(tiny, first, ["a red boat"] * 2)
        assert torch.allclose(image, again, rtol=1e-4, atol=1e-4) is same
    assert torch.equal(plain(tiny, start, SOURCE), before)


def inverted_under(tiny, prompt):
    cond = tiny.network.text.encode([prompt] * 2)
    return EditStart(invert(tiny.network, tiny.x_0, tiny.grid, "ddim", cond))
