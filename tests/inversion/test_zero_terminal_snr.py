"""Every inversion method on levels that end in pure noise (alpha = 0), and on a straight flow."""

import numpy as np
import pytest
import torch
from analytic_denoisers import ZERO, Ended, constant, flow_twin, normal
from registered import ROUNDING, methods, quick
from torch.testing import assert_close

from taba_core.diffusion import (
    CountedDenoiser,
    TimestepGrid,
    generate,
    invert,
    invert_with_report,
    reconstruct,
)
from taba_core.diffusion.inversion import Between
from taba_core.errors import UsageError

SHAPE = (2, 3, 4, 4)
FLOW = flow_twin(ZERO)
GRIDS = {
    "zero terminal SNR": TimestepGrid.build(ZERO, 10, "diffusers-trailing"),
    "flow": TimestepGrid.build(FLOW, 10, "diffusers-trailing"),
}
on_both_paths = pytest.mark.parametrize("path", GRIDS)


def given(**options):
    return {"forward_noise": normal(SHAPE, 9), "sample_ids": [10, 11], **options}


def smooth(x, t):
    w = 0.2 + 0.5 * t / 1000
    return w * x + 0.2 * (1 - w) * torch.sin(2 * x + t / 250)


class TextEnded(Ended):
    """Its output is moved by the mean of a prompt's embedding; the empty prompt is zeros."""

    text = property(lambda self: self)

    def encode(self, prompts):
        return {"prompt_embeds": torch.zeros(len(prompts), 2, 3, dtype=torch.float64)}

    def predict(self, x, level, cond):
        shift = 0.3 * cond["prompt_embeds"].mean((1, 2)).view(-1, 1, 1, 1)
        return Ended(lambda x, t: self.f(x, t) + shift, self.schedule, self.output).predict(x, level, cond)


def model_and_condition(name, grid, f=smooth):
    output = "v" if grid.schedule is ZERO else "velocity"
    if not quick(name).needs_text:
        return Ended(f, grid.schedule, output), {}
    embeds = torch.linspace(-1, 1, 12, dtype=torch.float64).view(2, 2, 3)
    return TextEnded(f, grid.schedule, output), {"prompt_embeds": embeds}


@on_both_paths
@pytest.mark.parametrize("name", methods("state-free network"))
def test_a_constant_velocity_is_inverted_exactly(name, path):
    # eps - x_0 = c on every line: all deterministic methods go back the way they came
    grid, noise = GRIDS[path], normal(SHAPE, 0)
    model = Ended(lambda x, t: torch.full_like(x, 0.3), grid.schedule, "velocity")
    image = generate(model, noise, grid)
    latent = invert(model, image, grid, name, **given())
    # o-belm's rounding grows by the square of the ratio of its first and last steps
    assert (latent - noise).abs().max() < 1e-11 * ROUNDING.get(name, 1) * noise.abs().max()


@on_both_paths
@pytest.mark.parametrize("name", methods("state-free network", "target time"))
def test_a_velocity_that_depends_on_time_alone_brings_every_state_back(name, path):
    grid, noise, down, up = GRIDS[path], normal(SHAPE, 0), {}, {}
    model = Ended(lambda x, t: torch.full_like(x, 0.5 * np.sin(0.01 * t + 1)), grid.schedule, "velocity")
    image = generate(model, noise, grid, on_step=lambda r: down.update({r.step: r.x_from}))
    invert(model, image, grid, name, **given(on_step=lambda r: up.update({r.step: r.x_to})))
    assert up.keys() == down.keys()
    for step, x in up.items():
        assert_close(x, down[step], rtol=0, atol=1e-11)


@on_both_paths
@pytest.mark.parametrize("name", methods())
def test_every_method_inverts_counts_and_reconstructs(name, path):
    grid, method = GRIDS[path], quick(name)
    model, cond = model_and_condition(name, grid)
    counted = CountedDenoiser(model)
    image = generate(model, normal(SHAPE, 0), grid, cond)
    report = invert_with_report(counted, image, grid, method, cond, **given())
    expected = method.evaluations(grid)
    low, high = expected if isinstance(expected, Between) else (expected, expected)
    assert all(low <= count <= high for count in report.evaluations.tolist())
    assert report.evaluations.sum() == counted.num_evaluations
    back = reconstruct(model, report.latent, grid, method, cond, carried=report.carried, sample_ids=[10, 11])
    assert torch.isfinite(back).all()


# the sampler's own steps solved to the end, or coupled and retraced: the image comes back
EXACT = {
    "fixed-point": {"num_evaluations": 400},
    "aidi-a": {"num_iterations": 30},
    "exact-dpm-1": {"tolerance": 1e-12, "max_iterations": 2000},
    "exact-dpm-2": {"tolerance": 1e-12, "max_iterations": 2000},
    "edict": {},
    "bdia": {},
    "o-belm": {},
    "rex": {},
    "direct-inversion": {},
    "edit-friendly": {"num_zeroed": 0},
}


@on_both_paths
@pytest.mark.parametrize("name", EXACT)
def test_exact_methods_bring_the_image_back(name, path):
    grid = GRIDS[path]
    model, cond = model_and_condition(name, grid)
    image = generate(model, normal(SHAPE, 0), grid, cond)
    method = type(quick(name))(**EXACT[name])
    report = invert_with_report(model, image, grid, method, cond, measure_residual=True, **given())
    back = reconstruct(model, report.latent, grid, method, cond, carried=report.carried, sample_ids=[10, 11])
    # exact-dpm-2 is exact up to the error of its second-order term
    assert_close(back, image, rtol=0, atol=0.1 if name == "exact-dpm-2" else 1e-6)
    if name in ("fixed-point", "aidi-a", "exact-dpm-1"):
        assert report.residual.max() < 1e-8


@pytest.mark.parametrize("name", methods(where=lambda method: not method.needs_text))
def test_a_network_that_predicts_the_noise_is_refused_before_it_is_asked(name):
    counted = CountedDenoiser(constant(0.3))
    with pytest.raises(
        UsageError, match=r"^the noise schedule ends at alpha=0 \(zero terminal SNR\), where a network"
    ):
        invert(counted, normal(SHAPE, 0), GRIDS["zero terminal SNR"], name, **given())
    assert counted.num_calls == 0


@on_both_paths
def test_forward_replacement_of_all_steps_is_the_noise_itself(path):
    model, noise = Ended(smooth, GRIDS[path].schedule), normal(SHAPE, 9)
    for level in ("exact", "matched"):
        latent = invert(
            model, normal(SHAPE, 1), GRIDS[path], forward_steps=10, forward_level=level, forward_noise=noise
        )
        assert torch.equal(latent, noise)


def test_the_last_step_moves_what_the_network_says_of_the_noise():
    # alpha_T = 0: of v held at the state's level, x_T = eps = sigma x + alpha v
    grid = GRIDS["zero terminal SNR"]
    steps, model = [], Ended(smooth, ZERO, "v")
    invert(model, normal(SHAPE, 1), grid, on_step=steps.append)
    x, below = steps[-1].x_from, grid.levels[-2]
    assert below.alpha > 0.01
    assert_close(steps[-1].x_to, below.sigma * x + below.alpha * smooth(x, 999.0), rtol=0, atol=1e-14)
