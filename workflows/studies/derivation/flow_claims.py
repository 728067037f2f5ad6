"""What the closed forms say of a flow's own levels: claims on a flat mode and on one of unit variance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from taba_core.conventions import ForwardLevel
from taba_core.diffusion.grid import TimestepGrid
from taba_core.diffusion.schedule import NoiseSchedule
from taba_core.errors import UsageError
from taba_core.theory import GaussianLatent, GaussianModes
from workflows.analysis.findings import Findings

PLAIN, REST = 1e-4, 1.0  # variances of a mode of plain areas, and of one of the others
_NARROW, _WIDE = 0.9, 1.05  # of a latent's standard deviation, that of noise is 1
_MOST = 0.5  # of the logarithm of what a latent lacks
_RAISED = 0.2  # by one replaced step
_TIMES = 3.0  # reconstruction errors of a flow over those of a variance-preserving model


def find_flow_claims(found: Findings, grid: TimestepGrid) -> None:
    """Claims F1 to F6 by closed forms on the levels of a flow's grid; other grids have none.

    They are worked out for ideal predictions of independent modes, target times and no guidance, so they are
    statements about the levels, which the measured claims of other studies repeat on samples.
    """
    if not grid.schedule.is_flow:
        return
    modes = GaussianModes(np.array([PLAIN, REST]), grid)
    plain = modes.latent()
    _claim(
        found,
        "F1",
        f"A flat mode's latent has a smaller spread than that of a mode of unit variance, and less than {_NARROW}.",
        plain.std[0] < min(plain.std[1], _NARROW),
        {"std_plain": plain.std[0], "std_rest": plain.std[1]},
    )
    if grid.num_inference_steps > 1:
        _find_worst_step(found, modes)
        _find_replacement(found, modes, plain)
    other = _variance_preserving(grid)
    if other is not None:
        ratio = (
            plain.reconstruction_rmse[1]
            / GaussianModes(modes.variance, other).latent().reconstruction_rmse[1]
        )
        _claim(
            found,
            "F6",
            f"A mode of unit variance comes back with more than {_TIMES:g} times the error that linear betas of as "
            "many steps leave.",
            ratio > _TIMES,
            {"ratio": ratio},
        )


def _find_worst_step(found: Findings, modes: GaussianModes) -> None:
    """Claim F2: whose share of what is lost is largest."""
    lost = -np.log(modes.step_gains(modes.grid.upward())[:, 0] * modes.sampled_step_ratio()[:, 0])
    share = lost / lost.sum()
    _claim(
        found,
        "F2",
        f"One step alone makes more than {_MOST:.0%} of what the logarithm of a flat mode's latent lacks.",
        share.max() > _MOST,
        {"step": int(share.argmax()) + 1, "share": share.max()},
    )


def _find_replacement(found: Findings, modes: GaussianModes, plain: GaussianLatent) -> None:
    """Claims F3 to F5: one replaced step, by both rules and both times of the rest."""

    def replaced(rule: ForwardLevel, **conventions: str) -> GaussianLatent:
        return modes.latent(1, rule, **conventions)  # type: ignore[arg-type]

    exact, matched = replaced("exact"), replaced("matched")
    source = replaced("exact", network_time="source", first_time="zero")
    _claim(
        found,
        "F3",
        f"Replacing one step by the exact rule widens a flat mode's latent by more than {_RAISED}.",
        exact.std[0] - plain.std[0] > _RAISED,
        {"std_before": plain.std[0], "std": exact.std[0]},
    )
    _claim(
        found,
        "F4",
        f"Replacing one step by the matched rule makes a flat mode's latent wider than noise, above {_WIDE}.",
        matched.std[0] > _WIDE,
        {"std": matched.std[0]},
    )
    _claim(
        found,
        "F5",
        "After one replaced step source times give a flat mode's latent a larger spread than target times, and a mode "
        "of unit variance comes back less well.",
        source.std[0] > exact.std[0] and source.reconstruction_rmse[1] > exact.reconstruction_rmse[1],
        {
            "std_source": source.std[0],
            "std_target": exact.std[0],
            "rmse_source": source.reconstruction_rmse[1],
            "rmse_target": exact.reconstruction_rmse[1],
        },
    )


def _variance_preserving(grid: TimestepGrid) -> TimestepGrid | None:
    """As many steps on the betas of DiT; None where that schedule has no such grid."""
    try:
        return TimestepGrid.build(NoiseSchedule.linear(), grid.num_inference_steps)
    except UsageError:
        return None


def _claim(found: Findings, id: str, statement: str, holds: bool, numbers: Mapping[str, float]) -> None:
    found.claim(id, statement, "holds" if holds else "fails", {k: float(v) for k, v in numbers.items()})
