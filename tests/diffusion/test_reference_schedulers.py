"""Our grids and loops against the reference's recorded runs and against diffusers itself.

tests/data/sched_*.npz: runs of the reference schedulers with an analytic eps; recorded in float32, tolerance
5e-5 on values up to 10. Recorded guided-diffusion runs are in tests/models/test_adm_golden.py.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from analytic_denoisers import normal, waves
from diffusers import DDIMInverseScheduler, DDIMScheduler
from numpy.testing import assert_allclose, assert_array_equal

from taba_core.diffusion import (
    DDIMInversion,
    NoiseSchedule,
    OraclePrediction,
    TimestepGrid,
    forward_diffuse,
    generate,
    invert,
    step_predictions,
)

DATA = Path(__file__).parents[1] / "data"
# model: (schedule, steps_offset, level 0, x_0 rule of sampling, of inversion)
MODELS = {
    "dit": (NoiseSchedule.linear(), 0, "one", "none", "none"),
    "ldm": (NoiseSchedule.scaled_linear(1000, 0.0015, 0.0195), 0, "one", "none", "none"),
    "if": (NoiseSchedule.cosine(), 0, "one", "dynamic", "clip"),
    "sdxl": (NoiseSchedule.scaled_linear(1000, 0.00085, 0.012), 1, "first", "none", "none"),
}
CASES = [(model, T) for model in MODELS for T in (10, 50)]
TOLERANCE = 5e-5


class Golden:
    """One recorded run and the grid and denoiser it was made with."""

    def __init__(self, model, T):
        self.arrays, self.T = np.load(DATA / f"sched_{model}.npz"), T
        schedule, offset, level_zero, self.down_rule, self.up_rule = MODELS[model]
        self.grid = TimestepGrid.build(schedule, T, "diffusers-leading", offset, level_zero)
        self.denoiser = waves(schedule)

    def __getitem__(self, key):
        return self.arrays[key if key in self.arrays else f"T{self.T}_{key}"]

    def tensor(self, key):
        return torch.from_numpy(self[key])

    def invert(self, **options):
        return invert(self.denoiser, self.tensor("sample"), self.grid, x0_rule=self.up_rule, **options)


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-T{case[1]}")
def golden(request):
    return Golden(*request.param)


def close(actual, expected):
    assert_allclose(np.asarray(actual), expected, rtol=0, atol=TOLERANCE)


def test_schedule_and_timesteps(golden):
    assert_allclose(golden.denoiser.schedule.alpha_bar, golden["alphas_cumprod"], rtol=0, atol=1e-6)
    assert_array_equal(golden.grid.timesteps, golden["inv_timesteps"])
    assert_array_equal(golden.grid.timesteps[::-1], golden["timesteps"])
    assert_allclose(golden.grid.level_zero.alpha_bar, golden["final_alpha_cumprod"][0], rtol=0, atol=1e-6)


def test_sampling_visits_the_recorded_states(golden):
    records = []
    noise = golden.tensor("noise")
    sample = generate(golden.denoiser, noise, golden.grid, x0_rule=golden.down_rule, on_step=records.append)
    close(sample, golden["sample"])
    close(torch.stack([r.x_to for r in records]), golden["sample_x"])
    close(torch.stack([r.eps_t for r in records]), golden["sample_eps"])
    assert [r.step for r in records] == list(range(golden.T, 0, -1))


def test_inversion_visits_the_recorded_states(golden):
    records = []
    close(golden.invert(on_step=records.append), golden["latent"])
    close(torch.stack([r.x_to for r in records]), golden["inv_x"])
    close(torch.stack([r.eps_t for r in records]), golden["inv_eps"])


def test_reconstruction(golden):
    recon = generate(golden.denoiser, golden.tensor("latent"), golden.grid, x0_rule=golden.down_rule)
    close(recon, golden["recon"])


# The reference's SDXL path has the exact rule only; K = T was recorded at T = 10.
FORWARD = [
    (model, T, K, level)
    for model in MODELS
    for level in (["exact"] if model == "sdxl" else ["exact", "matched"])
    for T, K in [(10, 1), (10, 2), (10, 10), (50, 1), (50, 2)]
]
RECORDED = {"exact": "fwdexact", "matched": "fwdnext"}


@pytest.mark.parametrize("model, T, K, level", FORWARD)
def test_forward_replacement(model, T, K, level):
    golden, name, records = Golden(model, T), f"{RECORDED[level]}{K}", []
    noise = golden.tensor("fwd_noise")
    start = forward_diffuse(golden.tensor("sample"), noise, golden.grid.replacement_level(K, level))
    close(start, golden[f"{name}_start"])
    options = dict(forward_steps=K, forward_level=level, forward_noise=noise)
    close(golden.invert(on_step=records.append, **options), golden[f"{name}_latent"])
    assert len(records) == T - K
    if f"T{T}_{name}_x" in golden.arrays:
        close(torch.stack([r.x_to for r in records]), golden[f"{name}_x"])


def test_every_recorded_forward_run_is_tested():
    for model in MODELS:
        recorded = {k for k in np.load(DATA / f"sched_{model}.npz").files if k.endswith("_start")}
        assert recorded == {f"T{T}_{RECORDED[v]}{K}_start" for m, T, K, v in FORWARD if m == model}


def test_two_swapped_predictions(golden):
    eps = golden.tensor("sample_eps")
    method = OraclePrediction(DDIMInversion(), num_swapped=2)
    close(golden.invert(method=method, reference={1: eps[-1], 2: eps[-2]}), golden["swap2_latent"])


def test_cached_state_predictions_of_step_one_are_the_inversions_own(golden):
    # x_{l-1} for l = 1..T is sample_x reversed; in step 1 the inversion stands on x_0 itself (App. J)
    states = golden.tensor("sample_x").flip(0).movedim(0, 1)
    steps = range(1, golden.T + 1)
    eps_hat = step_predictions(golden.denoiser, states, golden.grid, list(steps), x0_rule=golden.up_rule)
    close(eps_hat[:, 0], golden["inv_eps"][0])
    by_hand = golden.denoiser.eps(states[:, 4], float(golden.grid.timesteps[4]), {})
    close(eps_hat[:, 4], by_hand)


# diffusers: T = 30 trailing has steps whose lower level is no grid point; T = 7 trailing ends on timestep 0
LIVE = [
    ("leading", 50, 0, True),
    ("leading", 30, 1, False),
    ("trailing", 30, 0, True),
    ("trailing", 7, 0, True),
]


@pytest.mark.parametrize("spacing, T, offset, to_one", LIVE)
@pytest.mark.parametrize("clip", [False, True])
def test_diffusers_agrees_in_both_directions(spacing, T, offset, to_one, clip):
    config = dict(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        timestep_spacing=spacing,
        steps_offset=offset,
        set_alpha_to_one=to_one,
        clip_sample=clip,
    )
    schedule, rule = NoiseSchedule.scaled_linear(), "clip" if clip else "none"
    grid = TimestepGrid.build(schedule, T, f"diffusers-{spacing}", offset, "one" if to_one else "first")
    denoiser = waves(schedule)
    x = normal((2, 3, 4, 4), seed=1, dtype=torch.float32)

    sampler = DDIMScheduler(**config)
    sampler.set_timesteps(T)
    assert_array_equal(sampler.timesteps.numpy()[::-1], grid.timesteps)
    state = x
    for t in sampler.timesteps:
        state = sampler.step(denoiser.eps(state, float(t), {}), t, state, eta=0.0).prev_sample
    close(generate(denoiser, x, grid, x0_rule=rule), state)

    inverse = DDIMInverseScheduler(**config)
    inverse.set_timesteps(T)
    latent = state
    for t in inverse.timesteps:
        latent = inverse.step(denoiser.eps(latent, float(t), {}), t, latent).prev_sample
    close(invert(denoiser, state, grid, x0_rule=rule), latent)
