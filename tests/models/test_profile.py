"""Profiles change precision and layout, restore what they switched, and never the meaning of the output."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from taba_core.errors import UsageError, WorkError
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
        ("fast", "fp32", torch.float32, torch.bfloat16),
        ("fast", "fp16", torch.float32, torch.bfloat16),
    ],
)
def test_reference_has_the_cards_precision_and_the_others_their_own(name, precision, weights, autocast):
    profile = profile_named(name)
    assert profile.weights_dtype(precision) == weights
    assert profile.autocast_dtype(precision) == autocast


def test_exact_gives_the_plain_networks_numbers_and_fast_those_of_bfloat16():
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = tiny_module().double()(x.double()).detach().float()

    def result(name):
        profile = profile_named(name)
        module = profile.prepare(tiny_module(), "fp32", "cpu")
        layout = torch.channels_last if profile.channels_last else torch.contiguous_format
        with torch.no_grad(), profile.precision_of("cpu", "fp32"):
            return module(x.contiguous(memory_format=layout)).float()

    torch.testing.assert_close(result("exact"), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(result("reference"), expected, rtol=0, atol=1e-6)
    # bfloat16 keeps 8 bits: relative rounding 2^-9 = 2e-3 a product, values of order 1.
    error = (result("fast") - expected).abs().max()
    assert 1e-4 < error < 2e-2


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
    monkeypatch.setattr(torch, "compile", lambda module: compiled.append(module) or module)
    for name in ("reference", "exact", "fast"):
        profile_named(name).prepare(tiny_module(), "fp32", "cpu")
    assert not compiled
    assert profile_named("fast", compile=True).prepare(tiny_module(), "fp32", "cpu") is compiled[0]


def test_switches_are_restored_even_after_an_error():
    before = torch.is_autocast_enabled("cpu")
    with pytest.raises(RuntimeError), profile_named("fast").precision_of("cpu", "fp32"):
        assert torch.is_autocast_enabled("cpu")
        raise RuntimeError
    assert torch.is_autocast_enabled("cpu") == before


def test_tf32_is_on_only_inside_a_profile_that_allows_it():
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [s.fp32_precision for s in switches]
    for name, inside in (("exact", "ieee"), ("reference", "tf32")):
        with profile_named(name).precision_of("cuda", "fp32"):
            assert [s.fp32_precision for s in switches] == [inside, inside]
        assert [s.fp32_precision for s in switches] == before


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
