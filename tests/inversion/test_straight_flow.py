"""Every inversion method on a straight flow beside its variance-preserving twin: none of them assumes a path.

With y = x / sqrt(alpha^2 + sigma^2) the flow x = (1-s) x_0 + s eps is the variance-preserving process of
alpha_bar = (1-s)^2 / ((1-s)^2 + s^2), so one exact model is asked on both.
"""

import functools
import math

import numpy as np
import pytest
import torch
from analytic_denoisers import Ended, normal
from registered import methods, quick

from taba_core.diffusion import NoiseSchedule, TimestepGrid, generate, invert_with_report, reconstruct

SHAPE = (2, 3, 4, 4)
VARIANCE, STEPS = 1e-2, 20
FLOW = NoiseSchedule.flow(1000)
TWIN = NoiseSchedule.of_alpha_bar(FLOW.alpha_bar)
# Asked at the level of its state wherever that matters, or solved to the end: the latents are equal.
SAME = {
    "aidi-a": 1e-6,
    "fixed-point": 1e-6,
    "exact-dpm-1": 1e-3,
    "predictor-corrector": 1e-6,
    "dnaedit": 1e-10,
    "edit-friendly": 1e-10,
}


def model_of(schedule):
    """The best prediction for N(0, VARIANCE): the velocity of the flow, v of its twin."""
    flow = schedule is FLOW

    def f(x, t):
        level = FLOW.level_at(t) if flow else FLOW.level(round(t))
        c = 1.0 if flow else math.hypot(level.alpha, level.sigma)
        alpha, sigma = level.alpha / c, level.sigma / c
        power = alpha**2 * VARIANCE + sigma**2
        x_0, eps = alpha * VARIANCE / power, sigma / power
        return (eps - x_0 if flow else alpha * eps - sigma * x_0) * x

    return Ended(f, schedule, "velocity" if flow else "v")


@functools.cache
def run(name, flow):
    """Latent, and the error of the reconstruction relative to the image."""
    schedule = FLOW if flow else TWIN
    grid, model, method = (
        TimestepGrid.build(schedule, STEPS, "diffusers-trailing"),
        model_of(schedule),
        quick(name),
    )
    image = generate(model, normal(SHAPE, 3), grid)
    given = dict(forward_noise=normal(SHAPE, 9), sample_ids=[10, 11])
    report = invert_with_report(model, image, grid, method, **given)
    back = reconstruct(model, report.latent, grid, method, carried=report.carried, sample_ids=[10, 11])
    return report.latent, float((back - image).std() / image.std())


without_text = methods(where=lambda method: not method.needs_text)


def test_the_paths_are_twins():
    images = [
        generate(model_of(s), normal(SHAPE, 3), TimestepGrid.build(s, 10, "diffusers-trailing"))
        for s in (FLOW, TWIN)
    ]
    assert (images[0] - images[1]).abs().max() < 1e-12
    assert np.abs(TWIN.signal_power + TWIN.noise_power - 1).max() < 1e-15
    assert FLOW.is_flow and not TWIN.is_flow


@pytest.mark.parametrize("name", without_text)
def test_a_method_does_on_the_flow_what_it_does_on_the_twin(name):
    (flow, flow_error), (twin, twin_error) = run(name, True), run(name, False)
    assert torch.isfinite(flow).all()
    # Where network and state are of different levels, another thing is held on the two paths, and latents are near
    assert float(flow.std()) == pytest.approx(float(twin.std()), rel=0.35)
    assert flow_error == pytest.approx(twin_error, rel=0.5, abs=0.15)
    if name in SAME:
        assert (flow - twin).abs().max() < SAME[name]
