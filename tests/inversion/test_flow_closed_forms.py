"""Methods on independent Gaussian modes of a flow, against closed forms to six digits, in both precisions.

Modes x_0 ~ N(0, lam) have the best velocity g(s) x with g = (s - (1-s) lam) / V, V = (1-s)^2 lam + s^2, so that every
method is linear in the image and in what it draws. The numbers are products of those gains, computed without taba.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from analytic_denoisers import Analytic

from taba_core.diffusion import (
    CountedDenoiser,
    NoiseSchedule,
    TimestepGrid,
    generate,
    invert_with_report,
    reconstruct,
)
from taba_core.diffusion.ends import Held
from taba_core.diffusion.inversion import inversion_method_named
from taba_core.diffusion.spacing import dynamic_shift
from taba_core.errors import UsageError
from taba_core.theory import GaussianModes

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


EULER, FIXED = ("ddim", {}), ("fixed-point", {"num_evaluations": 5})
UNI, DNA = ("uni-inv", {}), ("dnaedit", {})
HEUN, RF_SOLVER, FIRE = ("heun", {}), ("rf-solver", {}), ("fireflow", {})
PUBLISHED = ("rf-inversion", {"times": "published"})
RF_EULER, RF_ETA = ("rf-inversion", {"eta": 0.0}), ("rf-inversion", {})
STD = [
    ("q=1 28", HEUN, (0.101210, 0.933719, 0.999278)),
    ("q=3 50", HEUN, (0.039473, 0.833418, 0.998208)),
    ("SD3 28", HEUN, (1.377383, 0.932854, 0.999774)),
    ("q=1 28", PUBLISHED, (0.959827, 0.939529, 0.869851)),
    ("q=3 28", PUBLISHED, (1.044524, 1.043822, 1.028703)),
    ("FLUX 50", PUBLISHED, (1.035515, 1.035273, 1.029512)),
]
RMSE = [
    ("q=1 28", HEUN, (0.002364, 0.006301, 0.000721)),
    ("FLUX 50", HEUN, (0.001483, 0.015651, 0.001974)),
    ("q=1 28", PUBLISHED, (0.003568, 0.111852, 0.939802)),
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


TABLES = json.loads((Path(__file__).parents[1] / "data" / "flow_closed_forms.json").read_text())
SOURCE_TIMES = dict(network_time="source", first_time="zero")
# Rows of the tables: a method, and how the inversion goes.
ROWS = {
    "target, v": (EULER, {}),
    "target, eps-vp": (EULER, dict(held="noise-vp")),
    "source": (EULER, SOURCE_TIMES),
    "fixed point 5": (FIXED, {}),
    "UniInv": (UNI, {}),
    "RF-Solver, own": (RF_SOLVER, {}),
    "FireFlow, own": (FIRE, {}),
    "K=1 exact, target": (EULER, dict(forward_steps=1)),
    "K=1 exact, source": (EULER, SOURCE_TIMES | dict(forward_steps=1)),
    "K=1 matched": (EULER, dict(forward_steps=1, forward_level="matched")),
    "K=1 exact, fp 5": (FIXED, dict(forward_steps=1)),
    "K=2 exact, target": (EULER, dict(forward_steps=2)),
    "K=2 exact, source": (EULER, SOURCE_TIMES | dict(forward_steps=2)),
    "K=2 matched": (EULER, dict(forward_steps=2, forward_level="matched")),
    "DNAEdit": (DNA, {}),
    "RF-Inv .5, Euler": (RF_EULER, {}),
    "RF-Inv .5, eta .9": (RF_ETA, {}),
}


@PRECISIONS
@pytest.mark.parametrize(
    ("kind", "row"), [(kind, row) for kind in TABLES for row in ROWS if row in TABLES[kind]]
)
def test_every_row_of_the_tables(kind, row, dtype, tolerance):
    """Four grids of static shifts and, of most rows, those of Stable Diffusion 3 and FLUX, at 28 and 50 steps."""
    method, options = ROWS[row]
    for name, expected in TABLES[kind][row].items():
        measured = std_and_rmse(name, method, dtype, **options)[kind == "rmse"]
        assert measured == pytest.approx(expected, abs=tolerance), name


def test_every_row_of_the_tables_is_known_and_the_images_have_their_spread():
    known = {name for rows in TABLES.values() for name in rows}
    assert known == {*ROWS, "image std F"} and sum(map(len, TABLES.values())) == 28
    for name, expected in TABLES["std"]["image std F"].items():
        modes = GaussianModes(np.array(LAM), flow_grid(name))
        assert modes.sampling_gain() == pytest.approx(expected, abs=6e-7)


K1 = dict(forward_steps=1)
CONVENTIONS = [
    ("q=1 28", "ddim-source", dict(first_time="zero"), (0.066522, 0.724574, 0.912238)),
    ("q=1 28", "ddim-source", dict(first_time="one"), (0.133110, 0.817578, 0.912330)),
    ("FLUX 50", "ddim-source", dict(first_time="zero"), (0.023340, 0.587984, 0.928102)),
    ("q=3 28", "ddim", K1, (0.631979, 0.650403, 0.976208)),
    ("q=3 28", "ddim", K1 | dict(forward_level="matched"), (1.184932, 1.101149, 0.901304)),
    ("q=3 28", "ddim-source", K1, (0.994760, 0.796949, 0.884796)),
    # the network of step 2 is asked at level 1, so that nothing but level 1 matches
    ("q=3 28", "ddim-source", K1 | dict(forward_level="matched"), (0.994760, 0.796949, 0.884796)),
    ("SD3 28", "ddim", dict(forward_steps=2), (0.657390, 0.674602, 0.976265)),
]


@pytest.mark.parametrize("name, method, options, expected", CONVENTIONS, ids=str)
def test_conventions(name, method, options, expected):
    assert std_and_rmse(name, (method, {}), **options)[0] == pytest.approx(expected, abs=6e-7)


@pytest.mark.parametrize("name", ["q=1 28", "FLUX 50", "SD3 28"])
def test_the_closed_form_of_taba_is_the_same(name):
    modes = GaussianModes(np.array(LAM), flow_grid(name))
    for options in ({}, {"forward_steps": 1}, {"forward_steps": 1, "forward_level": "matched"}):
        latent, measured = modes.latent(**options), std_and_rmse(name, EULER, **options)
        assert latent.std == pytest.approx(measured[0], rel=1e-12)
        assert latent.reconstruction_rmse == pytest.approx(measured[1], rel=1e-9)
    source = {"network_time": "source", "first_time": "zero"}
    measured = std_and_rmse(name, ("ddim", {}), **source)[0]
    assert modes.latent(**source).std == pytest.approx(measured, rel=1e-12)
    F = modes.sampling_gain()
    assert F * modes.fixed_point_gain(4) == pytest.approx(std_and_rmse(name, FIXED)[0], rel=1e-9)


class Curved(FlowModes):
    """A velocity that is no line in the state."""

    def predict(self, x, level, cond):
        s = level.time / self.schedule.duration
        return Held.VELOCITY.ends(torch.sin(2 * x + s) - 0.4 * x, x, level)


def latent_of(name, x_0, noise, model=None, T=10, **options):
    grid = TimestepGrid.build(NoiseSchedule.flow(1000, 3.0), T, "shifted")
    model = Curved(grid.schedule) if model is None else model(grid.schedule)
    return invert_with_report(
        model, x_0, grid, inversion_method_named(name, **options), forward_noise=noise
    ).latent


@pytest.fixture
def image_and_noise():
    drawn = torch.randn(
        2, 2, NUM_MODES, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    return 0.5 * drawn[0], drawn[1]


def velocity(x, s):
    return torch.sin(2 * x + s) - 0.4 * x


def s_of(T=10):
    u = np.arange(T + 1) / T
    return (3 * u / (1 + 2 * u)).tolist()


def test_rf_solver_is_its_taylor_step(image_and_noise):
    x, noise = image_and_noise
    found, s = latent_of("rf-solver", x, noise), s_of()
    for a, b in itertools.pairwise(s):
        h, v = b - a, velocity(x, a)
        slope = (velocity(x + h / 2 * v, a + h / 2) - v) / (h / 2)
        x = x + h * v + h**2 / 2 * slope
    assert (found - x).abs().max() < 1e-13


def test_fireflow_reuses_the_last_midpoint(image_and_noise):
    x, noise = image_and_noise
    found, s = latent_of("fireflow", x, noise), s_of()
    w = velocity(x, 0.0)
    for a, b in itertools.pairwise(s):
        w = velocity(x + (b - a) / 2 * w, (a + b) / 2)
        x = x + (b - a) * w
    assert (found - x).abs().max() < 1e-13


def test_dnaedit_is_its_published_recurrence(image_and_noise):
    x, n = image_and_noise
    found, s = latent_of("dnaedit", x, n), s_of()
    for a, b in itertools.pairwise(s):
        p = x + (b - a) / (1 - a) * (n - x)
        x = x + (b - a) * velocity(p, b)
        n = n - (1 - a) * (p - x) / (b - a)
    assert (found - x).abs().max() < 1e-12


def test_uni_inv_of_zero_starts_as_euler_at_target_times(image_and_noise):
    x, noise = image_and_noise
    found, s = latent_of("uni-inv", x, noise, first="zero"), s_of()
    w = torch.zeros_like(x)
    for a, b in itertools.pairwise(s):
        w = velocity(x + (b - a) * w, b)
        x = x + (b - a) * w
    assert (found - x).abs().max() < 1e-13


class TestRFInversion:
    def test_no_weight_is_euler_at_source_times(self, image_and_noise):
        x, noise = image_and_noise
        found, s = latent_of("rf-inversion", x, noise, gamma=0.0), s_of()
        for a, b in itertools.pairwise(s):
            x = x + (b - a) * velocity(x, a)
        assert (found - x).abs().max() < 1e-13

    def test_all_weight_gives_the_noise(self, image_and_noise):
        x, noise = image_and_noise
        assert (latent_of("rf-inversion", x, noise, gamma=1.0) - noise).abs().max() < 1e-13

    def test_all_weight_on_the_image_gives_it_back_whatever_the_latent_is(self, image_and_noise):
        x, noise = image_and_noise
        grid = flow_grid("q=3 28")
        method = inversion_method_named("rf-inversion", eta=1.0, controlled_share=1.0)
        back = reconstruct(Curved(grid.schedule), noise, grid, method, carried={"image": x})
        assert (back - x).abs().max() < 1e-13

    def test_the_image_is_carried_where_the_sampler_needs_it(self):
        assert inversion_method_named("rf-inversion").carried_shapes(flow_grid("q=1 28"), (3, 1, 1), {}) == {
            "image": (3, 1, 1)
        }
        plain = inversion_method_named("rf-inversion", eta=0.0)
        assert not plain.own_sampler and plain.carried_shapes(flow_grid("q=1 28"), (3, 1, 1), {}) == {}

    def test_the_published_times_are_those_of_a_flow(self):
        grid = TimestepGrid.build(NoiseSchedule.linear(), 10)
        one = torch.ones(1, NUM_MODES, 1, 1)
        with pytest.raises(UsageError, match=r"^inversion method 'rf-inversion', option times=published"):
            invert_with_report(
                Analytic(lambda x, t: x),
                one,
                grid,
                inversion_method_named("rf-inversion", times="published"),
                forward_noise=one,
            )


@pytest.mark.parametrize(
    "name, up, down, up_after_3",
    [
        ("heun", 20, 19, 14),
        ("rf-solver", 20, 20, 14),
        ("fireflow", 11, 11, 8),
        ("uni-inv", 11, 10, 8),
        ("dnaedit", 10, 10, 7),
        ("rf-inversion", 10, 10, 7),
    ],
)
def test_evaluations_of_both_directions(name, up, down, up_after_3):  # T = 10
    grid = TimestepGrid.build(NoiseSchedule.flow(1000, 3.0), 10, "shifted")
    method, one = inversion_method_named(name), torch.ones(2, NUM_MODES, 1, 1)
    model = CountedDenoiser(FlowModes(grid.schedule))
    report = invert_with_report(model, one, grid, method, forward_noise=one)
    assert method.evaluations(grid) == up == model.num_calls and report.evaluations.tolist() == [up, up]
    model.num_calls = 0
    reconstruct(model, report.latent, grid, method, carried=report.carried)
    assert method.sampling_evaluations(grid) == down == model.num_calls
    model.num_calls = 0
    invert_with_report(model, one, grid, method, forward_noise=one, forward_steps=3)
    assert method.evaluations(grid, 3) == up_after_3 == model.num_calls
    assert method.evaluations(grid, 10) == 0


@pytest.mark.parametrize(
    "name, least, most",
    [("ddim", 1.9, 2.1), ("rf-solver", 3.4, 9.0), ("fireflow", 3.4, 9.0), ("heun", 3.9, 9.0)],
)
def test_orders_of_sampling(name, least, most):
    """Error of the image's std of modes 1e-2 and 1, from 50 to 100 steps; a flat mode has no order yet."""
    errors = []
    for T in (50, 100):
        grid, one = flow_grid(f"q=1 {T}"), torch.ones(1, NUM_MODES, 1, 1, dtype=torch.float64)
        image = reconstruct(FlowModes(grid.schedule), one, grid, inversion_method_named(name))
        errors.append(np.abs(image.numpy().ravel() / np.sqrt(LAM) - 1))
    ratio = errors[0] / errors[1]
    assert np.all((ratio[1:] > least) & (ratio[1:] < most)), ratio
