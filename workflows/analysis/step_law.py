"""The closed-form law of one inversion step: how much spread its prediction loses, per mode and pooled (Figure 4b)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from taba_core.theory import GaussianModes
from workflows.analysis.closed_form import FLAT_VARIANCE, flat_mode, has_flat_modes, plain_ddim, spectrum
from workflows.configuration.context import Context


class StepLaw(NamedTuple):
    """rho(l) for l = 1..T, and what it is the ratio of."""

    values: NDArray[np.float64]
    label: str


def step_laws(context: Context, num_inference_steps: int) -> tuple[StepLaw, ...]:
    """Spread of inversion predictions over sampling predictions, per step; none where there is no closed form.

    - All modes of the data, pooled: sqrt(sum var(eps_hat) / sum var(eps)) on the states DDIM itself visits.
    - One flat mode (variance FLAT_VARIANCE), which is what a plain area consists of, on the same states.
    - The flat mode by the law of exact marginals, sqrt((a_{l-1} lam + 1 - a_{l-1}) / (a_l lam + 1 - a_l)).
    """
    if not plain_ddim(context):
        return ()
    laws = []
    modes = spectrum(context)
    if modes is not None:
        of_modes = GaussianModes(modes.variance, context.grid(num_inference_steps))
        laws.append(StepLaw(_pooled(of_modes, modes.share @ modes.weight), modes.label))
    if has_flat_modes(context):
        flat, text = flat_mode(context, num_inference_steps), f"flat mode (λ = {FLAT_VARIANCE:g})"
        laws.append(StepLaw(flat.sampled_step_ratio(), text))
        laws.append(StepLaw(flat.marginal_step_ratio(), f"{text}, exact marginals"))
    return tuple(laws)


def _pooled(modes: GaussianModes, share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Root of the pooled variance ratio; modes weigh by their share and by the spread of their predictions."""
    weight = np.square(modes.sampled_eps_std()) * share
    ratio = modes.sampled_step_ratio()
    return np.asarray(np.sqrt((weight * np.square(ratio)).sum(axis=1) / weight.sum(axis=1)))
