"""The single step and the x_0 rules, by hand."""

import math

import pytest
import torch
from analytic_denoisers import normal
from torch.testing import assert_close

from taba_core.diffusion import apply_x0_rule, ddim_step, forward_diffuse, predict_x0
from taba_core.diffusion.ends import Ends
from taba_core.diffusion.level import Level
from taba_core.errors import UsageError


def scalars(*values):
    return torch.tensor(values, dtype=torch.float64).reshape(1, 1, 1, -1)


def test_one_step_by_hand():
    # a: .64 -> .36, sigma: .6 -> .8;  x_0 = (1 - .6 * .5) / .8 = .875;  x = .6 * .875 + .8 * .5 = .925
    assert_close(predict_x0(scalars(1.0), scalars(0.5), Level.vp(0.64)), scalars(0.875))
    assert_close(ddim_step(scalars(1.0), scalars(0.5), Level.vp(0.64), Level.vp(0.36)), scalars(0.925))


def test_ends_of_the_path():
    x, eps = normal((2, 3, 4, 4), 0), normal((2, 3, 4, 4), 1)
    # pure noise is the prediction itself
    assert torch.equal(ddim_step(x, eps, Level.vp(0.5), Level.vp(0.0)), eps)
    assert_close(ddim_step(x, eps, Level.vp(0.5), Level.vp(1.0)), predict_x0(x, eps, Level.vp(0.5)))
    # from a clean image: forward diffusion
    assert_close(ddim_step(x, eps, Level.vp(1.0), Level.vp(0.36)), 0.6 * x + 0.8 * eps)
    assert_close(ddim_step(x, eps, Level.vp(1.0), Level.vp(0.36)), forward_diffuse(x, eps, Level.vp(0.36)))
    assert torch.equal(ddim_step(x, eps, Level.vp(0.5), Level.vp(0.5)), x)


def test_there_and_back_with_the_same_noise():
    x, eps = normal((2, 3, 4, 4), 0), normal((2, 3, 4, 4), 1)
    assert_close(
        ddim_step(ddim_step(x, eps, Level.vp(0.9), Level.vp(0.2)), eps, Level.vp(0.2), Level.vp(0.9)),
        x,
        rtol=0,
        atol=1e-14,
    )


def test_small_steps_keep_float32_digits():
    # the last levels of 1000 steps: alpha_bar 4e-5; dividing by sqrt(a) first would cost two digits
    x, eps = normal((1, 3, 8, 8), 0, torch.float32), normal((1, 3, 8, 8), 1, torch.float32)
    exact = ddim_step(x.double(), eps.double(), Level.vp(4.0e-5), Level.vp(4.1e-5))
    assert (ddim_step(x, eps, Level.vp(4.0e-5), Level.vp(4.1e-5)) - exact).abs().max() < 5e-7


# a = .36: sigma .8; x = 1.2, eps = .5 -> x_0 = (1.2 - .4) / .6 = 4/3
RULES = {
    "none": (4 / 3, 0.5),
    "clip": (1.0, 0.5),
    "clip-rederive": (1.0, (1.2 - 0.6) / 0.8),  # eps from the clamped x_0: .75
    "dynamic": (1.0, 0.5),  # one pixel: s = 4/3, x_0 / s = 1
}


@pytest.mark.parametrize("rule", RULES)
def test_x0_rules_by_hand(rule):
    x_0, eps = apply_x0_rule(Ends(scalars(1.2), Level.vp(0.36), scalars(0.5)), rule)
    assert_close((x_0, eps), (scalars(RULES[rule][0]), scalars(RULES[rule][1])))


def test_dynamic_threshold_is_the_95_percent_quantile_of_each_image():
    # |x_0| = 0, .1, .., 2.0 (21 values): 95 % quantile at index 19 = 1.9, limited to 1.5
    # second image: a tenth of that; quantile .19, raised to 1: unchanged
    ramp = torch.arange(21, dtype=torch.float64) / 10
    x = torch.stack([ramp, ramp / 10]).reshape(2, 1, 1, 21)
    x_0, _ = apply_x0_rule(Ends(x, Level.vp(1.0), torch.zeros_like(x)), "dynamic")
    assert_close(x_0[0, 0, 0], ramp.clamp(max=1.5) / 1.5)
    assert_close(x_0[1], x[1])
    # quantile inside the limits: |x_0| = 0, .06, .., 1.2: index 19 -> 1.14
    x = (ramp * 0.6).reshape(1, 1, 1, 21)
    x_0, _ = apply_x0_rule(Ends(x, Level.vp(1.0), torch.zeros_like(x)), "dynamic")
    assert_close(x_0[0, 0, 0], (ramp * 0.6).clamp(max=1.14) / 1.14)


def test_rederiving_without_noise_keeps_eps():
    x_0, eps = apply_x0_rule(Ends(scalars(1.2), Level.vp(1.0), scalars(0.5)), "clip-rederive")
    assert (x_0.item(), eps.item()) == (1.0, 0.5)


def test_forward_noise_has_the_levels_variance():
    # x_0 = 0: variance 1 - a = .64; 40,000 numbers, standard error of it .64 sqrt(2 / 40000) = .0045
    x = forward_diffuse(
        torch.zeros(4, 1, 100, 100), normal((4, 1, 100, 100), 3, torch.float32), Level.vp(0.36)
    )
    assert math.isclose(x.var().item(), 0.64, abs_tol=0.018)


@pytest.mark.parametrize(
    "call, text",
    [
        (
            lambda x: ddim_step(x, x, Level.vp(0.0), Level.vp(0.5)),
            "at alpha=0 the clean image cannot be recovered from pure noise and its prediction.",
        ),
        (lambda x: ddim_step(x, x, Level.vp(0.5), Level.vp(1.5)), "alpha_bar=1.5 must be in [0, 1]."),
        (lambda x: forward_diffuse(x, x, Level.vp(-0.1)), "alpha_bar=-0.1 must be in [0, 1]."),
        (
            lambda x: forward_diffuse(x, x[..., :1], Level.vp(0.5)),
            "noise of shape (1, 1, 1, 1) does not fit x_0 of shape (1, 1, 1, 2).",
        ),
    ],
)
def test_impossible_levels(call, text):
    with pytest.raises(ValueError) as error:
        call(scalars(1.0, 2.0))
    assert str(error.value) == text


def test_unknown_rule():
    with pytest.raises(UsageError, match="unknown x0_rule 'clamp': did you mean clip"):
        apply_x0_rule(Ends(scalars(1.0), Level.vp(0.5), scalars(1.0)), "clamp")
