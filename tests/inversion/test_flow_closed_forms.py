"""Methods on independent Gaussian modes of a flow, against closed forms to six digits, in both precisions.

Modes x_0 ~ N(0, lam) have the best velocity g(s) x with g = (s - (1-s) lam) / V, V = (1-s)^2 lam + s^2, so that every
method is linear in the image and in what it draws. The numbers are products of those gains, computed without taba.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from analytic_denoisers import Analytic

from taba_core.diffusion import (
    NoiseSchedule,
    TimestepGrid,
    generate,
    invert_with_report,
    reconstruct,
)
from taba_core.diffusion.ends import Held
from taba_core.diffusion.inversion import inversion_method_named
from taba_core.diffusion.spacing import dynamic_shift

LAM = (1e-4, 1e-2, 1.0)
SHIFTS = {"q=1": 1.0, "q=3": 3.0, "FLUX": dynamic_shift(4096), "SD3": 3.0}
NUM_MODES = len(LAM)


class FlowModes(Analytic):
    """The best velocity of one pixel a channel, of variances LAM."""

    held = Held.VELOCITY

    def __init__(self, schedule):
        super().__init__(None, schedule, (NUM_MODES, 1, 1))

    def predict(self, x, level, cond):
        s = level.time / self.schedule.duration
        lam = torch.tensor(LAM, dtype=x.dtype).view(1, -1, 1, 1)
        g = (s - (1 - s) * lam) / ((1 - s) ** 2 * lam + s**2)
        return Held.VELOCITY.ends(g * x, x, level)


def flow_grid(name):
    shift, steps = name.split()
    style = "sd3-default" if shift == "SD3" else "shifted"
    return TimestepGrid.build(NoiseSchedule.flow(1000, SHIFTS[shift]), int(steps), style)


def std_and_rmse(name, method, dtype=torch.float64, **options):
    """Std of the latent of a generated image, and rms error of its reconstruction by the method's own way, per mode.

    With own sampler the image is its own too. Everything is linear in the image's noise and in the drawn noise, which
    are independent, so that one unit of each says all.
    """
    grid = flow_grid(name)
    model = FlowModes(grid.schedule)
    method = inversion_method_named(method[0], **method[1])
    one = torch.ones(1, NUM_MODES, 1, 1, dtype=dtype)
    zero = 0 * one
    coupled = method.own_sampler and not method.needs_noise
    image = reconstruct(model, one, grid, method) if coupled else generate(model, one, grid)
    latent, error = [], []
    for x_0, noise in ((image, zero), (zero, one)):
        report = invert_with_report(model, x_0, grid, method, forward_noise=noise, **options)
        back = reconstruct(model, report.latent, grid, method, carried=report.carried)
        latent.append(report.latent.double().numpy().ravel())
        error.append((back - x_0).double().numpy().ravel())
    return np.hypot(*latent), np.hypot(*error)


EULER, SOURCE, FIXED = ("ddim", {}), ("ddim-source", {}), ("fixed-point", {"num_evaluations": 5})
UNI, DNA = ("uni-inv", {}), ("dnaedit", {})
HEUN, RF_SOLVER, FIRE = ("heun", {}), ("rf-solver", {}), ("fireflow", {})
PUBLISHED = ("rf-inversion", {"times": "published"})
RF_EULER, RF_ETA = ("rf-inversion", {"eta": 0.0}), ("rf-inversion", {})
STD = [
    ("q=1 28", EULER, (0.071449, 0.778246, 0.979811)),
    ("q=3 28", EULER, (0.011265, 0.532498, 0.972048)),
    ("SD3 28", EULER, (0.088158, 0.532172, 0.972067)),
    ("FLUX 50", EULER, (0.029588, 0.716414, 0.983153)),
    ("q=1 28", FIXED, (0.349388, 0.999888, 1.000000)),
    ("q=3 50", FIXED, (0.152477, 0.999264, 1.000000)),
    ("q=1 28", UNI, (0.114951, 0.953845, 0.999804)),
    ("q=3 28", UNI, (0.014753, 0.654931, 1.003215)),
    ("q=1 50", UNI, (0.306911, 0.987258, 0.999965)),
    ("q=3 50", UNI, (0.045904, 0.882271, 1.001107)),
    ("q=1 28", DNA, (0.922209, 0.954570, 0.999805)),
    ("q=3 28", DNA, (0.989362, 0.780995, 1.003271)),
    ("q=1 50", DNA, (0.821472, 0.987268, 0.999965)),
    ("q=3 50", DNA, (0.967646, 0.894098, 1.001112)),
    ("q=1 28", RF_SOLVER, (0.455732, 0.998877, 0.999987)),
    ("q=3 28", RF_SOLVER, (0.079447, 0.978018, 0.999918)),
    ("q=3 50", RF_SOLVER, (0.219341, 0.996538, 0.999986)),
    ("SD3 28", RF_SOLVER, (0.667168, 0.973682, 0.999912)),
    ("FLUX 28", RF_SOLVER, (0.072582, 0.973930, 0.999906)),
    ("q=1 28", FIRE, (0.460573, 0.994520, 0.999902)),
    ("q=3 50", FIRE, (0.223414, 0.987543, 0.999910)),
    ("SD3 50", FIRE, (0.653003, 0.987757, 0.999914)),
    ("FLUX 50", FIRE, (0.205638, 0.986457, 0.999899)),
    ("q=1 28", HEUN, (0.101210, 0.933719, 0.999278)),
    ("q=3 50", HEUN, (0.039473, 0.833418, 0.998208)),
    ("SD3 28", HEUN, (1.377383, 0.932854, 0.999774)),
    ("q=1 28", PUBLISHED, (0.959827, 0.939529, 0.869851)),
    ("q=3 28", PUBLISHED, (1.044524, 1.043822, 1.028703)),
    ("FLUX 50", PUBLISHED, (1.035515, 1.035273, 1.029512)),
    ("q=1 28", RF_EULER, (0.987170, 0.976802, 0.936791)),
    ("q=3 50", RF_EULER, (0.993191, 0.989576, 0.971880)),
]
RMSE = [
    ("q=1 28", EULER, (0.002395, 0.018876, 0.019283)),
    ("q=3 50", EULER, (0.001554, 0.021111, 0.015740)),
    ("q=1 28", RF_SOLVER, (0.003674, 0.000112, 0.000013)),
    ("q=3 50", RF_SOLVER, (0.003656, 0.000346, 0.000014)),
    ("q=1 28", FIRE, (0.003913, 0.000551, 0.000098)),
    ("q=3 28", FIRE, (0.002794, 0.003426, 0.000485)),
    ("q=1 28", HEUN, (0.002364, 0.006301, 0.000721)),
    ("FLUX 50", HEUN, (0.001483, 0.015651, 0.001974)),
    ("q=1 28", PUBLISHED, (0.003568, 0.111852, 0.939802)),
    ("q=1 28", RF_EULER, (0.003621, 0.117219, 1.235214)),
    ("q=3 50", RF_EULER, (0.002263, 0.108731, 1.313332)),
    ("q=1 28", RF_ETA, (0.003620, 0.115672, 1.042984)),
    ("q=3 50", RF_ETA, (0.002262, 0.108325, 1.250359)),
]
# six printed digits; float32 states round once a step
PRECISIONS = pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 6e-7), (torch.float32, 2e-5)])


def _id(value):
    return value[0] if isinstance(value, tuple) and isinstance(value[0], str) else str(value)


@PRECISIONS
@pytest.mark.parametrize("name, method, expected", STD, ids=_id)
def test_the_std_of_latents(name, method, expected, dtype, tolerance):
    assert std_and_rmse(name, method, dtype)[0] == pytest.approx(expected, abs=tolerance)


@PRECISIONS
@pytest.mark.parametrize("name, method, expected", RMSE, ids=_id)
def test_the_error_of_reconstructions(name, method, expected, dtype, tolerance):
    assert std_and_rmse(name, method, dtype)[1] == pytest.approx(expected, abs=tolerance)
