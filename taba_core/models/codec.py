"""Codecs: between the space a latent diffusion model works in and images.

A codec (protocol: `network.Codec`) is an autoencoder beside the denoiser: the VQ one of LDM, the KL one of DiT and
Stable Diffusion. It computes in its own precision and takes and returns float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from taba_core import rng
from taba_core.errors import UsageError, WorkError, unknown_name
from taba_core.models.codec_config import enlargement, latent_channels, latent_statistics
from taba_core.models.component import load_component
from taba_core.models.profile import Profile

# Axes: B samples in a batch, C latent channels, h x w latent grid, H x W pixels, H = factor * h.

EncodeMode = Literal["mean", "sample"]
POSTERIOR_STREAM = "codec-posterior"  # of taba_core.rng: the noise of encode(mode="sample")
# Autoencoders need far more memory an image than denoisers; this is two images of 512 x 512.
PIXELS_AT_ONCE = 8 * 256 * 256


class _Decoder:
    """What both autoencoders share: latents brought to the decoder's scale and decoded, a few at a time.

    Args:
      vae: a diffusers autoencoder on its device, in its precision.
      scaling: latent = scaling * (encoder output - mean) / std.
      profile: numerical profile of the calls; None leaves torch's settings as they are.
      shift: mean of every channel of an autoencoder that states none of its own.

    mean and std are the autoencoder's own `latents_mean` and `latents_std` of each channel; `shift` and 1 if it has
    none.
    """

    def __init__(
        self, vae: Any, scaling: float, profile: Profile | None = None, *, shift: float = 0.0
    ) -> None:
        self.vae = vae.eval().requires_grad_(False)
        self.scaling = _positive(scaling)
        self.profile = profile
        self.factor = enlargement(vae.config)
        self.channels = latent_channels(vae.config)
        self._statistics = latent_statistics(vae.config) or ([shift], [1.0])

    def decode(self, x_0: Tensor) -> Tensor:
        """Images of latents, (B, C, h, w) to (B, 3, H, W) float32, about [-1, 1], unclamped.

        Raises:
          UsageError: x_0 is no batch of this codec's latents. WorkError: the decoder returned NaN or infinity.
        """
        _check_shape("decode", x_0, self.channels)
        mean, std = self._mean_and_std(x_0)
        stored = x_0 * std / self.scaling + mean
        return _in_pieces(lambda z: self.vae.decode(z).sample, stored, self, "decoder")

    def _scaled(self, stored: Tensor) -> Tensor:
        """Latents of encoder outputs: what `decode` undoes."""
        mean, std = self._mean_and_std(stored)
        return (stored - mean) * self.scaling / std

    def _mean_and_std(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Each (1, C, 1, 1), or of one channel if all have the same."""
        mean, std = (like.new_tensor(values).view(1, -1, 1, 1) for values in self._statistics)
        return mean, std


class VQCodec(_Decoder):
    """The vector-quantised autoencoder of LDM (diffusers VQModel; Rombach et al. 2022, Sec. 3.1).

    decode(x_0) = D(q(x_0 / scaling)), with q the nearest code of the codebook at each position.

    Args:
      vae: a VQModel on its device, in its precision.
      scaling: latent = scaling * encoder output; 1 for LDM, whatever the VQModel's configuration says (its
        class defaults to 0.18215 where the published file is silent; the original model has none).
      profile: numerical profile of the calls; None leaves torch's settings as they are.
    """

    def __init__(self, vae: Any, scaling: float = 1.0, profile: Profile | None = None) -> None:
        super().__init__(vae, scaling, profile)

    def encode(
        self,
        image: Tensor,
        mode: EncodeMode = "mean",
        *,
        sample_ids: Sequence[int] | None = None,
        seed: int = 0,
    ) -> Tensor:
        """Latents of images before quantisation, which `decode` does: (B, 3, H, W) to (B, C, h, w) float32.

        Raises:
          UsageError: mode="sample", because a VQ encoder has no distribution to draw from; or a wrong shape.
        """
        _check_mode(mode)
        if mode == "sample":
            raise UsageError(
                "encode mode='sample': a VQ codec has no posterior to draw from; use mode='mean'."
            )
        _check_shape("encode", image, int(self.vae.config.in_channels), self.factor)
        return self._scaled(_in_pieces(lambda x: self.vae.encode(x).latents, image, self, "encoder"))


class KLCodec(_Decoder):
    """The variational autoencoder of DiT, SD, SDXL, SD3 and FLUX.1    (Rombach et al. 2022, Sec. 3.1).

    It is diffusers' AutoencoderKL.

    decode(x_0) = D(x_0 / scaling + shift); encode(image) = scaling * (mean + std * noise - shift), noise = 0 for
    mode="mean". An autoencoder that states the mean m and the standard deviation s of each channel of its latents has
    decode(x_0) = D(x_0 * s / scaling + m), and encoding is the inverse (diffusers' SDXL pipeline).

    Args:
      vae: an AutoencoderKL on its device, in its precision (float32 for SDXL: its decoder overflows in half).
      scaling: factor that gives latents unit variance: 0.18215 for DiT and SD, 0.13025 for SDXL, 1.5305 for SD3,
        0.3611 for FLUX.1.
      profile: numerical profile of the calls; None leaves torch's settings as they are.
      shift: 0.0609 for SD3, 0.1159 for FLUX.1, 0 for the others.
    """

    def encode(
        self,
        image: Tensor,
        mode: EncodeMode = "mean",
        *,
        sample_ids: Sequence[int] | None = None,
        seed: int = 0,
    ) -> Tensor:
        """Latents of images, (B, 3, H, W) in [-1, 1] to (B, C, h, w) float32.

        Args:
          mode: "mean" of the posterior, or a "sample" of it.
          sample_ids: for mode="sample", which samples the rows are; the noise of a row depends on
            (seed, sample id) only.

        Raises:
          UsageError: unknown mode, a wrong shape, or mode="sample" without one sample id a row.
          WorkError: the encoder returned NaN or infinity.
        """
        _check_mode(mode)
        _check_shape("encode", image, int(self.vae.config.in_channels), self.factor)
        moments = _in_pieces(lambda x: self.vae.encode(x).latent_dist.parameters, image, self, "encoder")
        mean, log_variance = moments.chunk(2, dim=1)
        if mode == "mean":
            return self._scaled(mean)
        if sample_ids is None or len(sample_ids) != len(image):
            given = "none" if sample_ids is None else len(sample_ids)
            raise UsageError(
                f"encode mode='sample' needs one sample id for each of {len(image)} images and got {given}; "
                "give sample_ids, or use mode='mean'."
            )
        noise = rng.normal(sample_ids, tuple(mean.shape[1:]), seed=seed, stream=POSTERIOR_STREAM)
        # The limits of the original (and of diffusers): exp stays finite.
        std = torch.exp(0.5 * log_variance.clamp(-30, 20))
        return self._scaled(mean + std * torch.from_numpy(noise).to(mean.device))


def load_vq_codec(
    directory: Path, scaling: float = 1.0, *, device: str, dtype: torch.dtype, profile: Profile | None = None
) -> VQCodec:
    """Codec from the directory of a VQModel. Raises UsageError if it is none."""
    from diffusers import VQModel

    return VQCodec(load_component(VQModel, directory, dtype).to(device), scaling, profile)


def load_kl_codec(
    directory: Path,
    scaling: float,
    *,
    device: str,
    dtype: torch.dtype,
    profile: Profile | None = None,
    shift: float = 0.0,
) -> KLCodec:
    """Codec from the directory of an AutoencoderKL. Raises UsageError if it is none."""
    from diffusers import AutoencoderKL

    return KLCodec(load_component(AutoencoderKL, directory, dtype).to(device), scaling, profile, shift=shift)


@torch.no_grad()
def _in_pieces(
    function: Callable[[Tensor], Tensor],
    batch: Tensor,
    codec: _Decoder,
    what: Literal["encoder", "decoder"],
) -> Tensor:
    """function(batch) in float32, a few images at a time, computed where and how the autoencoder is."""
    parameter = next(codec.vae.parameters())
    side = codec.factor if what == "decoder" else 1
    pixels = batch.shape[2] * batch.shape[3] * side**2
    pieces = batch.to(parameter.device, parameter.dtype).split(max(PIXELS_AT_ONCE // pixels, 1))
    context = codec.profile.precision_of(str(parameter.device), "fp32") if codec.profile else nullcontext()
    with context:
        out = torch.cat([function(piece).float() for piece in pieces])
    if not torch.isfinite(out).all():
        raise WorkError(
            f"the {what} of {type(codec.vae).__name__} returned NaN or infinity in {parameter.dtype}; its input "
            f"spans {batch.min():.3g} to {batch.max():.3g}. Use profile=exact, or look for damaged weights."
        )
    return out


def _positive(scaling: float) -> float:
    if not scaling > 0:
        raise UsageError(f"scaling={scaling} of a codec must be positive; 1 leaves latents as they are.")
    return float(scaling)


def _check_mode(mode: str) -> None:
    if mode not in get_args(EncodeMode):
        raise unknown_name("encode mode", mode, get_args(EncodeMode))


def _check_shape(what: str, batch: Tensor, channels: int, multiple: int = 1) -> None:
    shape = tuple(batch.shape)
    if len(shape) != 4 or shape[1] != channels or shape[2] % multiple or shape[3] % multiple:
        sides = f", sides a multiple of {multiple}" if multiple > 1 else ""
        raise UsageError(f"{what} takes (batch, {channels}, height, width){sides}; got {shape}.")
