"""Where a sampler's T timesteps lie on a training schedule of N, or between them on a flow, which is continuous."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from taba_core.errors import UsageError, unknown_name

GridStyle = Literal["diffusers-leading", "diffusers-trailing", "guided", "shifted", "sd3-default"]
FLOW_STYLES: tuple[GridStyle, ...] = (
    "shifted",
    "sd3-default",
)  # levels of a flow's own, between training timesteps


def place_timesteps(
    num_train_timesteps: int, num_inference_steps: int, style: GridStyle, steps_offset: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Training timesteps of the upper and the lower level of steps 1..T, each (T,), ascending.

    A negative lower timestep stands for level 0. Spacings as described at `TimestepGrid.build`.

    Raises:
      UsageError: the schedule has no such grid; the message names one that exists.
    """
    N, T = num_train_timesteps, num_inference_steps
    if style not in get_args(GridStyle):
        raise unknown_name("grid style", style, get_args(GridStyle))
    if not 1 <= T <= N:
        raise UsageError(f"num_inference_steps={T} on a schedule of {N} training timesteps; use 1 to {N}.")
    if steps_offset and style != "diffusers-leading":
        raise UsageError(f"steps_offset={steps_offset} exists for leading grids only; use 0 with '{style}'.")
    if style == "guided":
        return _guided(N, T)
    stride = N // T
    if style == "diffusers-trailing":
        timesteps = np.round(N - np.arange(T)[::-1] * (N / T)).astype(np.int64) - 1
        return timesteps, timesteps - stride
    timesteps = steps_offset + np.arange(T, dtype=np.int64) * stride
    if not 0 <= timesteps[0] <= timesteps[-1] < N:
        outside = timesteps[-1] if steps_offset > 0 else timesteps[0]
        raise UsageError(
            f"num_inference_steps={T} with steps_offset={steps_offset} puts a step at training timestep "
            f"{outside}, outside 0 to {N - 1}. {_leading_way_out(N, T, steps_offset)}"
        )
    return timesteps, timesteps - stride


def _leading_way_out(N: int, T: int, offset: int) -> str:
    fitting = [t for t in range(T - 1, 0, -1) if offset >= 0 and offset + (t - 1) * (N // t) < N]
    return f"Use {fitting[0]} steps, or steps_offset=0." if fitting else "Use steps_offset=0."


def _guided(N: int, T: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    counts = [-(-N // i) for i in range(1, N + 1)]
    if T not in counts:
        below = max(c for c in counts if c < T)
        above = min(c for c in counts if c > T)
        near = sorted((below, above), key=lambda c: (abs(c - T), c))
        raise UsageError(
            f"num_inference_steps={T}: no integer stride divides {N} training timesteps into {T} steps "
            f"(guided spacing). Use {near[0]} or {near[1]}."
        )
    stride = counts.index(T) + 1
    timesteps = np.arange(T, dtype=np.int64) * stride
    return timesteps, timesteps - stride


def flow_sigmas(N: int, T: int, style: GridStyle, shift: float) -> NDArray[np.float64]:
    """s_1..s_T of the upper levels of a flow's steps, (T,), ascending to 1.

    - shifted: s_l = shift(l / T), shift(u) = q u / (1 + (q - 1) u) (FLUX with its dynamic shift q, SiT with q = 1).
    - sd3-default: the shift applied twice, to u from shift(1 / N) to 1 in T equal points (diffusers' `set_timesteps(T)`
      of Stable Diffusion 3, and Stability's own sampler). One step is pure noise to image.

    Args:
      shift: q, above 0.

    Raises:
      UsageError: T is not in 1..N.
    """
    if not 1 <= T <= N:
        raise UsageError(f"num_inference_steps={T} on a schedule of {N} training timesteps; use 1 to {N}.")
    if style == "shifted":
        return shifted(np.arange(1, T + 1) / T, shift)
    lowest = shifted(np.arange(1, N + 1) / N, shift)[0]
    return shifted(np.linspace(lowest, 1, T) if T > 1 else np.ones(1), shift)


def shifted(u: NDArray[np.float64], shift: float) -> NDArray[np.float64]:
    """q u / (1 + (q - 1) u) of times u that end at 1    (Esser et al. 2024, Eq. 23)."""
    s: NDArray[np.float64] = shift * u / (1.0 + (shift - 1.0) * u)
    s[-1] = 1.0  # pure noise to the bit, whatever the rounding of the shift is
    return s


def dynamic_shift(
    num_tokens: int,
    *,
    base_shift: float = 0.5,
    max_shift: float = 1.15,
    base_tokens: int = 256,
    max_tokens: int = 4096,
) -> float:
    """The shift q of FLUX.1-dev, which grows with the number of image tokens: q = exp(mu), mu linear in the tokens.

    mu = base_shift + (max_shift - base_shift) (n - base_tokens) / (max_tokens - base_tokens)  (black-forest-labs/flux,
    `get_schedule`; diffusers `calculate_shift`).

    Args:
      num_tokens: n = (H / 16) (W / 16) of an image of H x W pixels, at least 1.

    Raises:
      UsageError: no token.
    """
    if num_tokens < 1:
        raise UsageError(
            f"num_tokens={num_tokens}: an image has at least one token of 16 x 16 pixels; use 1 or more."
        )
    slope = (max_shift - base_shift) / (max_tokens - base_tokens)
    return math.exp(base_shift + slope * (num_tokens - base_tokens))
