"""Editors on tiny SD and SDXL: what edits nothing, what each takes over, what it costs, and any inversion in front."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from taba_core.diffusion import generate
from taba_core.diffusion.attention.control import Call, Heads
from taba_core.diffusion.attention.controlled import Controlled
from taba_core.diffusion.attention.editor import Prompts
from taba_core.diffusion.attention.editors.masactrl import MasaCtrl
from taba_core.diffusion.attention.editors.plug_and_play import PlugAndPlay
from taba_core.diffusion.attention.editors.prompt_to_prompt import PromptToPrompt
from taba_core.diffusion.attention.editors.sdedit import SDEdit
from taba_core.diffusion.attention.editors.style_aligned import StyleAligned, adain
from taba_core.diffusion.attention.layers import attention_layers
from taba_core.diffusion.attention.registry import editor_named, list_editors
from taba_core.diffusion.attention.sampling import EditStart, sample_edit
from taba_core.diffusion.forward import forward_diffuse
from taba_core.diffusion.guidance import Guided
from taba_core.diffusion.inversion import inversion_method_named, invert, invert_with_report, reconstruct
from taba_core.errors import UsageError
from taba_core.models.base import load_model

STEPS = 5  # of the tiny grids
SOURCE, TARGET = ["a red boat", "the horse"], ["a blue boat", "the white horse"]
PROMPTS = Prompts(SOURCE, TARGET)
SAME = Prompts(SOURCE, SOURCE)
# Every editor of attention in the form that starts from the latent and changes something from the first step on.
EDITORS = {
    "masactrl": MasaCtrl(start_step=0, layer=0),
    "style-aligned": StyleAligned(start="latent"),
    "prompt-to-prompt": PromptToPrompt(),
    "plug-and-play": PlugAndPlay(),
}
each_editor = pytest.mark.parametrize("name", EDITORS)


def inverted(tiny, method="ddim", **fields):
    """(start, plain edits to TARGET) of the tiny images inverted under SOURCE."""
    cond = tiny.network.text.encode(SOURCE)
    report = invert_with_report(tiny.network, tiny.x_0, tiny.grid, method, cond, **fields)
    return EditStart(report.latent, method, report.carried)


def plain(tiny, start, prompts=TARGET, scale=1.0):
    model = tiny.network if scale == 1.0 else Guided(tiny.network, scale)
    return reconstruct(
        model, start.latent, tiny.grid, start.method, tiny.network.text.encode(prompts), carried=start.carried
    )


def edited(tiny, start, editor, prompts=PROMPTS, **fields):
    return sample_edit(tiny.network, start, tiny.grid, editor, prompts, **fields)


def path_of(tiny):
    """States x*_0..x*_{T-1} of DDIM inversion, (B, T, C, H, W)."""
    states = []
    invert(
        tiny.network, tiny.x_0, tiny.grid, "ddim", tiny.network.text.encode(SOURCE),
        on_step=lambda record: states.append(record.x_from),
    )  # fmt: skip
    return torch.stack(states, dim=1)


def test_all_editors_are_registered():
    assert list_editors() == sorted([*EDITORS, "sdedit"])
    assert editor_named("masactrl", start_step=2, layer=3) == MasaCtrl(2, 3)
    with pytest.raises(UsageError, match="unknown editor 'masa': did you mean masactrl"):
        editor_named("masa")
    with pytest.raises(
        UsageError, match="editor 'masactrl' has no option 'depth'; it has: start_step, layer"
    ):
        editor_named("masactrl", depth=1)
    with pytest.raises(
        UsageError, match="editor 'plug-and-play', option feature_share=2: Input should be less"
    ):
        editor_named("plug-and-play", feature_share=2)


# ---------------------------------------------------------------- layers


def test_layers_stand_in_the_order_in_which_a_forward_runs_them(tiny):
    layers, ran = attention_layers(tiny.unet), []
    place = {id(layer.module): layer for layer in layers}
    hooks = [
        layer.module.register_forward_hook(lambda module, *_: ran.append(place[id(module)]))
        for layer in layers
    ]
    tiny.network.eps(tiny.x_0, 500.0, tiny.network.text.encode(SOURCE))
    for hook in hooks:
        hook.remove()
    assert ran == list(layers)
    for cross in (False, True):
        assert [layer.index for layer in layers if layer.cross is cross] == list(range(len(layers) // 2))
    # What diffusers lists has the middle last, and the same layers.
    assert len(layers) == len(tiny.unet.attn_processors)
    assert [*dict.fromkeys(layer.part for layer in layers)] == ["down", "mid", "up"]


def test_the_published_layer_of_masactrl_is_as_deep_in_sdxl(made):
    def first(tiny, count):
        layers = [layer for layer in attention_layers(tiny.unet) if not layer.cross]
        many = [replace(layers[0], index=index) for index in range(count)]
        return MasaCtrl().control(many, PROMPTS, None, "cpu").first_layer

    # SD 1.x has 16 self-attention layers and SDXL 70: 10 / 16 * 70 = 43.75.
    assert (first(made["sd"], 16), first(made["sdxl"], 70)) == (10, 44)


# ---------------------------------------------------------------- what edits nothing


@each_editor
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_target_that_is_its_source_is_plain_sampling(tiny, name, scale):
    start = inverted(tiny)
    same = edited(tiny, start, EDITORS[name], SAME, guidance_scale=scale)
    if name == "plug-and-play" and scale != 1.0:
        # Its source is not guided, so it parts from the target after the first step.
        assert not torch.allclose(same, plain(tiny, start, SOURCE, scale), atol=1e-2)
        return
    assert_close(same, plain(tiny, start, SOURCE, scale), rtol=1e-4, atol=1e-4)


INACTIVE = {
    "masactrl past the last step": MasaCtrl(start_step=STEPS, layer=0),
    "masactrl past the last layer": MasaCtrl(start_step=0, layer=1000),
    "style-aligned past the last step": StyleAligned(start="latent", start_step=STEPS),
    "plug-and-play of no step": PlugAndPlay(feature_share=0.0, attention_share=0.0),
    "prompt-to-prompt of no step": PromptToPrompt(cross_share=0.0, self_share=0.0),
}


@pytest.mark.parametrize("case", INACTIVE)
@pytest.mark.parametrize("pinned", [False, True])
def test_an_editor_that_never_acts_is_plain_sampling(tiny, case, pinned):
    start = inverted(tiny)
    start = replace(start, states=path_of(tiny)) if pinned else start
    for scale in (1.0, 3.0):
        image, expected = (
            edited(tiny, start, INACTIVE[case], guidance_scale=scale),
            plain(tiny, start, TARGET, scale),
        )
        if case == "masactrl past the last layer":  # evaluated with its source, so rounded otherwise
            assert_close(image, expected, rtol=1e-4, atol=1e-4)
        else:
            assert torch.equal(image, expected)


@each_editor
def test_an_editor_that_acts_changes_the_edit_and_leaves_the_network_alone(tiny, name):
    start = inverted(tiny)
    before = plain(tiny, start)
    image = edited(tiny, start, EDITORS[name])
    assert (image - before).abs().mean() > 1e-3
    assert torch.equal(plain(tiny, start), before)
    assert all(type(p).__module__.startswith("diffusers") for p in tiny.unet.attn_processors.values())
    # The weights are shared, the layers are not.
    own, unet = tiny.network.with_own_layers()
    assert own.unet[0] is unet is not tiny.unet
    pairs = list(zip(tiny.unet.parameters(), unet.parameters(), strict=True))
    assert all(a is b for a, b in pairs) and pairs


def test_a_failing_call_leaves_no_control_behind(sd, monkeypatch):
    denoiser = Controlled(sd.network, EDITORS["masactrl"], PROMPTS, sd.grid)
    both = torch.cat([sd.x_0, sd.x_0])
    with pytest.raises(UsageError, match="2 rows for 4 states"):
        denoiser.eps(both, 500.0, {key: value[:2] for key, value in denoiser.cond.items()})
    assert denoiser._switch.call is None


@each_editor
def test_an_edit_depends_on_its_own_image_alone(sd, name):
    start = inverted(sd)
    both = edited(sd, start, EDITORS[name], sample_ids=[5, 6])
    alone = edited(
        sd, EditStart(start.latent[1:]), EDITORS[name], Prompts(SOURCE[1:], TARGET[1:]), sample_ids=[6]
    )
    assert_close(both[1:], alone, rtol=1e-4, atol=1e-4)


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


# ---------------------------------------------------------------- cost, pinned sources, any inversion


@each_editor
@pytest.mark.parametrize("scale, each", [(1.0, 2), (3.0, 4)])
def test_an_edit_costs_twice_plain_sampling(sd, name, scale, each):
    rows = []
    hook = sd.unet.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    try:
        start = EditStart(torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2)))
        edited(sd, start, EDITORS[name], guidance_scale=scale)
    finally:
        hook.remove()
    assert sum(rows) == 2 * each * STEPS


def test_pinned_sources_stand_on_the_states_of_the_inversion(sd):
    states, seen = path_of(sd), []
    start = replace(inverted(sd), states=states)

    class Watched(MasaCtrl):
        def control(self, *args):
            inner = super().control(*args)
            object.__setattr__(inner, "watched", lambda unet: [unet.conv_in])
            object.__setattr__(inner, "replaced", lambda call, module, x, out: seen.append(x[:2]) or out)
            return inner

    pinned = edited(sd, start, Watched(start_step=0, layer=0))
    assert len(seen) == STEPS and torch.equal(seen[0], start.latent)
    for step, x in zip(range(STEPS - 1, 0, -1), seen[1:], strict=True):
        assert torch.equal(x, states[:, step])
    own = edited(sd, replace(start, states=None), MasaCtrl(start_step=0, layer=0))
    assert (pinned - own).abs().max() > 1e-3  # DDIM inversion of a random network does not come back


INVERTERS = [
    "ddim",
    "direct-inversion",
    "edict",
    "edit-friendly",
    "fixed-point",
    "negative-prompt",
    "renoise",
]


@pytest.mark.parametrize("method", INVERTERS)
def test_any_inversion_may_stand_in_front(sd, method):
    start = inverted(sd, method)
    same, expected = edited(sd, start, EDITORS["masactrl"], SAME), plain(sd, start, SOURCE)
    if method == "direct-inversion":
        # The source stands on the kept path and the target goes its own way, so the two part.
        assert_close(expected, sd.x_0, rtol=1e-4, atol=1e-4)
        pinned = EditStart(start.latent, states=start.carried["states"])
        assert torch.equal(same, edited(sd, pinned, EDITORS["masactrl"], SAME))
        assert torch.equal(pinned.states, path_of(sd))
    else:
        assert_close(same, expected, rtol=1e-3, atol=1e-3)
    assert (edited(sd, start, EDITORS["masactrl"]) - same).abs().max() > 1e-3


def test_a_repaired_latent_may_stand_in_front(sd):
    noise = torch.randn(sd.x_0.shape, generator=torch.Generator().manual_seed(8))
    start = inverted(sd, forward_steps=2, forward_noise=noise)
    assert_close(edited(sd, start, EDITORS["masactrl"], SAME), plain(sd, start, SOURCE), rtol=1e-4, atol=1e-4)
    assert (
        edited(sd, start, EDITORS["masactrl"]) - edited(sd, inverted(sd), EDITORS["masactrl"])
    ).abs().max() > 1e-3


# ---------------------------------------------------------------- SDEdit


@pytest.mark.parametrize("strength, steps", [(1.0, 5), (0.6, 3), (0.5, 2), (0.01, 1)])
def test_sdedit_samples_the_image_from_a_level_of_the_grid(sd, strength, steps):
    editor, cond, rows = SDEdit(strength=strength, seed=7), sd.network.text.encode(TARGET), []
    assert editor.steps(STEPS) == steps
    hook = sd.unet.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    image = editor.sample(sd.network, sd.x_0, sd.grid, cond, sample_ids=[3, 4])
    hook.remove()
    assert rows == [2] * steps
    from taba_core import rng

    noise = torch.from_numpy(rng.normal([3, 4], (4, 8, 8), seed=7, stream="sdedit"))
    x = forward_diffuse(sd.x_0, noise, sd.grid.upper_levels[steps - 1])
    for move in sd.grid.downward()[-steps:]:
        eps = sd.network.eps(x, move.network_time, cond)
        clean = (x - move.start.sigma * eps) / move.start.alpha
        x = move.stop.alpha * clean + move.stop.sigma * eps
    assert_close(image, x, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("model", ["photo-if", "photo-dit", "photo-adm", "photo-mixture", "gaussian"])
def test_models_without_such_attention_are_refused_in_one_sentence(model):
    network = load_model(model)
    x = torch.zeros(1, *network.sample_shape)
    with pytest.raises(
        UsageError, match="editors control layers that attend to the image or to the text alone, and"
    ) as e:
        sample_edit(network, EditStart(x), None, MasaCtrl(), Prompts(["a"], ["b"]))
    message = str(e.value)
    assert (
        "use a Stable Diffusion or SDXL model, or the editor sdedit" in message and message.count(". ") == 0
    )


def test_what_an_editor_cannot_take_is_refused(sd):
    start = inverted(sd, "edict")
    with pytest.raises(
        UsageError, match="'edict' has a sampler of its own, which starts from what the inversion kept"
    ):
        edited(sd, start, StyleAligned())
    edited(sd, start, StyleAligned(start="latent"))
    with pytest.raises(
        UsageError, match="'edict' has a sampler of its own, which cannot be pinned to the states"
    ):
        edited(sd, replace(start, states=path_of(sd)), MasaCtrl())
    with pytest.raises(
        UsageError, match="'the horse' has 2 words and 'the white horse' 3; give prompts of the same"
    ):
        edited(sd, inverted(sd), PromptToPrompt(mode="replace"))
    with pytest.raises(UsageError, match="the target 'a blue boat' does not have this word"):
        edited(sd, inverted(sd), PromptToPrompt(word="dog"))


def test_a_compiled_network_is_refused(sd):
    compiled = replace(sd.network, unet=(object(), sd.network.unet[1]))
    with pytest.raises(UsageError, match=r"is compiled, .*; use --set model.compile=false"):
        edited(replace_network(sd, compiled), inverted(sd), MasaCtrl())


def replace_network(tiny, network):
    return tiny._replace(network=network)


def test_every_method_of_the_tests_is_there():
    assert all(inversion_method_named(name) for name in INVERTERS)
