"""Group norms that compile to vector instructions: the same numbers as torch's in float64, only where compiled."""

import pytest
import torch
from torch import nn

from taba_core.models.compiled import CompiledNetwork
from taba_core.models.profile import profile_named
from taba_core.models.vectorised_norms import VectorisedGroupNorm, vectorise_norms


def norm_of(groups, channels):
    norm = nn.GroupNorm(groups, channels)
    generator = torch.Generator().manual_seed(groups)
    for parameter in norm.parameters():
        parameter.data.normal_(generator=generator)
    return norm.requires_grad_(False)


def states(count, channels, size, mean=0.0):
    """Channel-last states whose channels have spreads between .1 and 2."""
    generator = torch.Generator().manual_seed(channels)
    spread = torch.linspace(0.1, 2, channels).view(-1, 1, 1)
    x = torch.randn(count, channels, size, size, generator=generator) * spread + mean
    return x.to(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("groups", "channels", "size", "mean"),
    [(4, 16, 8, 0), (5, 10, 7, 0), (8, 8, 4, 0), (1, 12, 5, 0), (4, 16, 8, 500)],
)
def test_a_compiled_norm_is_the_norm(groups, channels, size, mean):
    norm, x = norm_of(groups, channels), states(3, channels, size, mean)
    exact = nn.functional.group_norm(x.double(), groups, norm.weight.double(), norm.bias.double(), norm.eps)
    before = norm(x)
    assert vectorise_norms(norm) is norm and type(norm) is VectorisedGroupNorm
    with torch.no_grad():
        found = torch.compile(norm, fullgraph=True, dynamic=False, backend="aot_eager")(x)
        assert torch.equal(norm(x), before)  # not compiled: torch's own
    assert found.is_contiguous(memory_format=torch.channels_last)
    # Rounding the states themselves, whose spread is about 1, is the error that a mean of 500 leaves.
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5 if not mean else 1e-3)


def test_a_constant_state_is_the_bias_and_no_nan():
    norm = vectorise_norms(norm_of(2, 4))
    compiled = torch.compile(norm, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        found = compiled(torch.full((1, 4, 3, 3), 7.0))
    torch.testing.assert_close(found, norm.bias.view(1, 4, 1, 1).expand(1, 4, 3, 3), rtol=0, atol=1e-5)


def test_states_that_are_no_images_or_not_float32_go_through_torchs_norm():
    norm = vectorise_norms(norm_of(2, 4))
    compiled = torch.compile(norm, fullgraph=True, backend="eager")
    line = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0))
    image = line.view(2, 4, 3, 3)
    with torch.no_grad():
        assert torch.equal(compiled(line), norm(line))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(compiled(image), norm(image))
    half = vectorise_norms(norm_of(2, 4).half())
    assert type(half) is nn.GroupNorm


def test_networks_compiled_whole_on_cpus_have_them_and_their_checkpoints_do_not():
    def network():
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 3, 3))

    names = list(network().state_dict())
    prepared = profile_named("exact", compile=True).prepare(network(), "fp32", "cpu")
    assert type(prepared.module[1]) is VectorisedGroupNorm and list(prepared.module.state_dict()) == names
    assert type(profile_named("exact").prepare(network(), "fp32", "cpu")[1]) is nn.GroupNorm
    on_a_gpu = CompiledNetwork(network(), torch.device("cuda"))
    assert type(on_a_gpu.module[1]) is nn.GroupNorm
