"""What a numerical profile does to published statistics: the same noise under each profile, Tables 2 and 3 compared.

A drift is read against the interval of the statistic itself: a profile whose drift is a small part of it changes no
conclusion. With random weights (no --weights) only the rounding of the arithmetic is measured, not a trained network's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from taba_core import rng
from taba_core.models.base import card_with_options
from workflows.bench.paired import Measurement, TableRow

STATISTICS = {
    "correlation": "correlation of latents (Table 2)",
    "lag1": "signed lag-1 of latents",
    "error": "absolute error, plain (Table 3)",
    "std": "standard deviation, plain (Table 3)",
}


def measure(
    *,
    repeats: int = 1,
    models: Sequence[str] = ("adm-32",),
    profiles: Sequence[str] = ("exact", "fast"),
    weights: str | Path | None = None,
    num_samples: int = 48,
    num_inference_steps: int = 10,
) -> Measurement:
    """Generate and invert under every profile and compare with the first.

    Args:
      repeats: unused; a profile gives the same numbers every time.
      weights: of the (one) model; random weights of the true architecture if None.
    Raises:
      UsageError: unknown model or profile, missing or unusable weights.
    """
    rows: list[TableRow] = []
    figures: dict[str, float] = {}
    for name in models:
        found = {p: _statistics(name, p, weights, num_samples, num_inference_steps) for p in profiles}
        first = found[profiles[0]]
        for statistic, text in STATISTICS.items():
            for profile in profiles:
                value, half = found[profile][statistic]
                drift = value - first[statistic][0]
                figures[f"{name}_{profile}_{statistic}_drift"] = drift
                rows.append(
                    TableRow(
                        text if profile == profiles[0] else "",
                        f"{num_samples}, T={num_inference_steps}",
                        profile,
                        f"{value:.6g}",
                        f"± {half:.2g} (95 %)",
                        "" if profile == profiles[0] else f"drift {drift:+.2g}",
                        "" if profile == profiles[0] else f"{abs(drift) / half:.2g} of the interval",
                    )
                )
    note = (
        "random weights: only the arithmetic's rounding shows" if weights is None else f"weights: {weights}"
    )
    return Measurement(tuple(rows), figures, (note,))


def _statistics(
    name: str, profile: str, weights: str | Path | None, n: int, T: int
) -> Mapping[str, tuple[float, float]]:
    """Value and half a 95 % interval of each statistic."""
    from taba_core.stats.correlation import LagCorrelation, PatchCorrelation
    from taba_core.stats.reduce import from_arrays, reduce
    from taba_core.stats.regions import RegionError
    from taba_core.stats.resample import estimates

    arrays = _states(name, profile, weights, n, T)
    reduced = reduce(
        from_arrays(arrays),
        n,
        {"corr": PatchCorrelation("latent"), "lag": LagCorrelation("latent"), "region": RegionError()},
        scheduler="sync",
    )
    of = {key: estimates(value, num_replicates=300) for key, value in reduced.items()}
    chosen = {
        "correlation": of["corr"]["mean_top"],
        "lag1": of["lag"]["value"],
        "error": of["region"]["error"][0],
        "std": of["region"]["std"][0],
    }
    return {
        key: (float(e.value), float(np.subtract(*reversed(e.interval()))) / 2) for key, e in chosen.items()
    }


def _states(name: str, profile: str, weights: str | Path | None, n: int, T: int) -> dict[str, Any]:
    import torch

    from taba_core.diffusion.inversion import invert
    from taba_core.diffusion.sampling import generate
    from taba_core.models.architectures import random_condition
    from taba_core.models.base import load_model
    from taba_core.models.grids import timestep_grid
    from taba_core.stats.regions import plain_mask

    card = card_with_options(name)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = (
        load_model(name, device=device, options={"profile": profile}, weights=weights)
        if weights
        else _random(name, device, profile)
    )
    grid, rules = timestep_grid(card, T), card.reference
    noise = rng.normal(range(n), card.sample_shape, seed=420, stream="noise")
    images, latents = [], []
    batch = min(n, card.cost.batch_size if device == "cuda" else 8)
    for start in range(0, n, batch):
        x_T = torch.from_numpy(noise[start : start + batch]).to(device)
        # Networks with random weights read random conditions; the conditions of real ones are not asked for.
        cond = {} if weights else random_condition(name, len(x_T), device)
        x_0 = generate(network, x_T, grid, cond, x0_rule=rules.sampling_x0_rule)
        latent = invert(
            network,
            x_0,
            grid,
            cond=cond,
            network_time=rules.network_time,
            levels=rules.levels,
            x0_rule=rules.inversion_x0_rule,
        )
        images.append(x_0.cpu().numpy())
        latents.append(latent.cpu().numpy())
    image = np.concatenate(images)
    # A threshold that makes a tenth plain: networks with random weights draw no skies.
    steps = np.abs(np.diff(image, axis=3)).max(axis=1)
    threshold = max(0.025, float(np.quantile(steps, 0.1)))
    return {"noise": noise, "latent": np.concatenate(latents), "region": plain_mask(image, threshold)}


def _random(name: str, device: str, profile: str) -> Any:
    from taba_core.models.architectures import random_network
    from taba_core.models.profile import profile_named

    # The same random weights under every profile.
    return random_network(name, device=device, profile=profile_named(profile))
