"""Time of one network evaluation of the true architectures, random weights, against the paper's Appendix D.

Seconds per step of a batch, images per second, achieved FLOP/s and peak memory. On a GPU at the batch sizes of
the paper, with its times beside ours; on a CPU at a reduced batch, where only the ratio of profiles means something.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from taba_core.models.cards import Card
from taba_core.models.catalog import load_card
from workflows.bench.paired import Measurement, TableRow, seconds_text
from workflows.text import bytes_text

CPU_BATCH = {"adm-32": 4, "adm-64": 2, "ldm": 1, "dit": 2}


def measure(
    *,
    repeats: int = 3,
    models: Sequence[str] = (),
    profiles: Sequence[str] = ("exact", "fast"),
    batch_size: int | None = None,
    threads: int | None = None,
) -> Measurement:
    """Time the models (default: those that fit this machine) under each profile.

    Args:
      batch_size: images per step; default the paper's on a GPU, a small one on a CPU.
      threads: torch threads on a CPU; default all cores.
    Raises:
      UsageError: unknown model or profile.
    """
    import torch

    from taba_core.models.architectures import architectures
    from taba_core.models.profile import profile_named

    chosen_profiles = [profile_named(name) for name in profiles]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(threads or os.cpu_count() or 1)
    rows: list[TableRow] = []
    notes, figures = [f"device: {_device_name(device)}"], {}
    for name in models or [m for m in architectures() if device == "cuda" or m in CPU_BATCH]:
        card = load_card(name)
        batch = batch_size or (card.cost.batch_size if device == "cuda" else CPU_BATCH.get(name, 1))
        too_large = _does_not_fit(name, card, device)
        if too_large:
            notes.append(too_large)
            continue
        times: list[float] = []
        for profile in chosen_profiles:
            seconds, flops, memory = _time_profile(name, card, profile, batch, device, repeats)
            median = statistics.median(seconds)
            times.append(median)
            figures |= {f"{name}_{profile.name}_seconds": median, f"{name}_{profile.name}_flops": flops}
            rows.append(
                TableRow(
                    card.title if len(times) == 1 else "",
                    f"{batch} images",
                    profile.name,
                    seconds_text(median),
                    f"{seconds_text(min(seconds))} to {seconds_text(max(seconds))}",
                    f"{batch / median:.3g} images/s, {flops / median / 1e12:.3g} TFLOP/s, {bytes_text(memory)}",
                    f"{median / times[0]:.3g}",
                    target=_paper(card, batch),
                )
            )
    return Measurement(tuple(rows), figures, tuple(notes))


def _time_profile(
    name: str, card: Card, profile: Any, batch: int, device: str, repeats: int
) -> tuple[list[float], float, float]:
    """Seconds of each run, FLOP of one step, peak memory in bytes."""
    import torch

    from taba_core.models.architectures import random_condition, random_network

    network = random_network(name, device=device, profile=profile)
    x = torch.randn(batch, *card.sample_shape, device=device)
    cond = random_condition(card, batch, device)
    t = 500.0 * card.timestep_scale * card.schedule.N / 1000
    flops = _flops(lambda: network.eps(x, t, cond))
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    network.eps(x, t, cond)
    seconds = []
    for _ in range(repeats):
        _wait(device)
        begun = time.perf_counter()
        network.eps(x, t, cond)
        _wait(device)
        seconds.append(time.perf_counter() - begun)
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else _resident()
    return seconds, flops, memory


def _flops(call: Any) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def _wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def _does_not_fit(name: str, card: Card, device: str) -> str:
    import torch

    needed = card.num_parameters * 4 * 1.3
    if device == "cuda":
        free = torch.cuda.mem_get_info()[0]
    else:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    if needed < free:
        return ""
    return f"{name} left out: its weights need {bytes_text(needed)}, {bytes_text(free)} are free."


def _paper(card: Card, batch: int) -> str:
    if batch != card.cost.batch_size:
        return f"paper {card.cost.image_seconds * 1e3:.3g} ms an image ({card.cost.measured_on})"
    return f"paper {seconds_text(card.cost.step_seconds)} ({card.cost.measured_on})"


def _device_name(device: str) -> str:
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def _resident() -> float:
    if not sys.platform.startswith("linux"):
        return float("nan")
    with open("/proc/self/statm") as statm:
        return float(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
