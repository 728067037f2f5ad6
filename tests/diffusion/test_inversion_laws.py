"""Laws that every inversion obeys, and the driver's promises."""

from dataclasses import dataclass

import pytest
import torch
from analytic_denoisers import LINEAR, Analytic, constant, gaussian, normal, waves
from torch.testing import assert_close

from taba_core.diffusion import (
    CountedDenoiser,
    DDIMInversion,
    ForwardReplaced,
    NoiseSchedule,
    OraclePrediction,
    TimestepGrid,
    ddim_step,
    generate,
    inversion_method,
    inversion_method_named,
    invert,
    list_methods,
    step_predictions,
)
from taba_core.errors import UsageError

SHAPE = (5, 3, 4, 4)
LEADING = TimestepGrid.build(LINEAR, 50)
TRAILING = TimestepGrid.build(LINEAR, 30, "diffusers-trailing")
GUIDED = TimestepGrid.build(NoiseSchedule.cosine(4000, timestep_scale=0.25), 50, "guided")
GRIDS = {"leading": LEADING, "trailing": TRAILING, "guided": GUIDED}
GUIDED_REVERSE = dict(network_time="source", levels="shifted")


def record(call, *args, **options):
    """Result of generate or invert, and its step records by step."""
    records = []
    result = call(*args, on_step=records.append, **options)
    return result, {r.step: r for r in records}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
@pytest.mark.parametrize("network_time", ["target", "source"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_a_constant_network_is_inverted_exactly(grid, network_time, dtype, tolerance):  # T1
    model, noise = constant(0.3), normal(SHAPE, 0, dtype)
    latent = invert(model, generate(model, noise, grid), grid, network_time=network_time)
    # one float32 rounding of x_0 (up to 150 here: sqrt(1 / a_T) = 155) comes back times sqrt(a_T)
    assert latent.dtype == dtype
    assert (latent - noise).abs().max() < tolerance * max(1.0, noise.abs().max().item())


def test_guided_reverse_of_a_constant_network_is_the_constant():  # T1, exception
    model, noise = constant(0.3), normal(SHAPE, 0)
    latent = invert(model, generate(model, noise, GUIDED), GUIDED, **GUIDED_REVERSE)
    assert torch.equal(latent, torch.full_like(noise, 0.3))


def test_guided_reverse_is_the_published_formula():
    # guided-diffusion ddim_reverse_sample, written out: x_0 = sqrt(1/A_i) x - sqrt(1/A_i - 1) eps, clamped,
    # eps' = (sqrt(1/A_i) x - x_0) / sqrt(1/A_i - 1), x = sqrt(A_{i+1}) x_0 + sqrt(1 - A_{i+1}) eps', A_T = 0
    model, A = waves(GUIDED.schedule), [*GUIDED.upper_alpha_bar, 0.0]
    x_0 = x = normal(SHAPE, 2).clamp(-1, 1)
    for i in range(50):
        eps = model.eps(x, float(GUIDED.network_times[i]), {})
        pred = ((1 / A[i]) ** 0.5 * x - (1 / A[i] - 1) ** 0.5 * eps).clamp(-1, 1)
        eps = ((1 / A[i]) ** 0.5 * x - pred) / (1 / A[i] - 1) ** 0.5
        x = A[i + 1] ** 0.5 * pred + (1 - A[i + 1]) ** 0.5 * eps
    latent = invert(model, x_0, GUIDED, x0_rule="clip-rederive", **GUIDED_REVERSE)
    assert_close(latent, x, rtol=0, atol=1e-10)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
def test_with_the_recorded_predictions_every_state_comes_back(grid):  # T4
    model = waves(grid.schedule)
    image, down = record(generate, model, normal(SHAPE, 1), grid)
    method, reference = OraclePrediction(DDIMInversion()), {l: r.eps_t for l, r in down.items()}
    counted = CountedDenoiser(model)
    _, up = record(invert, counted, image, grid, method, reference=reference)
    for step, r in up.items():
        assert (r.x_to - down[step].x_from).abs().max() < 1e-11 * down[step].x_from.abs().max()
    assert counted.num_calls == 0  # a prediction that is replaced is not computed


def test_swapping_fewer_predictions_leaves_the_rest_to_the_inner_method():
    model = waves()
    image, down = record(generate, model, normal(SHAPE, 1), LEADING)
    reference = {l: r.eps_t for l, r in down.items()}
    for n in (0, 3):
        counted = CountedDenoiser(model)
        latent = invert(counted, image, LEADING, OraclePrediction(DDIMInversion(), n), reference=reference)
        assert counted.num_calls == 50 - n
        if n == 0:
            assert torch.equal(latent, invert(model, image, LEADING))


def test_a_recorded_prediction_is_not_rederived_again():
    # guided-diffusion: x_0 is not clamped in replaced steps, because the recorded eps already went through it
    model, image = waves(GUIDED.schedule), 1.5 * normal(SHAPE, 1)
    options = dict(x0_rule="clip-rederive", reference={1: normal(SHAPE, 2)}, **GUIDED_REVERSE)
    _, up = record(invert, model, image, GUIDED, OraclePrediction(DDIMInversion(), 1), **options)
    expected = ddim_step(image, options["reference"][1], GUIDED.levels[1], GUIDED.levels[2])
    assert_close(up[1].x_to, expected, rtol=0, atol=1e-14)


def test_step_predictions_are_first_unswapped_predictions_of_an_inversion():
    # App. J as written runs one inversion per step; the cached states give the same in one evaluation each
    model = waves()
    image, down = record(generate, model, normal(SHAPE, 1), LEADING)
    reference = {l: r.eps_t for l, r in down.items()}
    steps = [1, 2, 7, 50]
    states = torch.stack([down[l].x_to for l in steps], dim=1)
    eps_hat = step_predictions(model, states, LEADING, steps)
    assert eps_hat.shape == (5, 4, 3, 4, 4)
    for column, l in enumerate(steps):
        _, up = record(
            invert, model, image, LEADING, OraclePrediction(DDIMInversion(), l - 1), reference=reference
        )
        assert_close(eps_hat[:, column], up[l].eps_t, rtol=0, atol=1e-10)


def test_rederived_step_predictions_use_the_level_of_the_network_time():
    # exact state x_{l-1}, network and re-derivation at level l: eps = (x - sqrt(a_l) x_0) / sqrt(1 - a_l)
    model, l = waves(GUIDED.schedule), 3
    x, a = normal((2, 1, 3, 4, 4), 4).clamp(-1, 1) * 1.3, GUIDED.alpha_bar[l]
    raw = model.eps(x[:, 0], float(GUIDED.network_times[l - 1]), {})
    x_0 = ((x[:, 0] - (1 - a) ** 0.5 * raw) / a**0.5).clamp(-1, 1)
    expected = (x[:, 0] - a**0.5 * x_0) / (1 - a) ** 0.5
    actual = step_predictions(model, x, GUIDED, [l], x0_rule="clip-rederive")[:, 0]
    assert (actual - raw).abs().max() > 0.1  # the rule does something here
    assert_close(actual, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("level", ["exact", "matched"])
def test_replacing_no_step_is_plain_inversion_bit_for_bit(level):  # T5
    model, image = waves(), normal(SHAPE, 1, torch.float32)
    plain = invert(model, image, LEADING)
    noise = normal(SHAPE, 9, torch.float32)
    assert torch.equal(invert(model, image, LEADING, forward_level=level, forward_noise=noise), plain)
    assert torch.equal(invert(model, image, LEADING, ForwardReplaced(DDIMInversion(), 0, level)), plain)


@pytest.mark.parametrize(
    "level, conventions, alpha_bar",
    [
        ("exact", {}, LEADING.alpha_bar[50]),
        ("matched", {}, LINEAR.alpha_bar[999]),
        ("exact", GUIDED_REVERSE, 0.0),
    ],
)
def test_replacing_all_steps_is_forward_diffusion_without_evaluations(level, conventions, alpha_bar):  # T5
    model, image, noise = CountedDenoiser(waves()), normal(SHAPE, 1), normal(SHAPE, 9)
    options = dict(forward_steps=50, forward_level=level, forward_noise=noise, **conventions)
    latent = invert(model, image, LEADING, **options)
    assert_close(latent, alpha_bar**0.5 * image + (1 - alpha_bar) ** 0.5 * noise, rtol=0, atol=1e-14)
    assert model.num_calls == 0


@pytest.mark.parametrize("conventions", [{}, GUIDED_REVERSE], ids=["exact levels", "shifted levels"])
@pytest.mark.parametrize("K", [1, 2, 10])
def test_k_replaced_steps_save_k_evaluations_per_image(K, conventions):  # T5, T6
    model = CountedDenoiser(waves())
    noise = normal(SHAPE, 9)
    _, up = record(
        invert, model, normal(SHAPE, 1), LEADING, forward_steps=K, forward_noise=noise, **conventions
    )
    assert (model.num_calls, model.num_evaluations) == (50 - K, (50 - K) * 5)
    assert list(up) == list(range(K + 1, 51))


def test_forward_replacement_wraps_any_method():
    # replaced steps and swapped steps together: with the noise that the generation predicts in step K+1 ...
    model = waves()
    image, down = record(generate, model, normal(SHAPE, 1), LEADING)
    reference = {l: r.eps_t for l, r in down.items()}
    method = ForwardReplaced(OraclePrediction(DDIMInversion()), 4)
    counted = CountedDenoiser(model)
    _, up = record(
        invert, counted, image, LEADING, method, reference=reference, forward_noise=normal(SHAPE, 9)
    )
    assert list(up) == list(range(5, 51)) and counted.num_calls == 0
    # ... each move is the DDIM move with the recorded prediction
    r = up[5]
    assert_close(r.x_to, ddim_step(r.x_from, reference[5], LEADING.levels[4], LEADING.levels[5]))


def test_generation_and_inversion_cost_one_evaluation_per_step_and_image():  # T6
    model = CountedDenoiser(waves())
    image = generate(model, normal(SHAPE, 1), LEADING)
    assert (model.num_calls, model.num_evaluations) == (50, 250)
    invert(model, image, LEADING)
    assert (model.num_calls, model.num_evaluations) == (100, 500)


def test_residual_of_ddim_is_its_error_of_approximation():  # T7
    # r_l = P x_{l-1} + Q eps(x_l) - x_l = Q (eps(x_l) - eps(x_{l-1})), both at the time of level l
    model = waves()
    _, up = record(invert, model, normal(SHAPE, 1), LEADING)
    for move in LEADING.upward():
        r = up[move.step]
        ahead = model.eps(r.x_to, move.network_time, {})
        residual = ddim_step(r.x_from, ahead, move.start, move.stop) - r.x_to
        Q = (1 - move.stop.alpha_bar) ** 0.5 - (move.stop.alpha_bar / move.start.alpha_bar) ** 0.5 * (
            1 - move.start.alpha_bar
        ) ** 0.5
        assert_close(residual, Q * (ahead - r.eps_t), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", ["none", "clip", "clip-rederive", "dynamic"])
def test_an_image_does_not_depend_on_its_batch(rule):  # T8
    model, noise, z = waves(), normal(SHAPE, 1, torch.float32), normal(SHAPE, 9, torch.float32)

    def there_and_back(noise, z):
        image = generate(model, noise, LEADING, x0_rule=rule)
        latent = invert(model, image, LEADING, x0_rule=rule, forward_steps=1, forward_noise=z)
        return torch.cat([image, latent])

    alone = [there_and_back(noise[i : i + 1], z[i : i + 1]) for i in range(5)]
    images, latents = (torch.stack([pair[i] for pair in alone]) for i in (0, 1))
    assert_close(there_and_back(noise, z), torch.cat([images, latents]))


def test_the_two_network_times_differ():
    model = gaussian(1e-4)
    image = generate(model, normal(SHAPE, 1), LEADING)
    target, source = (invert(model, image, LEADING, network_time=t).std() for t in ("target", "source"))
    # closed form at variance 1e-4: std .113 and .466
    assert source / target == pytest.approx(83.623728 / 20.307031, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised_to_float32(dtype):
    seen = set()

    def f(x, t):
        seen.add(x.dtype)
        return 0.5 * x

    model, noise = Analytic(f), normal(SHAPE, 1).to(dtype)
    image = generate(model, noise, LEADING)
    latent = invert(model, image.to(dtype), LEADING, forward_steps=1, forward_noise=noise)
    assert (image.dtype, latent.dtype, seen) == (torch.float32, torch.float32, {torch.float32})


def test_conditioning_reaches_the_network():
    class ByClass(Analytic):
        def eps(self, x_t, t, cond):
            return cond["class_id"].view(-1, 1, 1, 1).to(x_t.dtype).expand_as(x_t)

    cond = {"class_id": torch.arange(5)}
    image, down = record(generate, ByClass(None), normal(SHAPE, 1), LEADING, cond)
    _, up = record(invert, ByClass(None), image, LEADING, "ddim", cond)
    for eps in (down[1].eps_t, up[50].eps_t):
        assert eps[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]


def test_the_loop_keeps_no_gradient():
    image = generate(waves(), normal(SHAPE, 1).requires_grad_(), LEADING)
    assert not image.requires_grad


class TestRegistry:
    def test_ddim_is_registered(self):
        assert "ddim" in list_methods()
        assert inversion_method_named("ddim") == DDIMInversion()

    def test_unknown_method(self):
        with pytest.raises(UsageError, match="unknown inversion method 'dim': did you mean ddim"):
            invert(waves(), normal(SHAPE, 1), LEADING, "dim")

    def test_unknown_option(self):
        with pytest.raises(UsageError) as error:
            inversion_method_named("ddim", num_refinements=2)
        assert str(error.value) == "inversion method 'ddim' has no option 'num_refinements'; it has none."

    def test_options_are_fields(self, monkeypatch):
        monkeypatch.setattr("taba_core.diffusion.inversion.registry._METHODS", {})

        @inversion_method("halved")
        @dataclass(frozen=True)
        class Halved(DDIMInversion):
            factor: float = 0.5

        assert inversion_method_named("halved", factor=0.25) == Halved(0.25)
        with pytest.raises(UsageError) as error:
            inversion_method_named("halved", factr=1)
        assert str(error.value) == "inversion method 'halved' has no option 'factr'; it has: factor."
        with pytest.raises(ValueError, match="inversion method 'halved' is registered twice"):
            inversion_method("halved")(DDIMInversion)


class TestErrors:
    def test_forward_without_noise(self):
        with pytest.raises(UsageError) as error:
            invert(waves(), normal(SHAPE, 1), LEADING, forward_steps=1)
        assert str(error.value) == (
            "forward_steps=1 needs forward_noise; give standard normal numbers of shape (5, 3, 4, 4), "
            "or forward_steps=0."
        )

    def test_more_forward_steps_than_steps(self):
        with pytest.raises(UsageError, match="forward_steps=51 of num_inference_steps=50; use 0 to 50"):
            invert(waves(), normal(SHAPE, 1), LEADING, forward_steps=51, forward_noise=normal(SHAPE, 1))

    def test_swap_without_recorded_predictions(self):
        with pytest.raises(UsageError, match="step 1 is to use the recorded eps_t, and none was given"):
            invert(waves(), normal(SHAPE, 1), LEADING, OraclePrediction(DDIMInversion()))

    def test_states_without_steps(self):
        with pytest.raises(UsageError) as error:
            step_predictions(waves(), torch.zeros(1, 2, 3, 4, 4), LEADING, [1])
        assert str(error.value) == (
            "steps=[1] for states of shape (1, 2, 3, 4, 4): "
            "give one step in 1 to 50 for each entry of axis 1."
        )
