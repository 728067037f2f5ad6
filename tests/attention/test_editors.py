"""Editors on tiny SD and SDXL: what edits nothing, what each takes over, what it costs, and any inversion in front."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from editor_cases import EDITORS, PROMPTS, SAME, SOURCE, STEPS, TARGET, edited, inverted, path_of, plain
from torch.testing import assert_close

from taba_core.diffusion.attention.controlled import Controlled
from taba_core.diffusion.attention.editor import Prompts
from taba_core.diffusion.attention.editors.masactrl import MasaCtrl
from taba_core.diffusion.attention.editors.plug_and_play import PlugAndPlay
from taba_core.diffusion.attention.editors.prompt_to_prompt import PromptToPrompt
from taba_core.diffusion.attention.editors.rival import RIVAL
from taba_core.diffusion.attention.editors.sdedit import SDEdit
from taba_core.diffusion.attention.editors.style_aligned import StyleAligned
from taba_core.diffusion.attention.editors.tic import TIC
from taba_core.diffusion.attention.layers import attention_layers
from taba_core.diffusion.attention.registry import editor_named, list_editors
from taba_core.diffusion.attention.sampling import EditStart, sample_edit
from taba_core.diffusion.forward import forward_diffuse
from taba_core.diffusion.inversion import inversion_method_named, invert
from taba_core.errors import UsageError
from taba_core.models.base import load_model

each_editor = pytest.mark.parametrize("name", EDITORS)


def test_all_editors_are_registered():
    assert list_editors() == sorted([*EDITORS, "sdedit", "tic"])
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
    if name in ("plug-and-play", "rival") and scale != 1.0:
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
    "rival of no step": RIVAL(alone_share=1.0, noise_share=0.0),
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


def watched(kind, seen):
    """The class of an editor that appends to `seen` the states of the two sources in every call."""

    class Watched(kind):
        def control(self, *args):
            inner = super().control(*args)
            object.__setattr__(inner, "watched", lambda unet: [unet.conv_in])
            object.__setattr__(inner, "replaced", lambda call, module, x, out: seen.append(x[:2]) or out)
            return inner

    return Watched


def test_pinned_sources_stand_on_the_states_of_the_inversion(sd):
    states, seen = path_of(sd), []
    start = replace(inverted(sd), states=states)
    pinned = edited(sd, start, watched(MasaCtrl, seen)(start_step=0, layer=0))
    assert len(seen) == STEPS and torch.equal(seen[0], start.latent)
    for step, x in zip(range(STEPS - 1, 0, -1), seen[1:], strict=True):
        assert torch.equal(x, states[:, step])
    own = edited(sd, replace(start, states=None), MasaCtrl(start_step=0, layer=0))
    assert (pinned - own).abs().max() > 1e-3  # DDIM inversion of a random network does not come back


def test_tic_sees_its_sources_where_the_inversion_asked_the_network(sd):
    states, seen, asked = path_of(sd), [], []
    start = replace(inverted(sd), states=states)
    invert(
        sd.network, sd.x_0, sd.grid, "ddim", sd.network.text.encode(SOURCE),
        on_step=lambda record: asked.append(record.x_from),
    )  # fmt: skip
    for scale, halves in ((1.0, 1), (3.0, 2)):  # in both halves of guidance
        seen.clear()
        edited(sd, start, watched(TIC, seen)(start_step=0, layer=0), guidance_scale=scale)
        assert len(seen) == halves * STEPS
        for step, x in enumerate(seen):
            assert torch.equal(x, asked[STEPS - 1 - step // halves])


def test_tic_acts_where_it_is_told_and_needs_the_states_of_an_inversion(sd):
    start = replace(inverted(sd), states=path_of(sd))
    before = plain(sd, start)
    assert torch.equal(edited(sd, start, TIC(start_step=STEPS, layer=0)), before)
    tic, masa = (edited(sd, start, kind(start_step=0, layer=0)) for kind in (TIC, MasaCtrl))
    assert min((a - b).abs().mean() for a, b in ((tic, before), (tic, masa))) > 1e-3
    with pytest.raises(
        UsageError, match="'tic' reads the states of the inversion, so its sources are pinned"
    ):
        edited(sd, inverted(sd), TIC())


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
