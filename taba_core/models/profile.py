"""Numerical profiles: in which precision and memory layout a network runs.

`reference` is the paper's precision for the model (its card), `exact` float32 without TF32, `fast` bfloat16
autocast. The profile's name is a model option, hence part of every key. No torch at import: planning reads
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
Precision = Literal["card", "fp32", "bf16-autocast"]
CardPrecision = Literal["fp32", "fp16", "fp16-torso"]


@dataclass(frozen=True)
class Profile:
    """How a network is evaluated. The state outside it stays float32 whatever the profile.

    Attributes:
      name: reference, exact or fast.
      dtype: "card" (the precision the card states), "fp32", or "bf16-autocast" (float32 weights).
      tf32: whether an NVIDIA GPU may round the inputs of float32 products to TF32.
      channels_last: whether states and convolutions lie channel-last in memory (same numbers up to rounding).
      compile: whether the network goes through torch.compile.
      attention: "fused" (scaled_dot_product_attention chooses a kernel) or "math" (its plain formula).
    """

    name: ProfileName
    dtype: Precision
    tf32: bool
    channels_last: bool
    compile: bool = False
    attention: Literal["fused", "math"] = "fused"

    def weights_dtype(self, card_precision: str) -> torch.dtype:
        """Type of the network's weights. Raises UsageError for a card precision that does not exist."""
        import torch

        if card_precision not in get_args(CardPrecision):
            raise unknown_name("precision", card_precision, get_args(CardPrecision))
        return torch.float16 if self.dtype == "card" and card_precision == "fp16" else torch.float32

    def autocast_dtype(self, card_precision: str) -> torch.dtype | None:
        """Type of the products inside the network where it differs from the weights', else None.

        A half-precision torso (ADM-256) is float16 autocast: its norms, softmax and embeddings stay float32.
        """
        import torch

        if self.dtype == "bf16-autocast":
            return torch.bfloat16
        return torch.float16 if self.dtype == "card" and card_precision == "fp16-torso" else None

    def prepare(self, module: Any, card_precision: str, device: str) -> Any:
        """A torch module in evaluation mode, without gradients, moved, cast and laid out as the profile says.

        Raises:
          UsageError: a device this machine does not have. WorkError: weights that are NaN or infinite, as stored
            or after the cast.
        """
        import torch

        module = module.requires_grad_(False).eval().to(usable_device(device))
        dtype = self.weights_dtype(card_precision)
        # A loader that cast already may have kept some layers in float32 on purpose: leave those.
        if not any(parameter.dtype == dtype for parameter in module.parameters()):
            module = module.to(dtype=dtype)
        _check_finite(module)
        if self.channels_last:
            module = module.to(memory_format=torch.channels_last)
        return torch.compile(module) if self.compile else module

    @contextlib.contextmanager
    def precision_of(self, device: str, card_precision: str) -> Iterator[None]:
        """The context a network is called in: TF32 switch, attention kernel, autocast; restored afterwards."""
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
        Profile("fast", dtype="bf16-autocast", tf32=True, channels_last=True),
    )
}


# The switches belong to the process: another thread may not restore them under a running network.
_TF32_LOCK = threading.RLock()


def profile_named(name: str, *, compile: bool = False) -> Profile:
    """A profile by name, with torch.compile if asked. Raises UsageError for an unknown one."""
    if name not in _PROFILES:
        raise unknown_name("profile", name, _PROFILES)
    return replace(_PROFILES[name], compile=compile)


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


@contextlib.contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    import torch

    switches = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    with _TF32_LOCK:
        before = [s.fp32_precision for s in switches]
        try:
            for switch in switches:
                switch.fp32_precision = "tf32" if allowed else "ieee"
            yield
        finally:
            for switch, value in zip(switches, before, strict=True):
                switch.fp32_precision = value
