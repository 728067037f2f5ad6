"""What every registered inversion method promises (the exceptions are in `registered`)."""

import numpy as np
import pytest
import torch
from analytic_denoisers import LINEAR, Analytic, constant, normal
from registered import EXCEPTIONS, ROUNDING, is_step_method, methods, network_and_condition, quick
from torch.testing import assert_close

from taba_core.diffusion import (
    CountedDenoiser,
    TimestepGrid,
    generate,
    invert,
    invert_with_report,
    list_methods,
)
from taba_core.diffusion.inversion import Between, ForwardReplaced, inversion_method_named
from taba_core.errors import UsageError, WorkError

SHAPE = (3, 3, 4, 4)
GRID = TimestepGrid.build(LINEAR, 10)
FIRST = TimestepGrid.build(LINEAR, 10, steps_offset=1, final_alpha_bar="first")
PRECISIONS = pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-12)])


def image_of(dtype=torch.float64):
    return 0.7 * normal(SHAPE, 1, dtype)


def run(name, *, dtype=torch.float64, grid=GRID, wrap=lambda model: model, rows=slice(None), **options):
    method = quick(name)
    model, cond = network_and_condition(method, SHAPE[0])
    cond = {key: value[rows] for key, value in cond.items()}
    given = {"forward_noise": normal(SHAPE, 9, dtype)[rows], "sample_ids": range(10, 13)[rows], **options}
    return invert_with_report(wrap(model), image_of(dtype)[rows], grid, method, cond, **given)


def test_exceptions_are_registered_methods():
    assert {name for law in EXCEPTIONS.values() for name in law} <= set(list_methods())


@PRECISIONS
@pytest.mark.parametrize("grid", [GRID, FIRST], ids=["a_0 = 1", "a_0 < 1"])
@pytest.mark.parametrize("name", methods("state-free network"))
def test_a_constant_network_is_inverted_exactly(name, grid, dtype, tolerance):  # T1
    model, noise = constant(0.3), normal(SHAPE, 0, dtype)
    image = generate(model, noise, grid)
    latent = invert(model, image, grid, name, forward_noise=normal(SHAPE, 9, dtype))
    assert latent.dtype == dtype
    # x_0 is up to sqrt(1 / a_T) = 155 here; its rounding comes back times sqrt(a_T), and once more in each of two
    # coupled states
    assert (latent - noise).abs().max() < 4 * tolerance * ROUNDING.get(name, 1) * noise.abs().max()


@pytest.mark.parametrize("name", methods("state-free network", "target time"))
def test_predictions_that_depend_on_time_alone_bring_every_state_back(name):  # T4
    model = Analytic(lambda x, t: torch.full_like(x, 0.5).mul_(np.sin(0.01 * t + 1)))
    noise, down, up = normal(SHAPE, 0), {}, {}
    image = generate(model, noise, GRID, on_step=lambda r: down.update({r.step: r.x_from}))
    options = dict(forward_noise=normal(SHAPE, 9), on_step=lambda r: up.update({r.step: r.x_to}))
    invert(model, image, GRID, name, **options)
    assert up.keys() == down.keys()
    for step, x in up.items():
        assert (x - down[step]).abs().max() < 1e-11 * down[step].abs().max()


@pytest.mark.parametrize("name", methods(where=is_step_method))
def test_forward_replacement_goes_around_every_step_method(name):  # T5
    counted, noise = [], normal(SHAPE, 9)

    def wrap(model):
        counted.append(CountedDenoiser(model))
        return counted[-1]

    # K = T is forward diffusion without an evaluation
    whole = run(name, forward_steps=10, wrap=wrap)
    a = GRID.alpha_bar[10]
    assert_close(whole.latent, a**0.5 * image_of() + (1 - a) ** 0.5 * noise, rtol=0, atol=1e-14)
    assert counted[-1].num_evaluations == 0 and whole.evaluations.tolist() == [0, 0, 0]
    # K = 3 starts from x_3 and costs what the method says for 7 steps
    steps = []
    part = run(name, forward_steps=3, on_step=steps.append)
    a = GRID.alpha_bar[3]
    assert_close(steps[0].x_from, a**0.5 * image_of() + (1 - a) ** 0.5 * noise, rtol=0, atol=1e-14)
    assert [r.step for r in steps] == list(range(4, 11))
    check_count(part, quick(name), forward_steps=3)
    # K = 0 is the method itself
    assert torch.equal(run(name, forward_steps=0).latent, run(name).latent)


@pytest.mark.parametrize("name", methods(where=lambda method: not is_step_method(method)))
def test_steps_that_are_not_there_cannot_be_replaced(name):
    with pytest.raises(UsageError, match=f"^forward_steps=3: inversion method '{name}' (owns|moves)"):
        run(name, forward_steps=3)


def check_count(report, method, forward_steps=0, grid=GRID):
    expected = method.evaluations(grid, forward_steps)
    low, high = expected if isinstance(expected, Between) else (expected, expected)
    assert all(low <= count <= high for count in report.evaluations.tolist()), (report.evaluations, expected)


@pytest.mark.parametrize("name", methods())
def test_evaluations_are_counted_for_each_image_and_foretold(name):  # T6
    counted = []

    def wrap(model):
        counted.append(CountedDenoiser(model))
        # the encoder of a text model is not a part of the count
        counted[-1].text = getattr(model, "text", None)
        return counted[-1]

    report = run(name, wrap=wrap)
    assert report.evaluations.sum() == counted[-1].num_evaluations
    check_count(report, quick(name))


@pytest.mark.parametrize("name", methods())
def test_measuring_residuals_changes_nothing_else(name):  # T7
    plain, measured = run(name), run(name, measure_residual=True)
    assert torch.equal(plain.latent, measured.latent)
    assert torch.equal(plain.evaluations, measured.evaluations)
    assert measured.residual.shape == measured.fallback.shape == (3, 10)
    if not quick(name).own_grid:
        assert torch.isfinite(measured.residual).all()


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-4), (torch.float64, 1e-10)])
@pytest.mark.parametrize("name", methods())
def test_an_image_does_not_depend_on_its_batch(name, dtype, tolerance):  # T8
    together = run(name, dtype=dtype)
    for i in range(3):
        alone = run(name, dtype=dtype, rows=slice(i, i + 1))
        assert_close(alone.latent[0], together.latent[i], rtol=tolerance, atol=tolerance)
        assert alone.latent.dtype == dtype
        if dtype == torch.float64:  # single precision may stop an iteration one evaluation later
            assert alone.evaluations[0] == together.evaluations[i]
            assert torch.equal(alone.fallback[0], together.fallback[i])
        for key, value in together.carried.items():
            assert_close(alone.carried[key][0], value[i], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", methods())
def test_carried_tensors_have_the_declared_shapes(name):
    report, method = run(name), quick(name)
    _, cond = network_and_condition(method, 3)
    shapes = method.carried_shapes(
        GRID, SHAPE[1:], {key: tuple(value.shape[1:]) for key, value in cond.items()}
    )
    assert {key: tuple(value.shape[1:]) for key, value in report.carried.items()} == shapes


class Weighted(Analytic):
    """A network with a weight that asks for gradients, and remembers whether a graph could have been built."""

    def __init__(self, model):
        super().__init__(None)
        self.model, self.weight = model, torch.ones((), dtype=torch.float64, requires_grad=True)
        self.text, self.graph = getattr(model, "text", None), []

    def eps(self, x_t, t, cond):
        eps = self.weight.to(x_t.dtype) * self.model.eps(x_t, t, cond)
        self.graph.append(eps.requires_grad)
        return eps


@pytest.mark.parametrize("name", methods())
def test_only_gradient_methods_build_a_graph(name):
    seen = []

    def wrap(model):
        seen.append(Weighted(model))
        return seen[-1]

    with torch.enable_grad():
        report = run(name, wrap=wrap)
    assert any(seen[0].graph) == quick(name).needs_gradient
    assert not report.latent.requires_grad
    assert not any(value.requires_grad for value in report.carried.values())


@pytest.mark.parametrize("name", methods())
def test_it_runs_inside_inference_mode(name):
    # workers compute in inference mode, whose tensors autograd refuses
    with torch.inference_mode():
        inside = run(name)
    assert_close(inside.latent.clone(), run(name).latent, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", methods())
def test_a_network_that_returns_nan_is_an_error(name):
    class Broken(Weighted):
        def eps(self, x_t, t, cond):
            eps = super().eps(x_t, t, cond)
            return eps * torch.nan if t > 400 else eps

    with pytest.raises(WorkError, match=r"^the network returned NaN or infinity at t=."):
        run(name, wrap=Broken)


@pytest.mark.parametrize("name", methods(where=lambda method: method.needs_noise))
def test_noise_that_is_needed_and_missing_is_an_error(name):
    with pytest.raises(
        UsageError, match=f"^inversion method '{name}' needs forward_noise; give standard normal"
    ):
        run(name, forward_noise=None)


@pytest.mark.parametrize("name", methods(where=lambda method: method.needs_text))
def test_a_text_method_without_text_is_an_error(name):
    with pytest.raises(UsageError, match=f"^inversion method '{name}' works on a text condition"):
        invert(constant(0.3), image_of(), GRID, inversion_method_named(name))


def test_a_step_method_that_leaves_the_grid_is_caught():
    other = TimestepGrid.build(LINEAR, 20)

    class Elsewhere(type(inversion_method_named("ddim"))):
        def moves(self, problem, first_step):
            return other.upward(first_step)

    with pytest.raises(UsageError, match="levels that are not those of the sampler's grid"):
        invert(constant(0.3), image_of(), GRID, ForwardReplaced(Elsewhere(), 0))
