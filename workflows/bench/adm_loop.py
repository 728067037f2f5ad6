"""ADM sampling and inversion, ours against a plain eager loop; what each numerical option of a network gives.

Both sides run the same U-Net with the same weights in one process. The plain side is what one would write with
diffusers: float32, channels first, `DDIMScheduler` with the model's betas downwards; upwards, where diffusers has
no counterpart, the reverse process of guided-diffusion as its code states it. Weights are random, since time does
not depend on them; the small networks, whose evaluations are short, show the cost of the loop around them.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from taba_core.errors import UsageError
from workflows.bench.mixture import SEED
from workflows.bench.paired import (
    Comparison,
    Measurement,
    TableRow,
    run_pairs,
    seconds_text,
    timed,
    torch_threads,
)
from workflows.text import count_text

if TYPE_CHECKING:
    from torch import Tensor

    from taba_core.models.cards import Card
    from taba_core.models.network import Network
    from taba_core.models.profile import Profile

# What the small networks change in the flags of the published ones: every kind of block, at 1/30 to 1/500 of the size.
_SMALL: dict[str, dict[str, Any]] = {
    "adm-32": {"channel_mult": [1, 2, 2, 2], "attention_resolutions": [16, 8]},
    "adm-64": {"channel_mult": [1, 1, 1, 2], "attention_resolutions": [8, 4]},
    "adm-256": {"channel_mult": [1, 1, 1, 2], "attention_resolutions": [8, 4], "num_head_channels": 16},
}


def measure(
    *,
    repeats: int = 5,
    models: tuple[str, ...] = tuple(_SMALL),
    batch_size: int = 8,
    num_inference_steps: int = 10,
    full_size: tuple[str, ...] = ("adm-32",),
    compiled: bool = False,
    threads: int = 1,
) -> Measurement:
    """Time whole runs of small networks, then single evaluations of small and full-size ones by option.

    Args:
      num_inference_steps: T; a divisor of the training steps, where the grids of both libraries agree.
      full_size: models whose evaluations are timed at their own size too, a quarter of the batch.
      compiled: also torch.compile, which takes minutes before the first evaluation.
    Figures, by model: ratio (plain over ours), image_difference, latent_difference (the largest), and
    `evaluation/<option>` = eager contiguous float32 over that option.
    """
    import torch

    rows: list[TableRow] = []
    figures: dict[str, float] = {}
    notes: list[str] = []
    with torch_threads(threads), torch.inference_mode():
        for name in models:
            case = _Case.small(name, batch_size)
            found = _loops(case, num_inference_steps, repeats)
            rows += found.rows
            figures |= found.figures
            notes += found.notes
        cases = [_Case.small(name, batch_size) for name in models[:1]]
        cases += [_Case.full(name, max(batch_size // 4, 1)) for name in full_size]
        for case in cases:
            found = _options(case, repeats, compiled)
            rows += found.rows
            figures |= found.figures
            notes += found.notes
    return Measurement(tuple(rows), figures, tuple(notes))


@dataclass(frozen=True)
class _Case:
    """A network with random weights and a batch of states."""

    label: str
    card: Card
    unet: Any
    noise: Tensor

    @classmethod
    def small(cls, name: str, batch_size: int) -> _Case:
        from taba_core.models.catalog import load_card

        card = load_card(name)
        small = {"image_size": 32, "num_channels": 32, "num_res_blocks": 1} | _SMALL[name]
        fields = {
            "network": card.network | small,
            "image_size": 32,
            "sample_shape": (3, 32, 32),
            "precision": "fp32",
        }
        return cls.of(f"{name}, small", card.model_copy(update=fields), batch_size)

    @classmethod
    def full(cls, name: str, batch_size: int) -> _Case:
        from taba_core.models.catalog import load_card

        return cls.of(name, load_card(name).model_copy(update={"precision": "fp32"}), batch_size)

    @classmethod
    def of(cls, label: str, card: Card, batch_size: int) -> _Case:
        import torch

        from taba_core import rng
        from taba_core.models.adm import build_unet
        from taba_core.models.adm_flags import adm_flags

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            unet = build_unet(adm_flags(card.name, card.network)).eval()
        noise = rng.normal(range(batch_size), card.sample_shape, seed=SEED, stream="noise")
        return cls(label, card, unet, torch.from_numpy(noise))

    def network(self, profile: Profile) -> Network:
        """The case as a Denoiser with weights of its own."""
        from taba_core.models.adm import network_of

        return network_of(self.card, copy.deepcopy(self.unet), device="cpu", profile=profile)


def _loops(case: _Case, T: int, repeats: int) -> Measurement:
    """Sampling and inversion of one network: ours, and the plain loop."""
    from taba_core.models.profile import profile_named

    ours, plain = _our_way(case, T, profile_named("exact")), _plain_way(case, T)
    differences = [float((a - b).abs().max()) for a, b in zip(ours(), plain(), strict=True)]
    pairs = run_pairs(timed(ours), timed(plain), repeats=repeats)
    work = 2 * T * len(case.noise)
    rates = [f"{count_text(work / median)} image-NFE/s" for median in pairs.medians]
    comparison = Comparison(
        what=f"{case.label}: sampling and inversion",
        n=f"{len(case.noise)} images, T={T}",
        sides=("ours, exact", "plain loop, diffusers"),
        figures=(rates[0], rates[1]),
        target=">= 1",
    )
    name = case.card.name
    figures = {
        f"{name}/ratio": pairs.ratio,
        f"{name}/image_difference": differences[0],
        f"{name}/latent_difference": differences[1],
    }
    note = f"{case.label}: largest difference of images {differences[0]:.1e}, of latents {differences[1]:.1e}"
    return Measurement(comparison.rows(pairs), figures, (note,))


def _our_way(case: _Case, T: int, profile: Profile) -> Callable[[], tuple[Tensor, Tensor]]:
    from taba_core.diffusion import generate, invert
    from taba_core.models.grids import timestep_grid

    model, grid, chosen = case.network(profile), timestep_grid(case.card, T), case.card.reference

    def run() -> tuple[Tensor, Tensor]:
        image = generate(model, case.noise, grid, x0_rule=chosen.sampling_x0_rule)
        latent = invert(
            model,
            image,
            grid,
            network_time=chosen.network_time,
            levels=chosen.levels,
            x0_rule=chosen.inversion_x0_rule,
        )
        return image, latent

    return run


def _plain_way(case: _Case, T: int) -> Callable[[], tuple[Tensor, Tensor]]:
    import numpy as np
    import torch
    from diffusers import DDIMScheduler

    from taba_core.models.grids import timestep_grid

    grid = timestep_grid(case.card, T)
    table = grid.schedule.alpha_bar
    betas = 1 - table / np.concatenate([[1.0], table[:-1]])
    scheduler = DDIMScheduler(num_train_timesteps=len(table), trained_betas=betas, clip_sample=True)
    scheduler.set_timesteps(T)
    if scheduler.timesteps.tolist()[::-1] != grid.timesteps.tolist():
        raise UsageError(
            f"diffusers has no grid of {T} of {len(table)} steps like guided-diffusion's; use a divisor."
        )
    scale, alpha_bar = grid.schedule.timestep_scale, [*grid.upper_alpha_bar.tolist(), 0.0]
    batch = len(case.noise)

    def eps_at(x: Tensor, timestep: float) -> Tensor:
        return case.unet(x, torch.full((batch,), timestep * scale)).sample[:, :3]

    def run() -> tuple[Tensor, Tensor]:
        x = case.noise
        for t in scheduler.timesteps:
            x = scheduler.step(eps_at(x, float(t)), t, x, use_clipped_model_output=True).prev_sample
        image = x
        for i, timestep in enumerate(grid.timesteps.tolist()):
            a, b = math.sqrt(1 / alpha_bar[i]), math.sqrt(1 / alpha_bar[i] - 1)
            x_0 = (a * x - b * eps_at(x, timestep)).clamp(-1, 1)
            eps = (a * x - x_0) / b
            x = math.sqrt(alpha_bar[i + 1]) * x_0 + math.sqrt(1 - alpha_bar[i + 1]) * eps
        return image, x

    return run


def _options(case: _Case, repeats: int, compiled: bool) -> Measurement:
    """One evaluation under each option, against eager float32 with channels first."""
    name = case.card.name if case.label == case.card.name else f"{case.card.name}-small"
    rows: list[TableRow] = []
    figures: dict[str, float] = {}
    notes: list[str] = []
    eager = case.network(_eager())
    expected = eager.eps(case.noise, 500.0, {})
    for option, profile in _profiles(compiled):
        model = case.network(profile)
        begun = time.perf_counter()
        difference = float((model.eps(case.noise, 500.0, {}) - expected).abs().max())
        first = time.perf_counter() - begun
        pairs = run_pairs(
            timed(lambda model=model: model.eps(case.noise, 500.0, {})),
            timed(lambda: eager.eps(case.noise, 500.0, {})),
            repeats=repeats,
        )
        comparison = Comparison(
            what=f"{case.label}: one evaluation",
            n=f"{len(case.noise)} images",
            sides=(option, "eager float32"),
            figures=(f"differs by {difference:.1e}", ""),
        )
        rows += comparison.rows(pairs)
        figures |= {f"{name}/{option}": pairs.ratio, f"{name}/{option}/difference": difference}
        if profile.compile:
            notes.append(f"{case.label}: compiling took {seconds_text(first)}, not counted")
    return Measurement(tuple(rows), figures, tuple(notes))


def _eager() -> Profile:
    from taba_core.models.profile import profile_named

    return replace(profile_named("exact"), channels_last=False)


def _profiles(compiled: bool) -> Iterator[tuple[str, Profile]]:
    from taba_core.models.profile import profile_named

    exact, fast = profile_named("exact"), profile_named("fast")
    yield "channels last (exact)", exact
    yield "bf16", replace(fast, channels_last=False)
    yield "bf16, channels last (fast)", fast
    if compiled:
        yield "channels last, compiled", replace(exact, compile=True)
        yield "bf16, channels last, compiled", replace(fast, compile=True)
