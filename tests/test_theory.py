"""The closed forms against tabulated values, against each other, and against the tensor code."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from taba_core.diffusion import NoiseSchedule, TimestepGrid, generate, invert
from taba_core.errors import UsageError
from taba_core.theory import GaussianModes, lag_correlation, power_law_spectrum

VARIANCES = np.array([1e-4, 1e-2, 1.0])
GRIDS = {
    "dit": TimestepGrid.build(NoiseSchedule.linear(), 50),
    "sdxl": TimestepGrid.build(NoiseSchedule.scaled_linear(), 50, "diffusers-leading", 1, "first"),
}
SHIFTED = dict(network_time="source", levels="shifted")

# Regression table of the linear-Gaussian test bed, variances 1e-4, 1e-2, 1, six decimals.
GAINS = {
    "dit": {
        "F": [0.005575, 0.078354, 0.964079],
        "target": [20.307031, 7.914490, 1.035554],
        "source": [83.623728, 7.912518, 0.964176],
        "exact": [179.370317, 12.762605, 1.037259],
        "fixed point 1": [48.668324, 11.407783, 1.037148],
        "fixed point 4": [104.039715, 12.729101, 1.037259],
    },
    "sdxl": {
        "F": [0.030340, 0.086039, 0.973614],
        "target": [11.892352, 7.395875, 1.026271],
        "source": [29.561803, 7.968890, 0.973757],
        "exact": [32.960215, 11.622661, 1.027101],
        "fixed point 1": [20.053664, 10.109604, 1.027064],
        "fixed point 4": [28.912503, 11.492741, 1.027101],
    },
}
FORWARD = {
    ("dit", 1): ([0.154999, 0.619032, 0.998310], [0.005209, 0.030858, 0.010124]),
    ("dit", 2): ([0.578351, 0.652878, 0.996165], [0.006242, 0.055905, 0.079131]),
    ("sdxl", 1): ([0.476824, 0.676576, 0.999165], [0.024702, 0.041969, 0.041277]),
    ("sdxl", 2): ([0.786680, 0.795002, 0.994806], [0.034445, 0.077234, 0.140085]),
}
# Latent std and reconstruction RMSE of whole methods, three and four decimals.
METHODS = {
    ("dit", "target"): ([0.113, 0.620, 0.998], [0.0049, 0.0298, 0.0016]),
    ("dit", "source"): ([0.466, 0.620, 0.930], [0.0030, 0.0298, 0.0679]),
    ("dit", "fixed point 1"): ([0.271, 0.894, 1.00], None),
    ("dit", "fixed point 4"): ([0.580, 0.997, 1.00], None),
    ("dit", "matched 1"): ([1.074, 0.872, 0.999], None),
    ("dit", "forward 2, exact"): ([0.9965, 0.933, 0.998], [0.0076, 0.0586, 0.0791]),
    ("sdxl", "target"): ([0.361, 0.636, 0.999], [0.0194, 0.0313, 0.0008]),
    ("sdxl", "source"): ([0.897, 0.686, 0.948], [0.0031, 0.0270, 0.0506]),
    ("sdxl", "fixed point 1"): ([0.608, 0.870, 1.00], None),
    ("sdxl", "fixed point 4"): ([0.877, 0.989, 1.00], None),
    ("sdxl", "matched 1"): ([1.334, 1.163, 1.00], None),
    ("sdxl", "forward 2, exact"): ([1.018, 0.972, 0.996], [0.0385, 0.0832, 0.1401]),
}


def gain(modes, method):
    return {
        "F": modes.sampling_gain,
        "target": modes.inversion_gain,
        "source": lambda: modes.inversion_gain(network_time="source"),
        "exact": modes.exact_inversion_gain,
        "fixed point 1": lambda: modes.fixed_point_gain(1),
        "fixed point 4": lambda: modes.fixed_point_gain(4),
    }[method]()


def latent(modes, method):
    if method == "matched 1":
        return modes.latent(1, "matched")
    if method == "forward 2, exact":
        return modes.latent_with(modes.exact_inversion_gain(2), modes.grid.forward_alpha_bar(2))
    return modes.latent_with(gain(modes, method))


@pytest.mark.parametrize("grid, method", [(g, m) for g in GAINS for m in GAINS[g]])
def test_gains(grid, method):
    assert_allclose(
        gain(GaussianModes(VARIANCES, GRIDS[grid]), method), GAINS[grid][method], rtol=0, atol=6e-7
    )


@pytest.mark.parametrize("grid, K", FORWARD)
def test_forward_replacement(grid, K):
    result = GaussianModes(VARIANCES, GRIDS[grid]).latent(K)
    assert_allclose(result.std, FORWARD[grid, K][0], rtol=0, atol=6e-7)
    assert_allclose(result.reconstruction_rmse, FORWARD[grid, K][1], rtol=0, atol=6e-7)


@pytest.mark.parametrize("grid, method", METHODS)
def test_methods(grid, method):
    result, (std, rmse) = latent(GaussianModes(VARIANCES, GRIDS[grid]), method), METHODS[grid, method]
    assert_allclose(result.std, std, rtol=0, atol=5.1e-4)
    if rmse is not None:
        assert_allclose(result.reconstruction_rmse, rmse, rtol=0, atol=5.1e-5)


# (grid, variance): std of DDIM, K=1 exact, K=1 matched, K=2 exact, K=2 matched, shifted K=0, shifted K=1
LINEAR_1000 = TimestepGrid.build(NoiseSchedule.linear(), 1000)
COSINE_100 = TimestepGrid.build(NoiseSchedule.cosine(4000, timestep_scale=0.25), 100, "guided")
STD = [
    (GRIDS["dit"], 1e-6, [0.003, 0.137, 1.082, 0.579, 1.040, 0.010, 1.000]),
    (GRIDS["dit"], 1e-4, [0.113, 0.155, 1.074, 0.578, 1.038, 0.311, 0.993]),
    (GRIDS["dit"], 1e-2, [0.620, 0.619, 0.872, 0.653, 0.951, 0.614, 0.818]),
    (GRIDS["dit"], 1.0, [0.998, 0.998, 0.999, 0.996, 0.997, 0.929, 0.932]),
    (LINEAR_1000, 1e-4, [0.601, 0.708, 0.954, None, None, 0.470, None]),
    (COSINE_100, 1e-4, [0.264, 0.275, 1.078, 0.612, 0.995, 0.348, 0.943]),
]


@pytest.mark.parametrize("grid, variance, expected", STD)
def test_latent_std_under_every_convention(grid, variance, expected):
    modes = GaussianModes(np.array(variance), grid)
    results = [
        modes.latent(),
        modes.latent(1),
        modes.latent(1, "matched"),
        modes.latent(2),
        modes.latent(2, "matched"),
        modes.latent(**SHIFTED),
        modes.latent(1, **SHIFTED),
    ]
    for result, value in zip(results, expected, strict=True):
        assert value is None or abs(float(result.std) - value) < 5.1e-4


def test_a_matched_start_costs_the_reconstruction_of_one_more_step():
    # mode variance .1, linear, T = 50
    modes = GaussianModes(np.array(0.1), GRIDS["dit"])
    rules = [(0, "exact"), (1, "exact"), (1, "matched"), (2, "exact"), (2, "matched")]
    rmse = [float(modes.latent(*rule).reconstruction_rmse) for rule in rules]
    assert_allclose(rmse, [0.032, 0.033, 0.078, 0.081, 0.129], rtol=0, atol=5.1e-4)


FIELD = [  # K, rule, network time, horizontal lag-1 correlation, pooled std
    (0, "exact", "target", 0.558, 0.32),
    (1, "exact", "target", 0.516, 0.33),
    (1, "matched", "target", -0.050, 1.02),
    (2, "exact", "target", 0.059, 0.60),
    (2, "matched", "target", -0.021, 1.02),
    (1, "exact", "source", 0.043, 0.50),
    (2, "exact", "source", -0.046, 0.94),
]


@pytest.mark.parametrize("K, rule, network_time, correlation, std", FIELD)
def test_plain_field(K, rule, network_time, correlation, std):
    modes = GaussianModes(power_law_spectrum(32, 3, 0.01), GRIDS["dit"])
    power = modes.latent(K, rule, network_time=network_time).std ** 2
    assert abs(lag_correlation(power) - correlation) < 6e-4
    assert abs(math.sqrt(power.mean()) - std) < 5.1e-3


def test_plain_field_at_source_time_without_a_first_prediction():
    # A source-time network at level 0 sees no noise and predicts none: step 1 only rescales (.256, .41).
    # Ours asks at the time of level 1 instead, which predicts some (.130, .46).
    modes = GaussianModes(power_law_spectrum(32, 3, 0.01), GRIDS["dit"])
    rescaled = math.sqrt(modes.grid.alpha_bar[1]) * modes.inversion_gain(1, network_time="source")
    for inversion_gain, expected in [
        (rescaled, (0.256, 0.41)),
        (modes.inversion_gain(network_time="source"), (0.130, 0.46)),
    ]:
        power = modes.latent_with(inversion_gain).std ** 2
        assert_allclose([lag_correlation(power), math.sqrt(power.mean())], expected, rtol=0, atol=5e-3)


def test_natural_field():
    modes = GaussianModes(power_law_spectrum(32, 2.4, 0.25), GRIDS["dit"])
    rules = [(0, "exact"), (1, "exact"), (1, "matched"), (2, "exact"), (2, "matched")]
    correlations = [lag_correlation(modes.latent(*rule).std ** 2) for rule in rules]
    assert_allclose(correlations, [0.108, 0.108, 0.039, 0.108, 0.013], rtol=0, atol=6e-4)


def test_spectrum_has_the_pixel_variance_and_the_slope():
    lam = power_law_spectrum(32, 3, 0.01)
    assert math.isclose(lam.mean(), 0.01, rel_tol=1e-12)
    assert math.isclose(lam[0, 1] / lam[0, 4], 4**3)
    assert lag_correlation(np.ones((8, 8))) == pytest.approx(0, abs=1e-15)  # white noise


def test_step_ratio_is_smallest_in_step_two_of_a_plain_mode():
    modes = GaussianModes(np.array([1e-4, 1.0]), GRIDS["dit"])
    ratio = modes.sampled_step_ratio()[[0, 1, 2, 5, 10, 25]]
    assert_allclose(ratio[:, 0], [0.50, 0.14, 0.56, 0.82, 0.92, 0.99], rtol=0, atol=5.1e-3)
    assert_allclose(ratio[:, 1], 1, rtol=0, atol=5e-3)
    assert modes.sampled_step_ratio()[:, 0].argmin() == 1


def test_step_law_on_exact_marginals():
    # variance -> 0: rho(1) -> 0 and rho(2) -> sigma_1 / sigma_2 = .0100 / .0791 = .126; variance 1: always 1
    rho = GaussianModes(np.array([1e-12, 1.0]), GRIDS["dit"]).marginal_step_ratio()
    assert rho[0, 0] < 2e-4
    assert rho[1, 0] == pytest.approx(0.126, abs=5e-4)
    assert_allclose(rho[:, 1], 1, rtol=1e-14)


def test_expected_absolute_error_and_kl_by_hand():
    # a = .64, F = .5, G = 2: signal .8, injected .6 * 2 = 1.2; error std sqrt(.2^2 + 1.2^2) = sqrt(1.48)
    modes = GaussianModes(np.array([1.0]), GRIDS["dit"])
    result = type(modes.latent())(np.array([0.5]), np.array([2.0]), 0.64)
    assert_allclose(result.std**2, 0.64 + 1.44)
    assert_allclose(result.expected_absolute_error, math.sqrt(2 / math.pi * 1.48))
    assert_allclose(result.kl_to_noise, (2.08 - 1 - math.log(2.08)) / 2)
    assert_allclose(result.reconstruction_rmse, 0.5 * math.sqrt(1.48))


@pytest.mark.parametrize("grid", [*GRIDS.values(), COSINE_100], ids=["dit", "sdxl", "cosine"])
def test_exact_inversion_returns_the_noise_and_fixed_point_tends_to_it(grid):
    modes = GaussianModes(VARIANCES, grid)
    exact = modes.exact_inversion_gain()
    assert modes.latent_with(exact).noise_error_std.max() < 1e-13
    assert_allclose(modes.fixed_point_gain(0), modes.inversion_gain(), rtol=1e-14)
    assert_allclose(modes.fixed_point_gain(300), exact, rtol=1e-9)


# T2: the tensor code with the optimal denoiser of a Gaussian, one mode per channel.
CONVENTIONS = [
    {},
    {"network_time": "source"},
    SHIFTED,
    {"forward_steps": 1},
    {"forward_steps": 2},
    {"forward_steps": 1, "forward_level": "matched"},
    {"forward_steps": 2, "forward_level": "matched"},
    {"forward_steps": 1, **SHIFTED},
    {"forward_steps": 3, "network_time": "source"},
]


class GaussianChannels:
    """Optimal denoiser of independent modes, channel c of variance VARIANCES[c]."""

    sample_shape, value_range = (3, 1, 1), (-1.0, 1.0)

    def __init__(self, schedule):
        self.schedule = schedule
        self.variance = torch.tensor(VARIANCES).view(1, 3, 1, 1)

    def eps(self, x_t, t, cond):
        a = float(self.schedule.alpha_bar[round(t / self.schedule.timestep_scale)])
        return math.sqrt(1 - a) / (a * self.variance + 1 - a) * x_t


@pytest.mark.parametrize("grid", [*GRIDS.values(), COSINE_100], ids=["dit", "sdxl", "cosine"])
@pytest.mark.parametrize("conventions", CONVENTIONS, ids=str)
def test_the_tensor_code_has_these_gains(grid, conventions):
    model, modes, ones = (
        GaussianChannels(grid.schedule),
        GaussianModes(VARIANCES, grid),
        torch.ones(1, 3, 1, 1),
    )
    image = generate(model, ones.double(), grid)
    assert_allclose(image.flatten(), modes.sampling_gain(), rtol=1e-10)
    result = modes.latent(**conventions)
    for z in (0.0, 1.0):
        x = invert(model, image, grid, forward_noise=z * ones.double(), **conventions)
        assert_allclose(x.flatten(), result.signal_gain + z * result.injected_std, rtol=1e-10)


def test_sampling_converges_at_first_order():
    # Endpoint gain against the exact flow, sqrt(lam / (a_T lam + 1 - a_T)); trailing grids share the end 999.
    lam, errors = 0.04, []
    for T in (50, 100, 200):
        grid = TimestepGrid.build(NoiseSchedule.linear(), T, "diffusers-trailing", final_alpha_bar="first")
        start, end = grid.alpha_bar[-1], grid.alpha_bar[0]
        exact = math.sqrt((end * lam + 1 - end) / (start * lam + 1 - start))
        errors.append(exact - float(GaussianModes(np.array(lam), grid).sampling_gain()))
    assert_allclose(np.divide(errors[:-1], errors[1:]), 2, rtol=0.1)


def test_variances_must_be_positive():
    with pytest.raises(UsageError, match="smallest mode variance 0: every mode needs a positive variance"):
        GaussianModes(np.array([1.0, 0.0]), GRIDS["dit"])


@pytest.mark.parametrize("wrong", [np.ones(3) * 1j, np.array(["1"]), None, np.ones((0, 4)), [[1, 2], "a"]])
def test_what_is_no_array_of_real_numbers_is_refused_by_name(wrong):
    wrong = np.asarray(wrong, dtype=object) if isinstance(wrong, list) else wrong
    with pytest.raises(UsageError, match=r"^GaussianModes: variance is an array of shape .* real numbers"):
        GaussianModes(wrong, GRIDS["dit"])
    with pytest.raises(UsageError, match=r"^lag_correlation: mode_variance is an array of shape"):
        lag_correlation(wrong)


@pytest.mark.parametrize("wrong", [np.ones(4), np.zeros((4, 4)), -np.ones((4, 4)), np.full((4, 4), np.nan)])
def test_a_spectrum_is_one_field_of_finite_variances(wrong):
    with pytest.raises(
        UsageError, match=r"^lag_correlation: mode_variance has shape .* Select one field first"
    ):
        lag_correlation(wrong)
