"""EDICT, BDIA, O-BELM and Rex: samplers of two coupled states, whose inverse is algebra."""

import math

import numpy as np
import pytest
import torch
from analytic_denoisers import LINEAR, Analytic, constant, gaussian, normal, waves
from torch.testing import assert_close

from taba_core.diffusion import CountedDenoiser, NoiseSchedule, TimestepGrid, ddim_step, generate
from taba_core.diffusion.inversion import inversion_method_named, invert_with_report, reconstruct
from taba_core.diffusion.level import Level
from taba_core.errors import UsageError, WorkError

SHAPE = (4, 3, 4, 4)
GRID = TimestepGrid.build(LINEAR, 50)
A = GRID.alpha_bar
S = np.sqrt((1 - A) / A)
PAIRS = ("edict", "bdia", "o-belm", "rex")
ONE = torch.ones(1, 3, 4, 4, dtype=torch.float64)


def there_and_back(model, image, method, grid=GRID, **options):
    """(report, image again)"""
    report = invert_with_report(model, image, grid, method, **options)
    given = {key: value for key, value in options.items() if key in ("cond", "x0_rule")}
    return report, reconstruct(model, report.latent, grid, method, carried=report.carried, **given)


def gains(method, variance, **options):
    """Factors from an image mode to the two states at level T, for the optimal linear network."""
    method = inversion_method_named(method, **options)
    report = invert_with_report(gaussian(variance), ONE, GRID, method)
    return report.latent[0, 0, 0, 0].item(), report.carried["partner"][0, 0, 0, 0].item()


def eps_gain(variance):
    """k_l, eps = k_l x at levels 0..T."""
    return np.sqrt(1 - A) / (A * variance + 1 - A)


@pytest.mark.parametrize("method", PAIRS)
@pytest.mark.parametrize("grid", ["leading", "trailing", "guided", "offset", "one step", "two steps"])
def test_inversion_and_its_own_sampler_are_exact_inverses(method, grid):  # T3
    cosine = NoiseSchedule.cosine(4000, timestep_scale=0.25)
    grid = {
        "leading": GRID,
        "trailing": TimestepGrid.build(LINEAR, 30, "diffusers-trailing"),
        "guided": TimestepGrid.build(cosine, 50, "guided"),
        "offset": TimestepGrid.build(LINEAR, 50, steps_offset=1, final_alpha_bar="first"),
        "one step": TimestepGrid.build(LINEAR, 1),
        "two steps": TimestepGrid.build(LINEAR, 2),
    }[grid]
    model = waves(grid.schedule)
    image = generate(model, normal(SHAPE, 1), grid)
    _, again = there_and_back(model, image, method, grid)
    assert (again - image).abs().max() < 1e-11 * image.abs().max()


@pytest.mark.parametrize("method", PAIRS)
def test_a_float32_store_holds_the_pair_to_48_bits(method):  # T3 in float32
    # The states are float64; `rounding` keeps what float32 drops of the two, so nothing is lost on the way.
    model = waves()
    image = generate(model, normal(SHAPE, 1, torch.float32), GRID)
    report, again = there_and_back(model, image, method)
    assert {x.dtype for x in (report.latent, *report.carried.values())} == {torch.float32}
    assert (again - image).abs().max() <= 2e-7 * image.abs().max()


@pytest.mark.parametrize(
    "method, gap_gain", [("edict", 186.5), ("bdia", 51.88), ("o-belm", 0.5878), ("rex", 564_700)]
)
def test_what_a_gap_between_the_states_does_to_the_image(method, gap_gain):
    # variance 1e-4: x_0 per unit of x_T with the partner held; the reason why `rounding` is stored. The sum of
    # both states' gains is near that of DDIM sampling, F = .0056.
    def image_gain(latent, partner):
        carried = {"partner": partner, "rounding": torch.zeros(1, 2, 3, 4, 4, dtype=torch.float64)}
        return reconstruct(gaussian(1e-4), latent, GRID, method, carried=carried)[0, 0, 0, 0].item()

    assert abs(image_gain(ONE, 0 * ONE)) == pytest.approx(gap_gain, rel=1e-3)
    assert abs(image_gain(ONE, ONE)) < 0.04


def test_without_the_stored_rounding_rex_loses_what_the_others_keep():
    model = waves()
    image = generate(model, normal(SHAPE, 1, torch.float32), GRID)
    error = {}
    for method in PAIRS:
        report = invert_with_report(model, image, GRID, method)
        carried = {**report.carried, "rounding": torch.zeros_like(report.carried["rounding"])}
        error[method] = (reconstruct(model, report.latent, GRID, method, carried=carried) - image).abs().max()
    assert all(error[method] < 1e-5 for method in ("edict", "bdia", "o-belm"))
    assert error["rex"] > 1e-4


@pytest.mark.parametrize("method", PAIRS)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 3e-6), (torch.float64, 5e-9)])
def test_a_constant_network_is_inverted_exactly(method, dtype, tolerance):  # T1
    # float64: O-BELM amplifies the rounding of x_1 by (last d / first d)^2 = 1.6e7, so 1e-9 is what it can do
    model, noise = constant(0.3), normal(SHAPE, 0, dtype)
    image = generate(model, noise, GRID)
    report, again = there_and_back(model, image, method)
    assert (report.latent - noise).abs().max() < tolerance
    assert (again - image).abs().max() <= 1e-12 * image.abs().max()


@pytest.mark.parametrize(
    "method, up, down", [("edict", 100, 100), ("bdia", 50, 49), ("o-belm", 50, 49), ("rex", 100, 100)]
)
def test_evaluations(method, up, down):  # T6
    model, image = CountedDenoiser(waves()), normal(SHAPE, 1)
    report = invert_with_report(model, image, GRID, method)
    assert report.evaluations.tolist() == [up] * 4 and model.num_evaluations == 4 * up
    model.num_evaluations = 0
    reconstruct(model, report.latent, GRID, method, carried=report.carried)
    assert model.num_evaluations == 4 * down
    chosen = inversion_method_named(method)
    assert (chosen.evaluations(GRID), chosen.sampling_evaluations(GRID)) == (up, down)


@pytest.mark.parametrize("method", PAIRS)
def test_an_image_does_not_depend_on_its_batch(method):  # T8
    model, image = waves(), normal(SHAPE, 1)
    together = there_and_back(model, image, method)
    for i in range(4):
        alone = there_and_back(model, image[i : i + 1], method)
        assert_close(together[0].latent[i : i + 1], alone[0].latent, rtol=1e-9, atol=1e-9)
        assert_close(together[1][i : i + 1], alone[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", PAIRS)
def test_both_directions_record_one_path(method):
    # x_{l-1} of step l is x_l of the step before it, upwards and downwards, at every level
    model, up, down = waves(), {}, {}
    report = invert_with_report(
        model, normal(SHAPE, 1), GRID, method, on_step=lambda r: up.update({r.step: r})
    )
    reconstruct(
        model,
        report.latent,
        GRID,
        method,
        carried=report.carried,
        on_step=lambda r: down.update({r.step: r}),
    )
    assert list(up) == list(range(1, 51)) and list(down) == list(range(50, 0, -1))
    for l in range(1, 51):
        assert_close(up[l].x_to, down[l].x_from, rtol=0, atol=1e-9)
        if l > 1:
            assert torch.equal(up[l].x_from, up[l - 1].x_to)
    assert torch.equal(up[50].x_to, report.latent)


@pytest.mark.parametrize("method", PAIRS)
def test_eps_rederived_from_the_clamped_image_is_inverted_too(method):
    model, image = waves(), normal(SHAPE, 1).clamp(-1, 1)
    clipped, again = there_and_back(model, image, method, x0_rule="clip-rederive")
    assert (again - image).abs().max() < 1e-9
    assert (clipped.latent - invert_with_report(model, image, GRID, method).latent).abs().max() > 1e-3


@pytest.mark.parametrize("rule", ["clip", "dynamic"])
def test_a_rule_that_keeps_eps_is_refused(rule):
    with pytest.raises(UsageError) as error:
        invert_with_report(waves(), normal(SHAPE, 1), GRID, "edict", x0_rule=rule)
    assert str(error.value) == (
        f"x0_rule={rule} moves the state by another eps than the network's, and samplers of coupled states are "
        "then not invertible; use x0_rule=none or clip-rederive."
    )


class TestEDICT:
    def test_mixing_halves_by_hand(self):
        # T = 1, p = 1/2, eps = 0: the sampler divides both states by P and mixes, x = (x' + y')/2, y = (x + y')/2.
        # From x_T = 0, y_T = P:  x' = 0, y' = 1, x = 1/2. From x_T = P, y_T = 0:  x = 1/2 too.
        grid = TimestepGrid.build(LINEAR, 1)
        P = math.sqrt(grid.alpha_bar[1])
        method = inversion_method_named("edict", p=0.5)
        carried = {"partner": P * ONE, "rounding": torch.zeros(1, 2, 3, 4, 4, dtype=torch.float64)}
        image = reconstruct(constant(0.0), 0 * ONE, grid, method, carried=carried)
        assert_close(image, 0.5 * ONE, rtol=1e-14, atol=0)

    def test_mixing_contracts_the_gap_by_p_squared_a_step(self):
        # eps = 0: p x + y is kept by mixing and x - y shrinks by p^2, so a change d of y_T alone changes x_0 by
        # d (1 - p^(2 T)) / (1 + p) / sqrt(a_T)
        p, z = 0.93, torch.zeros(1, 2, 3, 4, 4, dtype=torch.float64)
        image = reconstruct(constant(0.0), 0 * ONE, GRID, "edict", carried={"partner": ONE, "rounding": z})
        assert_close(image, ONE * (1 - p**100) / (1 + p) / math.sqrt(A[50]), rtol=1e-12, atol=0)
        assert p**-100 == pytest.approx(1418, rel=1e-3)  # so inverting amplifies it over 50 steps

    def test_gains_of_a_linear_network(self):
        # the published order of operations, written out for numbers: unmix, then undo the two moves
        k, p, x, y = eps_gain(1e-2), 0.93, 1.0, 1.0
        for l in range(1, 51):
            P = math.sqrt(A[l] / A[l - 1])
            Q = math.sqrt(1 - A[l]) - P * math.sqrt(1 - A[l - 1])
            y = (y - (1 - p) * x) / p
            x = (x - (1 - p) * y) / p
            if l % 2 == 0:
                y = P * y + Q * k[l] * x
                x = P * x + Q * k[l] * y
            else:
                x = P * x + Q * k[l] * y
                y = P * y + Q * k[l] * x
        assert gains("edict", 1e-2) == (pytest.approx(x, rel=1e-11), pytest.approx(y, rel=1e-11))
        assert (0.1 * x, 0.1 * y) == (pytest.approx(0.950087, abs=1e-6), pytest.approx(0.950045, abs=1e-6))


class TestBDIA:
    def test_gains_are_those_of_its_definition(self):
        # x_{l+1} = U(x_l) + (x_{l-1} - S(x_l)) / gamma, S and U the DDIM moves with eps = k_l x_l
        k, gamma = eps_gain(1e-4), 0.9
        x = [ONE, ddim_step(ONE, k[1] * ONE, Level.vp(A[0]), Level.vp(A[1]))]
        for l in range(1, 50):
            eps = k[l] * x[l]
            S, U = (
                ddim_step(x[l], eps, Level.vp(A[l]), Level.vp(A[l - 1])),
                ddim_step(x[l], eps, Level.vp(A[l]), Level.vp(A[l + 1])),
            )
            x.append(U + (x[l - 1] - S) / gamma)
        latent, partner = gains("bdia", 1e-4, gamma=gamma)
        assert (latent, partner) == (
            pytest.approx(x[50][0, 0, 0, 0].item(), rel=1e-9),
            pytest.approx(x[49][0, 0, 0, 0].item(), rel=1e-9),
        )

    @pytest.mark.parametrize("gamma", [1.0, 0.5])
    def test_a_kink_in_the_path_grows_by_1_over_gamma_a_step(self, gamma):
        # eps = 1 at the first level and 0 above. In y = x / sqrt(a), with D_l = y_l - y_{l-1}:
        # D_2 = s_2 - s_1, then D_{l+1} = -sqrt(a_{l-1} / a_{l+1}) D_l / gamma, so that
        # |D_T| = (s_2 - s_1) sqrt(a_1 a_2 / (a_{T-1} a_T)) gamma^-(T-2)
        first = float(GRID.network_times[0])
        model = Analytic(lambda x, t: torch.full_like(x, float(t == first)))
        method = inversion_method_named("bdia", gamma=gamma)
        report = invert_with_report(model, ONE, GRID, method)
        D = report.latent / math.sqrt(A[50]) - report.carried["partner"] / math.sqrt(A[49])
        expected = (S[2] - S[1]) * math.sqrt(A[1] * A[2] / (A[49] * A[50])) * gamma**-48
        assert_close(D.abs(), expected * ONE, rtol=1e-8, atol=0)

    def test_half_a_correction_explodes_and_is_shown_as_it_is(self):
        model = waves()
        image = generate(model, normal(SHAPE, 1), GRID)
        method = inversion_method_named("bdia", gamma=0.5)
        report, again = there_and_back(model, image, method)
        assert 1e9 < report.latent.std() < 1e13
        assert (again - image).abs().max() > 1e-6  # not even the exact pair comes back: 2^50 of 2^52 are gone

    def test_more_than_float32_holds_is_an_error(self):
        grid = TimestepGrid.build(LINEAR, 200)
        method = inversion_method_named("bdia", gamma=0.5)
        model = Analytic(lambda x, t: 0.3 * torch.sin(x))  # bounded, so the network itself stays finite
        text = (
            r"inversion method 'bdia' reached \de\+\d+ in sample 7, which float32 cannot hold: its inverse amplifies. "
            r"Use fewer steps or other options\."
        )
        with pytest.raises(WorkError, match=text):
            invert_with_report(model, normal((1, 3, 4, 4), 1, torch.float32), grid, method, sample_ids=[7])

    @pytest.mark.parametrize("gamma", [0, -1, 1.5, "one"])
    def test_gamma_is_between_0_and_1(self, gamma):
        with pytest.raises(
            UsageError, match=f"inversion method 'bdia', option gamma={gamma!r}: Input should be"
        ):
            inversion_method_named("bdia", gamma=gamma)


class TestOBELM:
    @pytest.mark.parametrize("variance, std", [(1e-4, 2.294824), (1e-2, 0.917979), (1.0, 0.990466)])
    def test_latent_of_a_real_image(self, variance, std):
        # the recurrence in y = x / sqrt(a), from an image mode of standard deviation sqrt(variance); published: 2.3
        k = eps_gain(variance)
        y = [
            1 / math.sqrt(A[0]),
            (ddim_step(ONE, k[1] * ONE, Level.vp(A[0]), Level.vp(A[1])) / math.sqrt(A[1]))[0, 0, 0, 0].item(),
        ]
        for l in range(1, 50):
            d1, d2 = S[l] - S[l + 1], S[l - 1] - S[l]
            r, eps = d2 / d1, k[l] * math.sqrt(A[l]) * y[l]
            y.append((y[l - 1] - (1 - r**2) * y[l] - r * (d1 + d2) * eps) / r**2)
        latent, partner = gains("o-belm", variance)
        assert latent == pytest.approx(math.sqrt(A[50]) * y[50], rel=1e-6)
        assert partner == pytest.approx(math.sqrt(A[49]) * y[49], rel=1e-6)
        assert math.sqrt(variance) * abs(latent) == pytest.approx(std, abs=1e-6)

    def test_its_spurious_solution_grows_by_the_square_of_the_steps(self):
        # eps = 1 at the first level and 0 above: D_2 = d_2 = s_2 - s_1, D_{l+1} = -D_l (d_{l+1} / d_l)^2
        first = float(GRID.network_times[0])
        model = Analytic(lambda x, t: torch.full_like(x, float(t == first)))
        report = invert_with_report(model, ONE, GRID, "o-belm")
        D = report.latent / math.sqrt(A[50]) - report.carried["partner"] / math.sqrt(A[49])
        d = np.diff(S)  # d[l-1] = s_l - s_{l-1}
        assert_close(D.abs(), ONE * d[49] ** 2 / d[1], rtol=1e-7, atol=0)

    def test_two_levels_at_the_same_place_are_refused(self):
        grid = TimestepGrid.build(LINEAR, 50, final_alpha_bar="first")
        with pytest.raises(UsageError) as error:
            invert_with_report(waves(), normal(SHAPE, 1), grid, "o-belm")
        assert str(error.value) == (
            "inversion method 'o-belm' needs distinct levels, and levels 0 and 1 are both at alpha_bar=0.9999; "
            "use final_alpha_bar=one, or a grid that starts later."
        )


class TestRex:
    def test_one_step_by_hand(self):
        # T = 1 from x_0 = 1, a_0 = 1, eps = c x: s_0 = 0, h = -s_1 = -s.  H = 1 - h c Y = 1 + s c;
        # Y = (1 - (1 - zeta) H - h c sqrt(a_1) H) / zeta = (1 - H (.001 - s c sqrt(a_1))) / .999
        grid, c = TimestepGrid.build(LINEAR, 1), 0.5
        a, s = grid.alpha_bar[1], math.sqrt((1 - grid.alpha_bar[1]) / grid.alpha_bar[1])
        report = invert_with_report(Analytic(lambda x, t: c * x), ONE, grid, "rex")
        H = 1 + s * c
        Y = (1 - H * (0.001 - s * c * math.sqrt(a))) / 0.999
        assert_close(report.carried["partner"], math.sqrt(a) * H * ONE, rtol=1e-13, atol=0)
        assert_close(report.latent, math.sqrt(a) * Y * ONE, rtol=1e-13, atol=0)

    @pytest.mark.parametrize("variance, std", [(1e-4, 0.999587), (1e-2, 0.959925), (1.0, 0.999794)])
    def test_latent_of_a_real_image_is_nearly_of_unit_variance(self, variance, std):
        latent, partner = gains("rex", variance)
        assert math.sqrt(variance) * latent == pytest.approx(std, abs=1e-6)
        assert partner == pytest.approx(latent, rel=1e-4)
