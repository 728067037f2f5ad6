"""Losses on predicted noise: closed-form gradients against autograd of the published codes, worked numbers."""

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d
from torch.testing import assert_close

from taba_core.diffusion.noise_loss import (
    autocorrelation,
    draw_shifts,
    effective_strength,
    gaussian_divergence,
    patch_divergence,
    pyramid_heights,
    with_white_octaves,
)


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def shifts_for(eps, seed=0, lowest=0):
    shape = tuple(eps.shape[1:])
    return draw_shifts(range(len(eps)), shape, draws=1, lowest=lowest, seed=seed, stream="test")[:, 0]


def published_autocorrelation(image, shifts):
    """pix2pix-zero's and diffusers' loop over channels and levels, image (C, H, W), shifts (C, J)."""
    total = torch.zeros(())
    for channel, amounts in zip(image, shifts.tolist(), strict=True):
        noise = channel[None, None]
        for k in amounts:
            total = total + (noise * torch.roll(noise, k, 2)).mean() ** 2
            total = total + (noise * torch.roll(noise, k, 3)).mean() ** 2
            noise = avg_pool2d(noise, 2)
    return total


def published_gaussian(image, _=None):
    return image.var() + image.mean() ** 2 - 1 - torch.log(image.var() + 1e-7)


def published_patches(image, reference):
    """ReNoise's patchify_latents_kl_divergence on four channels."""

    def patches(x):
        x = x[None].unfold(1, 4, 4).unfold(2, 4, 4).unfold(3, 4, 4)
        return x.contiguous().view(-1, 4, 16)

    x, y = patches(image), patches(reference)
    (m, s), (n, r) = [(z.mean(-1), z.var(-1)) for z in (x, y)]
    kl = torch.log((r + 1e-6) / (s + 1e-6)) + (s + (m - n) ** 2) / (r + 1e-6) - 1
    return kl.abs().sum()


CASES = {
    "autocorrelation": (autocorrelation, published_autocorrelation, shifts_for),
    "gaussian": (lambda eps, _: gaussian_divergence(eps), published_gaussian, lambda eps: eps),
    "patch": (patch_divergence, published_patches, lambda eps: normal(*eps.shape, seed=9)),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_those_of_autograd_through_the_published_code(name):  # oracle
    ours, published, extra_of = CASES[name]
    eps = 1.3 * normal(3, 4, 32, 32, seed=1) + 0.2
    extra = extra_of(eps)
    loss, gradient = ours(eps, extra)
    for i in range(3):
        image = eps[i].clone().requires_grad_()
        expected = published(image, extra[i])
        expected.backward()
        assert_close(loss[i], expected.detach(), rtol=1e-12, atol=1e-14)
        assert_close(gradient[i], image.grad, rtol=1e-9, atol=1e-15)


def test_the_gradient_of_the_autocorrelation_is_the_difference_quotient():
    eps, step = normal(1, 1, 16, 16), 1e-6
    shifts = shifts_for(eps)
    _, gradient = autocorrelation(eps, shifts)
    for row, column in [(0, 0), (3, 7), (15, 15)]:
        shifted = eps.repeat(2, 1, 1, 1)
        shifted[:, 0, row, column] += torch.tensor([step, -step])
        high, low = autocorrelation(shifted, shifts.expand(2, -1, -1))[0]
        assert (high - low).item() / (2 * step) == pytest.approx(gradient[0, 0, row, column].item(), rel=1e-6)


def test_a_constant_image_by_hand():
    # Every roll of 0.5 is 0.5: mean product 0.25 on both axes of the one 8x8 level, L = 2 * 0.25^2 = 0.125;
    # dL/dn = 2 axes * (2 * 0.25 / 64) * (0.5 + 0.5) = 1/64.
    loss, gradient = autocorrelation(torch.full((1, 1, 8, 8), 0.5), torch.tensor([[[3]]]))
    assert loss.item() == pytest.approx(0.125)
    assert_close(gradient, torch.full((1, 1, 8, 8), 1 / 64))


def test_two_numbers_have_their_divergence_by_hand():
    # eps = (0, 2): mean 1, unbiased variance 2: L = 2 + 1 - 1 - log 2; d/deps_1 = (1 - 1/2) * 2 * (0 - 1)/1 + 2 * 1/2
    # = 0, d/deps_2 = 1 + 1 = 2.
    loss, gradient = gaussian_divergence(torch.tensor([[[[0.0, 2.0]]]]))
    assert loss.item() == pytest.approx(2 - np.log(2), abs=1e-6)
    assert_close(gradient.flatten(), torch.tensor([0.0, 2.0], dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_is_its_items(name, dtype):  # T8
    ours, _, extra_of = CASES[name]
    eps = normal(3, 4, 18, 18, seed=2).to(dtype)
    extra = extra_of(eps)
    loss, gradient = ours(eps, extra)
    for i in range(3):
        one_loss, one_gradient = ours(eps[i : i + 1], extra[i : i + 1])
        assert torch.equal(one_loss[0], loss[i])
        assert torch.equal(one_gradient[0], gradient[i])


def test_a_prediction_equal_to_its_reference_is_left_alone():
    eps = normal(2, 3, 8, 8)
    loss, gradient = patch_divergence(eps, eps.clone())
    # The published formula guards the denominator only: g/s = 1e-6 for each of the 12 patches of variance about 1.
    assert loss.max() < 12 * 1e-6 * 5
    assert gradient.abs().max() < 1e-12


def test_levels_of_the_pyramid():
    assert pyramid_heights(64) == [64, 32, 16, 8]
    assert pyramid_heights(128) == [128, 64, 32, 16, 8]
    assert pyramid_heights(8) == [8]


@pytest.mark.parametrize("lowest", [0, 1])
def test_shifts_are_uniform_below_half_the_height_and_belong_to_a_sample(lowest):
    draw = dict(draws=200, lowest=lowest, seed=3, stream="rolls/7")
    shifts = draw_shifts([4, 9], (3, 32, 32), **draw)
    assert shifts.shape == (2, 200, 3, 3)
    for level, height in enumerate([32, 16, 8]):
        assert sorted(set(shifts[..., level].flatten().tolist())) == list(range(lowest, height // 2))
    assert torch.equal(draw_shifts([9], (3, 32, 32), **draw)[0], shifts[1])
    assert not torch.equal(draw_shifts([9], (3, 32, 32), **draw | {"stream": "rolls/8"})[0], shifts[1])


def test_the_smallest_image_still_has_a_shift():
    assert set(draw_shifts([0], (1, 2, 2), draws=50, lowest=1, seed=0, stream="s").flatten().tolist()) == {1}


def test_effective_strength_is_that_of_four_by_64_by_64():
    assert effective_strength(20.0, (4, 64, 64)) == 20.0
    assert effective_strength(20.0, (4, 128, 128)) == 80.0


def octave_powers(noise):
    """Mean power of (1/4, 1/2 and above], (1/8, 1/4], (1/16, 1/8] cycles a pixel over channels of (B, C, H, W)."""
    power = np.abs(np.fft.fft2(noise.numpy(), norm="ortho")) ** 2
    f = np.hypot(np.fft.fftfreq(noise.shape[2])[:, None], np.fft.fftfreq(noise.shape[3])[None])
    masks = [f > 1 / 4, (f > 1 / 8) & (f <= 1 / 4), (f > 1 / 16) & (f <= 1 / 8)]
    return np.stack([power[:, :, mask].mean((1, 2)) for mask in masks], 1)


class TestWhiteOctaves:
    @pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
    def test_what_is_left_of_the_log_power_of_an_octave(self, strength):
        noise = torch.nn.functional.avg_pool2d(normal(2, 3, 18, 18), 3, stride=1) * 0.3
        before, after = octave_powers(noise), octave_powers(with_white_octaves(noise, strength=strength))
        assert before.max() < 0.5
        np.testing.assert_allclose(np.log(after), (1 - strength) * np.log(before), rtol=1e-9, atol=1e-9)

    def test_one_wave_by_hand(self):
        # cos(2 pi 2 y / 8) on 8x8 holds 2 modes of power (8/2)^2 = 16 among the modes of (1/8, 1/4]: (0, +-2),
        # (+-1, +-1), (+-2, 0) have radius <= 1/4 and > 1/8: 8 modes. Mean power 32/8 = 4, so the wave is
        # halved; its mean of 5 stays.
        wave = (
            torch.cos(torch.arange(8.0, dtype=torch.float64) * torch.pi / 2)
            .view(1, 1, 8, 1)
            .expand(1, 1, 8, 8)
        )
        assert_close(with_white_octaves(wave + 5, floor=1e-20), wave / 2 + 5, rtol=0, atol=1e-12)

    def test_white_noise_stays_and_any_scale_of_it_becomes_it(self):
        noise = normal(4, 4, 64, 64)
        noise = noise - noise.mean((2, 3), keepdim=True)
        assert (with_white_octaves(noise) - noise).square().mean() < 1e-3
        assert_close(with_white_octaves(1e-3 * noise), with_white_octaves(noise), rtol=0, atol=1e-9)

    def test_a_batch_is_its_items_and_float32_stays_float32(self):
        noise = normal(3, 3, 9, 12).float()
        white = with_white_octaves(noise, strength=0.7)
        assert white.dtype == torch.float32
        assert torch.equal(with_white_octaves(noise[1:2], strength=0.7)[0], white[1])
