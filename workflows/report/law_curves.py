"""The closed-form law of one inversion step as curves: over steps, and over the variance of a mode."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from workflows.report.curves import Curve, Values
from workflows.report.style import INK, MUTED, TEXT_WIDTH, new_figure, styled


@styled
def step_law_panels(
    ratio: Sequence[Curve],
    measured: Curve | None,
    variances: Values,
    target: Sequence[Curve],
    source: Sequence[Curve],
    *,
    height: float = 2.75,
) -> Figure:
    """Left: rho over steps 1..S, a curve per mode, and what is measured. Right: std of the latent over variances.

    `target` and `source` are the latent's std under the two label conventions, a curve per T in both.
    """
    figure = new_figure(TEXT_WIDTH, height)
    left, right = figure.subplots(1, 2)
    steps = np.arange(1, len(np.asarray(ratio[0].values)) + 1)
    left.axhline(1, color=MUTED, linewidth=0.8)
    for curve in ratio:
        left.plot(steps, curve.values, color=curve.color, label=curve.label)
    if measured is not None:
        values, low, high = (np.asarray(v, float) for v in (measured.values, measured.low, measured.high))
        errors = np.stack([values - low, high - values])
        left.errorbar(
            steps,
            values,
            np.maximum(errors, 0),
            fmt="o",
            color=INK,
            markersize=2.6,
            elinewidth=0.8,
            label=measured.label,
        )
    left.set_xscale("log")
    ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 1000) if t <= steps[-1]]
    left.set_xticks(ticks, [str(t) for t in ticks])
    left.minorticks_off()
    left.set_ylim(bottom=0)
    left.set_xlabel("inversion step $t$")
    left.set_ylabel(r"spread ratio $\rho_t$")
    left.legend(loc="lower right")
    right.axhline(1, color=MUTED, linewidth=0.8)
    for solid, dotted in zip(target, source, strict=True):
        right.plot(variances, solid.values, color=solid.color, label=solid.label)
        right.plot(variances, dotted.values, ":", color=dotted.color, linewidth=1.2)
    right.set_xscale("log")
    right.set_ylim(bottom=0)
    right.set_xlabel(r"variance $\lambda$ of the mode")
    right.set_ylabel(r"std of the latent $\hat{x}^T$")
    right.legend(loc="upper left", bbox_to_anchor=(0.0, 0.95))
    return figure
