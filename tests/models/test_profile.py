"""Profiles change precision and layout, restore what they switched, and never the meaning of the output."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from taba_core.errors import UsageError, WorkError
from taba_core.models.compiled import CompiledNetwork
from taba_core.models.profile import Profile, profile_named, usable_device


def tiny_module():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(8, 3, 3, padding=1)
    )


@pytest.mark.parametrize(
    ("name", "precision", "weights", "autocast"),
    [
        ("reference", "fp32", torch.float32, None),
        ("reference", "fp16", torch.float16, None),
        ("reference", "fp16-torso", torch.float32, torch.float16),
        ("exact", "fp16", torch.float32, None),
        ("exact", "fp16-torso", torch.float32, None),
        ("fast", "fp32", torch.bfloat16, None),
        ("fast", "fp16", torch.float16, None),
        ("fast", "fp16-torso", torch.float16, None),
    ],
)
def test_reference_has_the_cards_precision_and_the_others_their_own(name, precision, weights, autocast):
    profile = profile_named(name)
    assert profile.weights_dtype(precision) == weights
    assert profile.autocast_dtype(precision) == autocast


@pytest.mark.parametrize(
    ("name", "precision", "loaded"),
    [
        ("reference", "fp16", torch.float16),
        ("fast", "fp16", torch.float16),
        ("fast", "fp32", torch.float32),
        ("fast", "fp16-torso", torch.float32),
        ("exact", "fp16", torch.float32),
    ],
)
def test_fast_reads_files_and_encodes_in_the_precision_of_reference(name, precision, loaded):
    assert profile_named(name).loading_dtype(precision) == loaded


def test_exact_gives_the_plain_networks_numbers_and_fast_those_of_bfloat16():
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = tiny_module().double()(x.double()).detach().float()

    def result(name):
        profile = profile_named(name)
        module = profile.prepare(tiny_module(), "fp32", "cpu")
        layout = torch.channels_last if profile.channels_last else torch.contiguous_format
        inside = x.to(dtype=profile.weights_dtype("fp32"), memory_format=layout)
        with torch.no_grad(), profile.precision_of("cpu", "fp32"):
            return module(inside).float()

    torch.testing.assert_close(result("exact"), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(result("reference"), expected, rtol=0, atol=1e-6)
    # bfloat16 keeps 8 bits: relative rounding 2^-9 = 2e-3 a product, values of order 1.
    error = (result("fast") - expected).abs().max()
    assert 1e-4 < error < 2e-2


def normed_module():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.GroupNorm(2, 8),
        torch.nn.Flatten(2),
        torch.nn.LayerNorm(64),
    )


def test_fast_rounds_all_weights_but_those_of_norms_and_computes_norms_in_float32():
    module = normed_module()
    module[1].weight.data.fill_(1 + 2.0**-20)  # in no 16-bit number
    prepared = profile_named("fast").prepare(module, "fp32", "cpu")
    dtypes = [parameter.dtype for parameter in prepared.parameters()]
    assert dtypes == [torch.bfloat16] * 2 + [torch.float32] * 4
    assert prepared[1].weight[0].item() == 1 + 2.0**-20
    # A mean of 1000 and a spread of 4 are 8 bits apart: rounded to bfloat16, the mean alone would shift the result by
    # up to 2 of 4. The float32 norm of the same rounded state differs by the rounding of its output.
    state = (1000 + 4 * torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(2))).bfloat16()
    expected = torch.nn.functional.group_norm(state.double(), 2).float()
    with torch.no_grad():
        found = prepared[1](state)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=2.0**-8, atol=1e-4)
    line = state.flatten(2)
    expected = torch.nn.functional.layer_norm(line.double(), (64,)).float()
    with torch.no_grad():
        torch.testing.assert_close(prepared[3](line).float(), expected, rtol=2.0**-8, atol=1e-4)


def test_channels_last_is_for_unets_on_cpus_and_compiled_wide_ones_on_gpus():
    from taba_core.models.architectures import build_module
    from taba_core.models.profile import channels_last_pays

    with torch.device("meta"):
        networks = {name: build_module(name) for name in ("adm-32", "dit", "sdxl")}
        networks["narrow"] = build_module("adm-32", tiny=True)

    def pays(device, compiled):
        return {n for n, module in networks.items() if channels_last_pays(module, device, compiled=compiled)}

    assert pays("cpu", False) == pays("cpu", True) == {"adm-32", "sdxl", "narrow"}
    # SDXL is compiled by blocks of its transformers: its convolutions and norms are not.
    assert pays("cuda", True) == {"adm-32"} and not pays("cuda", False)
    fast = profile_named("fast").prepare(tiny_module(), "fp32", "cpu")
    assert fast[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_prepare_freezes_and_lays_out_the_weights():
    module = profile_named("exact").prepare(tiny_module().train(), "fp32", "cpu")
    assert not module.training and not any(p.requires_grad for p in module.parameters())
    assert module[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert profile_named("reference").prepare(tiny_module(), "fp16", "cpu")[0].weight.dtype == torch.float16


def test_layers_a_loader_kept_in_float32_stay_there():
    module = tiny_module().half()
    module[2].float()
    prepared = profile_named("reference").prepare(module, "fp16", "cpu")
    assert (prepared[0].weight.dtype, prepared[2].weight.dtype) == (torch.float16, torch.float32)


@pytest.mark.parametrize("bad", [float("nan"), 1e5])
def test_weights_that_are_not_finite_in_the_networks_precision_are_refused(bad):
    # 1e5 is finite in float32 and beyond the largest half, 65504.
    module = tiny_module()
    module[2].weight.data[0, 0, 0, 0] = bad
    with pytest.raises(
        WorkError, match=r"weights of Sequential: '2\.weight' holds NaN or infinity in torch\.float16"
    ):
        profile_named("reference").prepare(module, "fp16", "cpu")


def test_compiling_is_asked_for_and_never_the_default(monkeypatch):
    compiled = []
    monkeypatch.setattr(
        torch, "compile", lambda module, **options: compiled.append((module, options)) or module
    )
    for name in ("reference", "exact", "fast"):
        profile_named(name).prepare(tiny_module(), "fp32", "cpu")
    assert not compiled
    prepared = profile_named("fast", compile=True).prepare(tiny_module(), "fp32", "cpu")
    ((module, options),) = compiled
    assert prepared.module is module and options == {"fullgraph": True, "dynamic": False, "mode": None}


@pytest.mark.parametrize("name", ["reference", "exact", "fast"])
def test_a_compiled_network_gives_the_numbers_of_its_profile_and_is_compiled_for_one_batch(name):
    from torch._dynamo.testing import CompileCounterWithBackend

    profile = profile_named(name)
    plain = profile.prepare(normed_module()[:2], "fp32", "cpu")
    profile = replace(profile, compile=True)
    compiled = profile.prepare(normed_module()[:2], "fp32", "cpu")
    counter = CompileCounterWithBackend("inductor")
    compiled._call = torch.compile(compiled.module, fullgraph=True, dynamic=False, backend=counter)
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(3)).to(profile.weights_dtype("fp32"))
    with torch.no_grad():
        whole, expected = compiled(x), plain(x)
        # A tail is padded: nothing is compiled again, and its rows are those of the whole batch.
        for tail in (x[:1], x[1:4]):
            assert torch.equal(
                compiled(tail), compiled(x)[: len(tail)] if len(tail) == 1 else compiled(x)[1:4]
            )
    tolerance = 2.0**-7 if name == "fast" else 1e-5
    torch.testing.assert_close(whole.float(), expected.float(), rtol=tolerance, atol=tolerance)
    assert counter.frame_count == 1
    # What inductor's tuning asks; torch 2.13 refuses to answer where switches of both kinds were set.
    with profile.precision_of("cuda", "fp32"):
        assert torch.get_float32_matmul_precision() == ("highest" if name == "exact" else "high")


def test_a_call_that_takes_gradients_is_not_compiled():
    module = profile_named("exact", compile=True).prepare(tiny_module(), "fp32", "cpu")
    x = torch.randn(1, 3, 8, 8, requires_grad=True)
    module._call = None  # would fail
    module(x).sum().backward()
    assert x.grad is not None and module.size == 0


def test_conditions_are_padded_with_the_state_and_other_arguments_are_left():
    seen = []

    def network(x, t, label, extra, return_dict):
        seen.append((len(x), len(t), label, {key: len(value) for key, value in extra.items()}))
        return (x * 2,)

    compiled = CompiledNetwork(tiny_module(), torch.device("cpu"))
    compiled._call = network
    for count in (3, 2):
        x = torch.arange(float(count)).view(count, 1)
        out = compiled(x, torch.ones(count), None, extra={"text": torch.ones(count, 5)}, return_dict=False)
        assert torch.equal(out[0], 2 * x)
    assert seen == [(3, 3, None, {"text": 3})] * 2


def test_transformers_are_compiled_block_by_block(monkeypatch):
    from taba_core.models.architectures import random_module

    whole, blocks = [], []
    monkeypatch.setattr(torch, "compile", lambda module, **options: whole.append(module) or module)
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **options: blocks.append(type(self).__name__)
    )
    flows = {
        "sd35-large": ["JointTransformerBlock"] * 2,
        "flux-dev": ["FluxTransformerBlock", *["FluxSingleTransformerBlock"] * 2],
    }
    for name in ("dit", "sdxl", "if", "adm-256", *flows):
        blocks.clear(), whole.clear()
        module = random_module(name, device="cpu", tiny=True)
        profile_named("fast", compile=True).prepare(module, "fp32", "cpu")
        # The toy SDXL: one transformer of two blocks downwards, one in the middle, two upwards.
        expected = flows.get(name, ["BasicTransformerBlock"] * {"dit": 2, "sdxl": 8}.get(name, 0))
        assert blocks == expected and whole == ([] if expected else [module])


def test_the_switches_of_autocast_are_restored_even_after_an_error():
    before = torch.is_autocast_enabled("cpu")
    with pytest.raises(RuntimeError), profile_named("reference").precision_of("cpu", "fp16-torso"):
        assert torch.is_autocast_enabled("cpu")
        raise RuntimeError
    assert torch.is_autocast_enabled("cpu") == before


def test_tf32_is_as_the_last_network_on_a_gpu_needs_it():
    for name, allowed in (("exact", False), ("reference", True), ("fast", True), ("exact", False)):
        with profile_named(name).precision_of("cuda", "fp32"):
            assert torch.backends.cuda.matmul.allow_tf32 is allowed
            assert torch.backends.cudnn.allow_tf32 is allowed
        with profile_named("reference").precision_of("cpu", "fp32"):  # turns nothing
            assert torch.backends.cuda.matmul.allow_tf32 is allowed
        assert torch.get_float32_matmul_precision() == ("high" if allowed else "highest")


def test_the_plain_attention_formula_can_be_chosen():
    profile = Profile("exact", dtype="fp32", tf32=False, channels_last=False, attention="math")
    with profile.precision_of("cpu", "fp32"):
        assert torch.backends.cuda.math_sdp_enabled() and not torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()


def test_unknown_names_say_what_there_is():
    with pytest.raises(UsageError, match=r"unknown profile 'fastest': did you mean fast\?"):
        profile_named("fastest")
    with pytest.raises(UsageError, match=r"unknown precision 'fp8'"):
        profile_named("reference").weights_dtype("fp8")
    with pytest.raises(UsageError, match=r"device='gpu' is no device; use cpu, cuda or cuda:N"):
        usable_device("gpu")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="this machine has no usable GPU; use device='cpu'"):
        usable_device("cuda")


def test_reading_the_names_imports_no_torch():
    code = "import sys, taba_core.models.profile as p; p.profile_named('fast'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
