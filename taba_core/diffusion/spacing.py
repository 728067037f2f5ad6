"""Where a sampler's T timesteps lie on a training schedule of N: the spacings of the reference models."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from taba_core.errors import UsageError, unknown_name

GridStyle = Literal["diffusers-leading", "diffusers-trailing", "guided"]


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
