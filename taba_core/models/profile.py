"""Numerical profiles: in which precision and memory layout a network runs.

`reference` is the paper's precision for the model (its card), `exact` float32 without TF32, `fast` 16-bit weights
with float32 norms. The profile's name is a model option, hence part of every key. No torch at import: planning reads
the names.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from taba_core.errors import UsageError, WorkError, unknown_name

if TYPE_CHECKING:
    import torch

ProfileName = Literal["reference", "exact", "fast"]
Precision = Literal["card", "fp32", "16-bit"]
CardPrecision = Literal["fp32", "fp16", "bf16", "fp16-torso"]

# What keys call a profile whose arithmetic has changed since the first stores: numbers of both are not one result.
KEY_NAMES: dict[str, str] = {"fast": "fast/2"}
# What a network on a GPU has unless another is asked for: the paper's. On a CPU it is `exact`.
GPU_PROFILE: ProfileName = "reference"


@dataclass(frozen=True)
class Profile:
    """How a network is evaluated. The state outside it stays float32 whatever the profile.

    Attributes:
      name: reference, exact or fast.
      dtype: "card" (the precision the card states), "fp32", or "16-bit": float16 where the card states a half
        precision, which its checkpoint is known to bear, else bfloat16, whose range is that of float32.
      tf32: whether an NVIDIA GPU may round the inputs of float32 products to TF32.
      channels_last: whether states and convolutions lie channel-last in memory (same numbers up to rounding); None =
        the convolutions where that pays, see `channels_last_pays`.
      compile: whether the network goes through torch.compile.
      attention: "fused" (scaled_dot_product_attention chooses a kernel) or "math" (its plain formula).
    """

    name: ProfileName
    dtype: Precision
    tf32: bool
    channels_last: bool | None
    compile: bool = False
    attention: Literal["fused", "math"] = "fused"

    def weights_dtype(self, card_precision: str) -> torch.dtype:
        """Type of the network's weights. Raises UsageError for a card precision that does not exist."""
        import torch

        if self.dtype == "16-bit":
            half = _checked(card_precision) in ("fp16", "fp16-torso")
            return torch.float16 if half else torch.bfloat16
        return self.loading_dtype(card_precision)

    def loading_dtype(self, card_precision: str) -> torch.dtype:
        """Type that files are read in, and that autoencoders and text encoders keep: a profile of 16 bits means the
        network, whose evaluations are what takes time. Raises UsageError as `weights_dtype`."""
        import torch

        halves = {"fp16": torch.float16, "bf16": torch.bfloat16}
        stated = halves.get(_checked(card_precision), torch.float32)
        return torch.float32 if self.dtype == "fp32" else stated

    def autocast_dtype(self, card_precision: str) -> torch.dtype | None:
        """Type of the products inside the network where it differs from the weights', else None.

        A half-precision torso (ADM-256) is float16 autocast: its norms, softmax and embeddings stay float32.
        """
        import torch

        return torch.float16 if self.dtype == "card" and card_precision == "fp16-torso" else None

    def prepare(self, module: Any, card_precision: str, device: str) -> Any:
        """A torch module in evaluation mode, without gradients, moved, cast and laid out as the profile says.

        Raises:
          UsageError: a device this machine does not have. WorkError: weights that are NaN or infinite, as stored
            or after the cast.
        """
        import torch

        place = usable_device(device)
        module = module.requires_grad_(False).eval().to(place)
        dtype = self.weights_dtype(card_precision)
        if self.dtype == "16-bit":
            from taba_core.models.float32_norms import cast_but_norms

            module = cast_but_norms(module, dtype)
        # A loader that cast already may have kept some layers in float32 on purpose: leave those.
        elif not any(parameter.dtype == dtype for parameter in module.parameters()):
            module = module.to(dtype=dtype)
        _check_finite(module)
        last = self.channels_last
        if last is None:
            last = channels_last_pays(module, place.type, compiled=self.compile)
        if last:
            module = module.to(memory_format=torch.channels_last)
        if not self.compile:
            return module
        from taba_core.models.compiled import CompiledNetwork

        return CompiledNetwork(module, place)

    @contextlib.contextmanager
    def precision_of(self, device: str, card_precision: str) -> Iterator[None]:
        """The context a network is called in: attention kernel and autocast, restored afterwards, and the TF32 switch
        of the process, which stays as this profile needs it."""
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        kind = torch.device(device).type
        autocast = self.autocast_dtype(card_precision)
        with contextlib.ExitStack() as stack:
            if kind == "cuda":
                stack.enter_context(_tf32(self.tf32))
            if self.attention == "math":
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if autocast is not None:
                stack.enter_context(torch.autocast(kind, dtype=autocast))
            yield


_PROFILES: dict[str, Profile] = {
    p.name: p
    for p in (
        # The reference scripts all enable TF32 and leave tensors channel-first.
        Profile("reference", dtype="card", tf32=True, channels_last=False),
        Profile("exact", dtype="fp32", tf32=False, channels_last=True),
        Profile("fast", dtype="16-bit", tf32=True, channels_last=None),
    )
}


# The switches belong to the process: another thread may not turn them under a running network.
_TF32_LOCK = threading.RLock()

# Narrower networks lose more by what converts between layouts than their convolutions win.
_NARROW = 64


def profile_named(name: str, *, compile: bool = False) -> Profile:
    """A profile by name, with torch.compile if asked. Raises UsageError for an unknown one."""
    if name not in _PROFILES:
        raise unknown_name("profile", name, _PROFILES)
    return replace(_PROFILES[name], compile=compile)


def profile_in_key(text: str) -> str:
    """The name of a profile from what keys call it."""
    return next((name for name, in_key in KEY_NAMES.items() if in_key == text), text)


def usable_device(device: str) -> torch.device:
    """The torch device of that name. Raises UsageError for a malformed name or one this machine lacks."""
    import torch

    try:
        place = torch.device(device)
    except RuntimeError:
        raise UsageError(f"device={device!r} is no device; use cpu, cuda or cuda:N.") from None
    if place.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device={device!r}: this machine has no usable GPU; use device='cpu'.")
    return place


def _check_finite(module: Any) -> None:
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point() and not bool(parameter.isfinite().all()):
            raise WorkError(
                f"weights of {type(module).__name__}: '{name}' holds NaN or infinity in {parameter.dtype}. "
                "Fetch them again; if it happens in half precision only, use profile=exact."
            )


def channels_last_pays(module: Any, device: str, *, compiled: bool) -> bool:
    """Whether a 16-bit network should lie channel-last: U-Nets on a CPU, and wide ones compiled whole on a GPU.

    A transformer's products are of matrices, whatever its layout. Tensor cores read channels last, but where
    convolutions and norms are not compiled together torch's group norm turns every state back: ADM-256 with 64 images
    took 1.12 s so and 0.74 s channel-first on an H200. On a CPU without 16-bit instructions convolutions are three to
    six times as fast channel-last, and with them a tenth slower.
    """
    import torch

    from taba_core.models.compiled import has_repeated_blocks

    kernels = [part for part in module.modules() if isinstance(part, torch.nn.Conv2d)]
    if len(kernels) < 2:
        return False
    if device != "cuda":
        return True
    wide = max(part.out_channels for part in kernels) >= _NARROW
    return compiled and wide and not has_repeated_blocks(module)


def _checked(card_precision: str) -> str:
    if card_precision not in get_args(CardPrecision):
        raise unknown_name("precision", card_precision, get_args(CardPrecision))
    return card_precision


@contextlib.contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    import torch

    # Through the older switches alone: beside a switch of the newer kind (`fp32_precision`) torch 2.13 refuses to say
    # its precision, and inductor asks for it. Only what is on a GPU reads these two.
    with _TF32_LOCK:
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed
        yield
