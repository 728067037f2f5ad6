"""Codecs: scaling, posterior, quantisation, precision, refusals."""

from __future__ import annotations

import pytest
import torch
from tiny_checkpoints import fixed_weights, tiny_kl, tiny_vq
from torch.testing import assert_close

from taba_core.errors import UsageError, WorkError
from taba_core.models.codec import KLCodec, VQCodec, load_kl_codec, load_vq_codec
from taba_core.models.network import Codec
from taba_core.models.profile import profile_named


def normal(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def vq():
    with fixed_weights():
        return tiny_vq().eval()


@pytest.fixture(scope="module")
def kl():
    with fixed_weights():
        return tiny_kl().eval()


def test_both_are_codecs_of_factor_four(vq, kl):
    for codec, channels in ((VQCodec(vq), 3), (KLCodec(kl, 0.18215), 4)):
        assert isinstance(codec, Codec) and codec.factor == 4
        image = codec.decode(normal(2, channels, 8, 8))
        assert image.shape == (2, 3, 32, 32) and image.dtype == torch.float32
        assert codec.encode(image).shape == (2, channels, 8, 8)


def test_ldm_latents_enter_the_decoder_unscaled(vq):
    # The class default 0.18215 of a silent file must not be used: the original model has no factor.
    x_0 = normal(2, 3, 8, 8)
    with torch.no_grad():
        expected = vq.decode(x_0).sample
        divided = vq.decode(x_0 / 0.18215).sample
    assert_close(VQCodec(vq).decode(x_0), expected)
    assert (expected - divided).abs().max() > 1e-3
    assert_close(VQCodec(vq, 0.18215).decode(x_0), divided)


def test_vq_decoding_quantises_first(vq):
    # Latents nearest to the same codes give the same image.
    codes = vq.quantize.embedding.weight.detach()
    x_0 = codes[torch.arange(64) % len(codes)].T.reshape(1, 3, 8, 8)
    gap = torch.pdist(codes).min()
    codec = VQCodec(vq)
    assert_close(codec.decode(x_0 + 0.2 * gap / 3**0.5), codec.decode(x_0), atol=1e-6, rtol=0)


def test_kl_scaling_divides_before_decoding_and_multiplies_after_encoding(kl):
    codec, image = KLCodec(kl, 0.18215), normal(2, 3, 32, 32)
    with torch.no_grad():
        assert_close(codec.encode(image), 0.18215 * kl.encode(image).latent_dist.mean)
        assert_close(codec.decode(normal(2, 4, 8, 8)), kl.decode(normal(2, 4, 8, 8) / 0.18215).sample)


def test_a_posterior_sample_is_mean_plus_std_times_the_samples_own_noise(kl):
    codec, image = KLCodec(kl, 2.0), normal(3, 3, 32, 32)
    drawn = codec.encode(image, "sample", sample_ids=[5, 9, 7], seed=4)
    assert_close(codec.encode(image[1:2], "sample", sample_ids=[9], seed=4), drawn[1:2], atol=2e-6, rtol=1e-5)
    with torch.no_grad():
        posterior = kl.encode(image).latent_dist
    noise = (drawn / 2.0 - posterior.mean) / posterior.std
    # 3 * 256 standard normal numbers: mean 0 +- 0.036, std 1 +- 0.026.
    assert abs(noise.mean()) < 0.15 and abs(noise.std() - 1) < 0.12
    assert (codec.encode(image, "sample", sample_ids=[5, 9, 7], seed=3) != drawn).float().mean() > 0.99


def test_more_images_than_fit_at_once_come_back_in_order(kl, monkeypatch):
    codec, x_0, seen = KLCodec(kl, 0.5), normal(11, 4, 8, 8), []
    monkeypatch.setattr("taba_core.models.codec.PIXELS_AT_ONCE", 4 * 32 * 32)
    decode = kl.decode
    monkeypatch.setattr(kl, "decode", lambda z: (seen.append(len(z)), decode(z))[1])
    whole = codec.decode(x_0)
    assert seen == [4, 4, 3]
    for row in (0, 4, 10):
        assert_close(codec.decode(x_0[row : row + 1]), whole[row : row + 1], atol=1e-5, rtol=1e-4)


def test_half_precision_stays_inside(tmp_path, kl, vq):
    kl.save_pretrained(tmp_path / "vae")
    vq.save_pretrained(tmp_path / "vqvae")
    half = load_kl_codec(tmp_path / "vae", 0.18215, device="cpu", dtype=torch.float16)
    full = load_kl_codec(tmp_path / "vae", 0.18215, device="cpu", dtype=torch.float32)
    x_0 = normal(2, 4, 8, 8) * 0.1
    assert half.decode(x_0).dtype == half.encode(normal(2, 3, 32, 32)).dtype == torch.float32
    error = (half.decode(x_0) - full.decode(x_0)).abs().max()
    assert 0 < error < 0.03
    assert load_vq_codec(tmp_path / "vqvae", device="cpu", dtype=torch.float32).scaling == 1.0


def test_an_autoencoder_computes_under_fast_what_it_computes_under_reference(kl):
    """A run decodes each image once and asks its network a hundred times: 16 bits there gain nothing."""
    x_0 = normal(2, 4, 8, 8) * 0.1
    reference, fast = (
        KLCodec(kl, 0.18215, profile_named(name)).decode(x_0) for name in ("reference", "fast")
    )
    assert fast.dtype == torch.float32 and torch.equal(fast, reference)


def test_an_overflowing_decoder_says_so(kl):
    with pytest.raises(
        WorkError, match=r"the decoder of AutoencoderKL returned NaN or infinity in torch.float32"
    ):
        KLCodec(kl, 1.0).decode(torch.full((1, 4, 8, 8), 3e38))


def test_impossible_requests_are_refused(vq, kl):
    image = normal(2, 3, 32, 32)
    with pytest.raises(UsageError, match="a VQ codec has no posterior to draw from; use mode='mean'"):
        VQCodec(vq).encode(image, "sample", sample_ids=[0, 1])
    with pytest.raises(UsageError, match="one sample id for each of 2 images and got none"):
        KLCodec(kl, 1.0).encode(image, "sample")
    with pytest.raises(UsageError, match="unknown encode mode 'mode'"):
        KLCodec(kl, 1.0).encode(image, "mode")
    with pytest.raises(UsageError, match=r"decode takes \(batch, 4, height, width\); got \(2, 3, 32, 32\)"):
        KLCodec(kl, 1.0).decode(image)
    with pytest.raises(UsageError, match="sides a multiple of 4; got"):
        KLCodec(kl, 1.0).encode(normal(1, 3, 30, 32))
    with pytest.raises(UsageError, match="scaling=0 of a codec must be positive"):
        KLCodec(kl, 0)


def test_a_directory_that_is_no_codec_is_refused(tmp_path, kl):
    with pytest.raises(UsageError, match=r"holds no AutoencoderKL: config.json is missing"):
        load_kl_codec(tmp_path / "nothing", 1.0, device="cpu", dtype=torch.float32)
    kl.save_pretrained(tmp_path / "vae")
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(UsageError, match=r"safetensors is a text file, not a safetensors file\. Download"):
        load_kl_codec(tmp_path / "vae", 1.0, device="cpu", dtype=torch.float32)
