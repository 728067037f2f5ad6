"""What a numerical profile does to published statistics: the same noise under each profile, Tables 2 and 3 compared.

A drift is read against the interval of the statistic itself: a profile whose drift is a small part of it changes no
conclusion. With random weights (neither --weights nor --store) only the rounding of the arithmetic is measured, not a
trained network's. With --store the drift of fetched (or given) weights is kept there, where runs read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from taba_core import rng
from taba_core.errors import UsageError
from taba_core.models.base import card_with_options, model_spec
from workflows.bench.evaluations import device_facts, free_memory, predictions, relative_errors
from workflows.bench.paired import Measurement, TableRow
from workflows.configuration.drift import EXACT, STATISTICS, Drift, Moved, write_drift

if TYPE_CHECKING:
    from torch import Tensor

    from taba_core.models.cards import Card

LEAST = 32  # images
STEPS = 10  # of sampling and inversion
# Conditions of samples by their ids, as a network reads them.
Conditions = Callable[[range], "dict[str, Tensor]"]


@dataclass(frozen=True)
class _Asked:
    """One network and how much is measured of it."""

    model: str
    weights: str | Path | None
    trained: bool
    n: int
    T: int
    tiny: bool

    @property
    def card(self) -> Card:
        """The model's card, at toy size where that is asked."""
        from taba_core.models.architectures import architecture_card

        return architecture_card(self.model, tiny=True) if self.tiny else card_with_options(self.model)

    def options(self, profile: str, compiled: bool) -> dict[str, Any]:
        """Options of the model under a profile; what others are compared with is never compiled."""
        return {"profile": profile, "compile": compiled and profile != EXACT}


@dataclass(frozen=True)
class _Found:
    """Of one profile: by statistic its value and half a 95 % interval, and predictions at five levels."""

    statistics: Mapping[str, tuple[float, float]]
    predictions: list[Tensor]


@dataclass(frozen=True)
class _Subject:
    """A network under one profile, as `evaluations.predictions` asks it."""

    card: Card
    conditions: Conditions
    device: str

    def states(self, count: int) -> Tensor:
        """Noise, (count, C, H, W), on the device."""
        import torch

        noise = rng.normal(range(count), self.card.sample_shape, seed=1, stream="noise")
        return torch.from_numpy(noise).to(self.device)

    def condition(self, count: int) -> dict[str, Tensor]:
        """What the first samples are conditioned on."""
        return self.conditions(range(count))

    def time_at(self, share: float) -> float:
        """The network's time at a share of the training steps."""
        return round(share * (self.card.schedule.N - 1)) * self.card.timestep_scale


def measure(
    *,
    repeats: int = 1,
    models: Sequence[str] = ("adm-32",),
    profiles: Sequence[str] = (EXACT, "fast"),
    weights: str | Path | None = None,
    num_samples: int = 48,
    compiled: bool = False,
    store: str | None = None,
    tiny: bool = False,
) -> Measurement:
    """Generate and invert under every profile and compare with `exact`.

    Args:
      repeats: unused; a profile gives the same numbers every time.
      weights: of the (one) model; without them random weights of the true architecture, or with `store` the fetched
        ones.
      compiled: compile the networks of the other profiles.
      store: where the drift is kept.
      tiny: random weights at toy size.
    Raises:
      UsageError: unknown model or profile, missing or unusable weights, too few images for an interval.
    """
    if num_samples < LEAST:
        raise UsageError(
            f"--num-samples {num_samples}: intervals need two blocks of 16 images; use "
            f"{LEAST} or more, or leave it out."
        )
    rows: list[TableRow] = []
    figures: dict[str, float] = {}
    trained = weights is not None or store is not None
    others = [profile for profile in dict.fromkeys(profiles) if profile != EXACT]
    for name in models:
        asked = _Asked(name, weights, trained, num_samples, STEPS, tiny)
        exact, device = _found(asked, EXACT, compiled=False)
        rows += _rows_of_exact(asked, exact)
        figures |= {f"{name}_{EXACT}_{statistic}_drift": 0.0 for statistic in STATISTICS}
        for profile in others:
            found, _ = _found(asked, profile, compiled=compiled)
            drift = _drift(asked, profile, compiled, exact, found, device)
            rows += _rows(asked, drift)
            for statistic, moved in drift.statistics.items():
                figures[f"{name}_{profile}_{statistic}_drift"] = moved.value - moved.exact
                figures[f"{name}_{profile}_{statistic}_share"] = drift.share(statistic, drift.n)
            figures |= {f"{name}_{profile}_error_{at}": error for at, error in enumerate(drift.errors)}
            if store is not None:
                _keep(store, asked, profile, compiled, drift)
    note = (
        f"weights: {weights or 'fetched'}"
        if trained
        else "random weights: only the arithmetic's rounding shows"
    )
    return Measurement(tuple(rows), figures, (note,))


def _rows_of_exact(asked: _Asked, exact: _Found) -> list[TableRow]:
    sizes = f"{asked.n}, T={asked.T}"
    return [
        TableRow(
            text,
            sizes,
            EXACT,
            f"{exact.statistics[name][0]:.6g}",
            f"± {exact.statistics[name][1]:.2g} (95 %)",
        )
        for name, text in STATISTICS.items()
    ]


def _rows(asked: _Asked, drift: Drift) -> list[TableRow]:
    sizes = f"{asked.n}, T={asked.T}"
    rows = [
        TableRow(
            STATISTICS[name],
            sizes,
            drift.profile,
            f"{moved.value:.6g}",
            "",
            f"drift {moved.value - moved.exact:+.2g}",
            f"{drift.share(name, drift.n):.2g} of half the interval",
        )
        for name, moved in drift.statistics.items()
    ]
    errors = ", ".join(f"{error:.1e}" for error in drift.errors)
    return [*rows, TableRow("relative RMS error of an evaluation", "2", drift.profile, errors)]


def _drift(asked: _Asked, profile: str, compiled: bool, exact: _Found, found: _Found, device: str) -> Drift:
    statistics = {
        name: Moved(exact.statistics[name][0], found.statistics[name][0], exact.statistics[name][1])
        for name in STATISTICS
    }
    spec = model_spec(asked.model, asked.options(profile, compiled), asked.weights) if asked.trained else None
    return Drift(
        model=asked.card.name,
        fingerprint=spec.fingerprint if spec else "",
        profile=profile,
        compiled=compiled,
        n=asked.n,
        T=asked.T,
        device=device,
        errors=tuple(relative_errors(found.predictions, exact.predictions)),
        statistics=statistics,
    )


def _keep(store: str, asked: _Asked, profile: str, compiled: bool, drift: Drift) -> None:
    from taba_core.store import Store
    from taba_core.store.lease import hold

    opened = Store.open(store, mode="a")
    with hold(opened.place):
        write_drift(opened, model_spec(asked.model, asked.options(profile, compiled), asked.weights), drift)


def _found(asked: _Asked, profile: str, *, compiled: bool) -> tuple[_Found, str]:
    """What is measured under a profile, and the device it was measured on."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network, conditions = _network(asked, asked.options(profile, compiled), device)
    arrays = _states(asked, network, conditions, device)
    predicted = predictions(_Subject(asked.card, conditions, device), network)
    del network, conditions
    free_memory(device)
    return _Found(_statistics(arrays, asked.n), predicted), str(device_facts(device)["card"])


def _statistics(arrays: dict[str, Any], n: int) -> Mapping[str, tuple[float, float]]:
    """Value and half a 95 % interval of each statistic."""
    from taba_core.stats.correlation import LagCorrelation, PatchCorrelation
    from taba_core.stats.reduce import from_arrays, reduce
    from taba_core.stats.regions import RegionError
    from taba_core.stats.resample import estimates

    statistics = {
        "corr": PatchCorrelation("latent"),
        "lag": LagCorrelation("latent"),
        "region": RegionError(),
    }
    reduced = reduce(from_arrays(arrays), n, statistics, scheduler="sync")
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


def _network(asked: _Asked, options: Mapping[str, Any], device: str) -> tuple[Any, Conditions]:
    """A network, and the conditions of its samples: drawn ones of trained weights, random ones of random weights."""
    from taba_core.models.architectures import random_condition, random_network
    from taba_core.models.base import load_model
    from taba_core.models.profile import profile_named

    if not asked.trained:
        profile = profile_named(options["profile"], compile=options["compile"])
        # The same random weights under every profile.
        network = random_network(asked.model, device=device, profile=profile, tiny=asked.tiny)
        whole = random_condition(asked.model, asked.n, device, tiny=asked.tiny)
        return network, lambda ids: {key: value[ids.start : ids.stop] for key, value in whole.items()}
    loaded = load_model(asked.model, device=device, options=options, weights=asked.weights)
    return loaded, lambda ids: _drawn(asked.card, loaded, ids, device)


def _drawn(card: Card, network: Any, ids: range, device: str) -> dict[str, Tensor]:
    """Conditions of samples of a trained network: classes, or prompts of the built-in list, drawn by sample id."""
    from taba_core.models.prompts import load_prompts
    from workflows.compute.conditioning import condition, prompts_to_bytes

    if card.conditional == "none":
        return {}
    numbers = np.asarray(ids, dtype=np.int64)
    if card.conditional == "class":
        drawn = rng.integers(numbers, len(network.class_names), seed=10, stream="class")
        return condition(network, {"class_id": drawn.astype(np.int32)}, device)
    return condition(
        network, {"prompt": prompts_to_bytes(load_prompts("builtin").draw(numbers, seed=10))}, device
    )


def _states(asked: _Asked, network: Any, conditions: Conditions, device: str) -> dict[str, Any]:
    """Noise, latents and plain areas of the images."""
    import torch

    from taba_core.diffusion.inversion import invert
    from taba_core.diffusion.sampling import generate
    from taba_core.models.grids import timestep_grid
    from taba_core.stats.regions import plain_mask

    card, n = asked.card, asked.n
    grid, rules = timestep_grid(card, asked.T), card.reference
    noise = rng.normal(range(n), card.sample_shape, seed=420, stream="noise")
    images, latents = [], []
    batch = min(n, card.cost.batch_size if device == "cuda" else 8)
    for start in range(0, n, batch):
        ids = range(start, min(start + batch, n))
        x_T, cond = torch.from_numpy(noise[ids.start : ids.stop]).to(device), conditions(ids)
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
