"""The terms of Appendix E by hand, their limits, and the closed forms at two different T."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from taba_core.diffusion import NoiseSchedule, TimestepGrid
from taba_core.diffusion.spacing import dynamic_shift
from taba_core.models.mixture_fit import CROP_SIZE, Mixture, low_frequencies
from taba_core.theory import GaussianModes
from workflows.analysis.closed_form import binned, flat_mode_latent, latent_theory, spectrum
from workflows.analysis.findings import Findings
from workflows.analysis.step_law import step_laws
from workflows.configuration.context import Context
from workflows.configuration.settings import parse_settings
from workflows.studies.derivation.flow_claims import find_flow_claims
from workflows.studies.derivation.formulas import _OF_FLOWS, DERIVATION, FLOW_DERIVATION, step_terms


def context(*sets: str, model: str = "gaussian") -> Context:
    return Context(model, "ddim", parse_settings(list(sets)))


@pytest.fixture(scope="module")
def grid():
    return context().grid(50)  # linear betas of 1000 timesteps; level 0 is alpha-bar 1


def test_the_terms_of_two_steps_by_hand(grid):
    terms = step_terms(1e-4, grid)
    # t = 1: abar 1 to .9999: P = sqrt(.9999) = .99995, Q = sigma_1 = .01 (sigma_0 = 0).
    # k = .01 / (.9999e-4 + 1e-4) = 50.0025; rho = (1 - .500025) / .99995 = .5 (one half: sigma^2 = lambda).
    assert [float(x[0]) for x in (terms.P, terms.Q, terms.k, terms.ratio)] == pytest.approx(
        [0.99995, 0.01, 50.0025, 0.5], rel=1e-5
    )
    # kept: 1 - Q k (1 - rho) = 1 - .500025 * .5 = .75; the next step keeps 1 - .8606 * .86 = .26.
    assert terms.kept[:2] == pytest.approx([0.75, 0.2601], abs=2e-4)


def test_the_kept_shares_multiply_to_the_latent(grid):
    variance = np.array([1e-6, 1e-4, 1e-2, 1.0])
    latent = GaussianModes(variance, grid).latent()
    assert np.prod(step_terms(variance, grid).kept, axis=0) == pytest.approx(latent.std, rel=1e-12)


def test_a_mode_without_variance_has_the_ratio_of_the_noise_levels(grid):
    # lambda -> 0: rho_t = sigma_{t-1} / sigma_t for t > 1; the first step keeps nothing.
    sigma = np.sqrt(1 - grid.alpha_bar)
    terms = step_terms(1e-14, grid)
    assert terms.ratio[1:] == pytest.approx(sigma[1:-1] / sigma[2:], rel=1e-6)
    assert float(terms.kept[0]) < 1e-9


def test_every_line_with_a_number_has_one_for_every_step_and_mode(grid):
    terms = step_terms([1e-4, 1.0], grid)
    for line in DERIVATION:
        if line.value is not None:
            assert np.shape(line.value(terms)) == ((2,) if line.of_all_steps else (50, 2)), line.name


# ---------------------------------------------------------------- two different T


def test_images_of_one_grid_inverted_on_another_have_both_gains(grid):
    variance = np.array([1e-4, 1.0])
    fine = GaussianModes(variance, context().grid(200))
    crossed = fine.latent(image_grid=grid)
    sampling = GaussianModes(variance, grid).sampling_gain()
    assert crossed.std == pytest.approx(fine.inversion_gain() * sampling, rel=1e-12)
    # Reconstruction runs on the inversion's grid: image F, image again R G F.
    expected = np.abs(sampling - fine.sampling_gain() * crossed.std)
    assert crossed.reconstruction_rmse == pytest.approx(expected, rel=1e-12)


def test_one_grid_given_twice_is_one_grid(grid):
    modes = GaussianModes(np.array([1e-4, 0.3]), grid)
    for steps, rule in ((0, "exact"), (2, "exact"), (2, "matched")):
        once, twice = modes.latent(steps, rule), modes.latent(steps, rule, image_grid=grid)
        assert twice.std == pytest.approx(once.std, rel=1e-12)
        assert twice.reconstruction_rmse == pytest.approx(once.reconstruction_rmse, rel=1e-9)


def test_a_flat_mode_at_a_thousand_steps_keeps_three_fifths():
    # The catalogue's .601 is of images on the same grid; those of T = 50 have a little less variance.
    own = flat_mode_latent(context(), 1000)
    assert float(own.std) == pytest.approx(0.601, abs=1e-3)
    assert float(flat_mode_latent(context(), 1000, image_steps=50).std) < float(own.std)


def test_closed_forms_are_of_plain_ddim_only():
    assert latent_theory(context(), 20) is not None
    assert flat_mode_latent(context("network_time=source"), 20) is None
    assert step_laws(context("network_time=source"), 20) == ()
    assert latent_theory(context(model="adm-64"), 100) is None


# ---------------------------------------------------------------- many modes


def test_pooled_ratios_weigh_modes_by_the_spread_of_their_predictions(grid):
    laws = step_laws(context("model.variance=0.25"), 50)
    flat = "flat mode (λ = 0.0001)"
    assert [law.label for law in laws] == ["all modes", flat, f"{flat}, exact marginals"]
    modes = GaussianModes(spectrum(context("model.variance=0.25")).variance, grid)
    eps = modes.sampled_eps_std()
    # The prediction at the noisiest level is k_T times a state of unit variance.
    assert eps[-1] == pytest.approx(modes.eps_gain(grid.levels[-1]), rel=1e-12)
    pooled = np.sqrt(_pooled(modes, eps))
    assert laws[0].values == pytest.approx(pooled, rel=1e-12)


def _pooled(modes, eps):
    ratio = modes.sampled_step_ratio()
    return [float(np.sum((e * r) ** 2) / np.sum(e**2)) for e, r in zip(eps, ratio, strict=True)]


def test_the_modes_of_a_component_are_the_eigenvalues_of_its_covariance():
    generator = np.random.default_rng(0)
    low, d = low_frequencies(CROP_SIZE), 3 * CROP_SIZE**2
    factors = generator.standard_normal((1, len(low), 2)).astype(np.float32)
    remainder = generator.uniform(0.01, 0.1, (1, d)).astype(np.float32)
    mixture = Mixture(
        ("one",), np.zeros(1, np.int64), np.zeros(1), np.zeros((1, d), np.float32), remainder, factors
    )
    variance = mixture.mode_variance()[0]
    # Trace and determinant of U U^T + D: sums of squares, and the matrix determinant lemma.
    U, D = factors[0].astype(float), remainder[0].astype(float)
    assert variance.sum() == pytest.approx(D.sum() + np.square(U).sum(), rel=1e-12)
    lemma = np.linalg.slogdet(np.eye(2) + U.T @ (U / D[low, None]))[1] + np.log(D).sum()
    assert np.log(variance).sum() == pytest.approx(lemma, rel=1e-9)
    assert math.isclose(variance.min(), np.delete(D, low).min()) or variance.min() >= D.min() * (1 - 1e-9)


def test_a_mixture_pools_its_components_by_their_share(monkeypatch):
    """Two components of one variance each are two flat modes, weighed 3 to 1."""
    from taba_core.models import mixture_fit
    from workflows.analysis import closed_form

    low, d = low_frequencies(CROP_SIZE), 3 * CROP_SIZE**2
    mixture = Mixture(
        class_names=("one",),
        component_class=np.zeros(2, np.int64),
        log_weight=np.log([0.75, 0.25]),
        mean=np.zeros((2, d), np.float32),
        remainder=np.stack([np.full(d, 1e-4), np.ones(d)]).astype(np.float32),
        factors=np.zeros((2, len(low), 1), np.float32),
    )
    monkeypatch.setattr(mixture_fit, "cached_mixture", lambda options: mixture)
    closed_form._component_spectrum.cache_clear()
    try:
        found = latent_theory(context(model="photo-mixture"), 50)
        flat, full = (GaussianModes(np.array(v), context().grid(50)).latent() for v in (1e-4, 1.0))
    finally:
        closed_form._component_spectrum.cache_clear()
    # .75 x .113^2 + .25 x .998^2 = .0096 + .2492 = .2588, std .509
    assert found.std == pytest.approx(math.sqrt(0.75 * flat.std**2 + 0.25 * full.std**2), rel=1e-6)
    assert found.std == pytest.approx(0.509, abs=1e-3)
    error = 0.75 * flat.expected_absolute_error + 0.25 * full.expected_absolute_error
    assert found.error == pytest.approx(float(error), rel=1e-6)
    # An image may come back in the other component, which no gain of a mode tells.
    assert math.isnan(found.mae) and math.isfinite(latent_theory(context(), 50).mae)


def test_binned_modes_average_as_the_modes_do():
    variance = np.exp(np.random.default_rng(1).normal(-6, 2, (3, 4000)))
    grid, weight = binned(variance)
    assert weight.sum(axis=1) == pytest.approx(np.ones(3), rel=1e-12)
    # A linear function of log variance is averaged exactly, a smooth one to second order.
    assert weight @ np.log(grid) == pytest.approx(np.log(variance).mean(axis=1), rel=1e-12)
    smooth = 1 / (1 + 0.01 / variance)
    assert weight @ (1 / (1 + 0.01 / grid)) == pytest.approx(smooth.mean(axis=1), rel=1e-4)
    # Modes of one variance are one bin.
    grid, weight = binned(np.full((1, 5), 0.3))
    assert weight @ grid == pytest.approx([0.3])


def test_the_terms_of_a_flow_are_those_of_its_velocity():
    # s = 0, .25, .5, .75, 1; lam = 1: k = (2 s - 1) / ((1 - s)^2 + s^2), so k_1 = -.5 / .625 = -.8, k_4 = 1
    grid = TimestepGrid.build(NoiseSchedule.flow(1000), 4, "diffusers-trailing")
    terms = step_terms(1.0, grid)
    assert pytest.approx([1, 1, 1, 1]) == terms.P and pytest.approx([0.25] * 4) == terms.Q
    assert terms.k == pytest.approx([-0.8, 0, 0.8, 1])
    assert terms.ratio == pytest.approx([1.2, 1, 0.8, 0.75])
    # latent std .8 * 1 * 1.2 * 1.25 times image std 1.2 * 1 * .8 * .75
    assert np.prod(terms.kept) == pytest.approx(0.8 * 1.2 * 1.25 * 1.2 * 0.8 * 0.75)
    assert GaussianModes(np.array(1.0), grid).latent().std == pytest.approx(np.prod(terms.kept))
    changed = [line.name for line, flow in zip(DERIVATION, FLOW_DERIVATION, strict=True) if line != flow]
    assert set(changed) == set(_OF_FLOWS) and {"P", "Q", "k"} < set(changed)


# ---------------------------------------------------------------- claims on a flow's levels


def flow_claims(shift, steps, style="shifted"):
    found = Findings()
    find_flow_claims(found, TimestepGrid.build(NoiseSchedule.flow(1000, shift), steps, style))
    return {entry["id"]: entry for entry in json.loads(found.dataset().attrs["claims"])}


@pytest.mark.parametrize(
    ("shift", "steps", "style", "numbers", "fails"),
    [
        # Standard deviations of latents by the products of gains, worked out without taba.
        (3.0, 28, "shifted", {"F1": (0.011265, 0.972048), "F3": (0.011265, 0.631979), "F4": (1.184932,)}, set()),
        (1.0, 50, "shifted", {"F1": (0.190123, 0.988647), "F3": (0.190123, 0.504308), "F4": (0.992379,)}, {"F4"}),
        (3.0, 28, "sd3-default", {"F1": (0.088158, 0.972067), "F3": (0.088158, 0.117880)}, {"F3"}),
        (dynamic_shift(4096), 50, "shifted", {"F1": (0.029588, 0.983153), "F3": (0.029588, 0.593941)}, set()),
    ],
)  # fmt: skip
def test_claims_on_the_levels_of_a_flow_have_the_closed_forms(shift, steps, style, numbers, fails):
    claims = flow_claims(shift, steps, style)
    assert set(claims) == {"F1", "F2", "F3", "F4", "F5", "F6"}
    for name, expected in numbers.items():
        assert tuple(claims[name]["numbers"].values()) == pytest.approx(expected, abs=1e-6), name
    assert {name for name, claim in claims.items() if claim["verdict"] == "fails"} == fails


def test_the_worst_step_of_a_flow_is_its_first_and_of_sd3_its_second():
    # Shares of the logarithm: FLUX .85 at T = 50, shift 1 .62, the shift of SD3 applied twice .74 at T = 28.
    for shift, steps, style, step, share in (
        (dynamic_shift(4096), 50, "shifted", 1, 0.85),
        (1.0, 50, "shifted", 1, 0.62),
        (3.0, 28, "sd3-default", 2, 0.74),
    ):
        numbers = flow_claims(shift, steps, style)["F2"]["numbers"]
        assert numbers["step"] == step and numbers["share"] == pytest.approx(share, abs=6e-3)


def test_source_times_after_one_replaced_step_and_errors_beside_betas():
    flux = flow_claims(dynamic_shift(4096), 28)
    numbers = flux["F5"]["numbers"]
    assert (numbers["std_source"], numbers["std_target"]) == pytest.approx((0.995266, 0.638255), abs=1e-6)
    assert (numbers["rmse_source"], numbers["rmse_target"]) == pytest.approx((0.155, 0.117), abs=5e-4)
    # 0.016230 on FLUX's levels and 0.001585 on linear betas, T = 50.
    ratio = flow_claims(dynamic_shift(4096), 50)["F6"]["numbers"]["ratio"]
    assert ratio == pytest.approx(0.016230 / 0.001585, rel=1e-3)


def test_other_grids_and_single_steps_have_fewer_claims():
    found = Findings()
    find_flow_claims(found, TimestepGrid.build(NoiseSchedule.linear(), 10))
    assert json.loads(found.dataset().attrs["claims"]) == []
    assert set(flow_claims(1.0, 1)) == {"F1", "F6"}
